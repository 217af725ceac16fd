"""Who computes blocks: this process, workers that it starts, or those of a cluster.

A task is the number of a pass and a block. Whoever computes it writes its files and then its
record, so a task that is lost, or done twice, leaves the same bytes.
"""

import collections
import contextlib
import functools
import math
import os
import pickle
import time
from typing import NamedTuple

from jax_seg.infer.blocks import passes, records
from jax_seg.system import startup, workers

DEATHS = 3  # of workers, after which a block is given up
IN_FLIGHT = 2  # groups of blocks for each worker: one is computed, one waits
GROUP_SECONDS, LARGEST = 1.0, 64  # of a group: how long it takes, and its blocks at most
COUNTED_EVERY = 2.0  # seconds between two counts of the workers
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

    Quick blocks are submitted in groups that take about GROUP_SECONDS, since handing out a task
    takes a few milliseconds. At most IN_FLIGHT groups for each worker are submitted at a time, so
    the scheduler's memory does not grow with the job. A group during which a worker died is
    submitted again block by block; a block after its second such death is submitted alone, so that
    no other block is blamed, and after DEATHS it fails.
    """

    def __init__(self, job, client, where):
        self._client, self._pickled, self.where = client, _pickled(job), where
        self._counted, self._workers = -math.inf, 1

    @property
    def workers(self):
        """How many there are; asked every COUNTED_EVERY seconds, since that takes milliseconds."""
        if time.monotonic() - self._counted > COUNTED_EVERY:
            found = self._client.scheduler_info(n_workers=-1)["workers"]
            self._counted, self._workers = time.monotonic(), max(len(found), 1)
        return self._workers

    def run(self, tasks):
        """Yield (task, record or `Failure`) for every task, as they finish."""
        from distributed import as_completed

        waiting, again, alone = collections.deque(tasks), collections.deque(), collections.deque()
        deaths = collections.Counter()
        under_way, size = {}, 1
        finished = as_completed()
        while waiting or again or alone or under_way:
            while self._may_submit(waiting or again, alone, under_way):
                if waiting:
                    group = [waiting.popleft() for _ in range(min(size, len(waiting)))]
                else:
                    group = [(again or alone).popleft()]
                future = self._submit(group, deaths[group[0]])
                under_way[future] = group
                finished.add(future)
            future = next(finished)
            group, result = under_way.pop(future), _result(future)
            del future
            if isinstance(result, Failure):
                yield group[0], result
            elif result is not None:
                seconds, results = result
                size = min(max(int(GROUP_SECONDS * len(group) / max(seconds, 1e-6)), 1), LARGEST)
                yield from zip(group, results, strict=True)
            elif len(group) > 1:
                again.extend(group)
            else:
                deaths[group[0]] += 1
                if deaths[group[0]] == DEATHS:
                    yield group[0], Failure(f"killed its worker {DEATHS} times", fatal=False)
                else:
                    (alone if deaths[group[0]] > 1 else again).append(group[0])

    def _may_submit(self, waiting, alone, under_way):
        if waiting:
            return len(under_way) < IN_FLIGHT * self.workers
        return bool(alone) and not under_way

    def _submit(self, group, attempt):
        first = group[0]
        key = f"block-{first.number}-{records.name_of(first.index)}-{attempt}-{time.monotonic_ns()}"
        tasks = [tuple(task) for task in group]
        return self._client.submit(on_worker, self._pickled, tasks, key=key, pure=False)


def _result(future):
    """What a future's group returned, a `Failure`, or None where its worker died."""
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker) or future.status == "lost":
        return None
    return Failure(f"{type(error).__name__} on a worker: {error}", fatal=True)


def on_worker(pickled, tasks):
    """(seconds, record or `Failure` of each) of some tasks, computed in a worker of Dask."""
    do, began = _load(pickled).do, time.monotonic()
    results = [_attempt(do, Task(*task)) for task in tasks]
    return time.monotonic() - began, results


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
