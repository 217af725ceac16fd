"""Who computes blocks: this process, workers that it starts, or those of a cluster.

A task is the number of a pass and a block. Whoever computes it writes its files and then its
record, so a task that is lost, or done twice, leaves the same bytes.
"""

import collections
import contextlib
import functools
import os
import pickle
import time
from typing import NamedTuple

from jax_seg.infer.blocks import passes, records
from jax_seg.system import startup, workers

DEATHS = 3  # of workers, after which a block is given up
IN_FLIGHT = 2  # blocks for each worker: one is computed, one waits
CONNECT = 20  # seconds for a scheduler to answer
WORKERS_WAIT = 60  # seconds for the first worker of a cluster


class Failure(NamedTuple):
    """A block that could not be computed, and why; `fatal` where others would fail equally."""

    sentence: str
    fatal: bool


class Task(NamedTuple):
    """One block of a pass, and the digest of what it is made from."""

    number: int
    index: tuple
    sources: str


class Loaded:
    """A job in one process: its networks are loaded when a block needs them, once."""

    def __init__(self, job):
        self.job = job
        self._segment = None
        self.passes = passes.plan(job, self._run)

    def _run(self, part):
        if self._segment is None:
            self._segment = self.job.load()
        return self._segment(part)

    def do(self, task):
        """Compute a block and write its record, which is returned."""
        one = self.passes[task.number]
        facts = one.run(task.index)
        written = one.output.record(task.index)
        if written is None:
            raise OSError(f"{one.output} lost block {task.index} while it was written.")
        content = {"settings": self.job.digest, **written, "sources": task.sources, **facts}
        records.write(f"{self.job.records}/{one.name}", task.index, content)
        return content


class Here:
    """This process, block after block."""

    workers = 1
    where = "this process"

    def __init__(self, job):
        self._loaded = Loaded(job)

    def run(self, tasks):
        """Yield (task, record or `Failure`) for every task."""
        for task in tasks:
            yield task, _attempt(self._loaded.do, task)


def _attempt(do, task):
    """What `do` returns, or a `Failure`: a block that cannot be read does not stop the others."""
    try:
        return do(task)
    except ValueError as error:
        return Failure(str(error), fatal=False)
    except OSError as error:
        return Failure(str(error), fatal=True)


class OnDask:
    """Workers of Dask, each with the job loaded once; a worker that dies is replaced by its nanny.

    At most IN_FLIGHT blocks for each worker are submitted at a time, so the scheduler's memory does
    not grow with the job. A block during which a worker died is submitted again; after its second
    such death it is submitted alone, so that no other block is blamed, and after DEATHS it fails.
    """

    def __init__(self, job, client, where):
        self._client, self._pickled, self.where = client, _pickled(job), where

    @property
    def workers(self):
        """How many there are now."""
        return max(len(self._client.scheduler_info(n_workers=-1)["workers"]), 1)

    def run(self, tasks):
        """Yield (task, record or `Failure`) for every task, as they finish."""
        from distributed import as_completed

        waiting, alone = collections.deque(tasks), collections.deque()
        deaths = collections.Counter()
        under_way = {}
        finished = as_completed()
        while waiting or alone or under_way:
            while self._may_submit(waiting, alone, under_way):
                task = waiting.popleft() if waiting else alone.popleft()
                future = self._submit(task, deaths[task])
                under_way[future] = task
                finished.add(future)
            future = next(finished)
            task = under_way.pop(future)
            result = _result(future)
            if result is None:
                deaths[task] += 1
                if deaths[task] == DEATHS:
                    yield task, Failure(f"killed its worker {DEATHS} times", fatal=False)
                else:
                    (alone if deaths[task] > 1 else waiting).append(task)
            else:
                yield task, result
            del future

    def _may_submit(self, waiting, alone, under_way):
        if waiting:
            return len(under_way) < IN_FLIGHT * self.workers
        return bool(alone) and not under_way

    def _submit(self, task, attempt):
        key = f"block-{task.number}-{records.name_of(task.index)}-{attempt}-{time.monotonic_ns()}"
        return self._client.submit(on_worker, self._pickled, tuple(task), key=key, pure=False)


def _result(future):
    """What a future's block returned, a `Failure`, or None where its worker died."""
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker) or future.status == "lost":
        return None
    return Failure(f"{type(error).__name__} on a worker: {error}", fatal=True)


def on_worker(pickled, task):
    """Compute a task in a worker of Dask."""
    return _attempt(_load(pickled).do, Task(*task))


@functools.lru_cache(1)
def _load(pickled):
    job = pickle.loads(pickled)
    # Before JAX computes anything in this process.
    if job.threads:
        os.environ["NPROC"] = str(job.threads)
    workers.take_share()
    startup.prepare()
    return Loaded(job)


def _pickled(job):
    import cloudpickle

    return cloudpickle.dumps(job)


@contextlib.contextmanager
def local(job, count):
    """`OnDask` with processes that are started on this machine and end with this one.

    Raises:
      ValueError: Dask is not installed.
    """
    environment = {"NPROC": str(job.threads)} if job.threads else {}
    with workers.on_this_machine(count, environment) as client:
        yield OnDask(job, client, f"{count} workers{workers.link(client)}")


@contextlib.contextmanager
def of_cluster(job, address):
    """`OnDask` with the workers of a running cluster.

    Raises:
      ValueError: Dask is not installed, or no scheduler or worker answers.
    """
    _, distributed = workers.dask_and_distributed()
    try:
        client = distributed.Client(address, timeout=CONNECT)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--scheduler {address} does not answer ({type(error).__name__}): check the address, "
            "as tcp://HOST:8786, and that the scheduler is running."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_WAIT)
        except TimeoutError as error:
            raise ValueError(
                f"--scheduler {address} has no worker after {WORKERS_WAIT} s: start workers, or "
                "wait until the cluster has started them."
            ) from error
        yield OnDask(job, client, f"the workers of {address}{workers.link(client)}")
