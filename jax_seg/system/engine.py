"""Who computes many small things: this process, workers that it starts, or those of a cluster.

What is computed is a `Work`: a function that prepares a process and returns the function of one
task. A task is a tuple that can be hashed; its text names it on Dask's dashboard. A task may be
done twice, where a worker died at its end, and has to have the same effect then.
"""

import argparse
import collections
import contextlib
import functools
import io
import math
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jax._src import xla_bridge  # there is no public way to ask without starting a backend

from jax_seg.system import startup, workers

DEATHS = 3  # of workers, after which a task is given up
KILLED = (
    f"its worker died {DEATHS} times, perhaps for lack of memory: use fewer workers, or give each "
    "more memory."
)
IN_FLIGHT = 2  # groups of tasks for each worker: one is computed, one waits
GROUP_SECONDS, LARGEST = 1.0, 64  # of a group: how long it takes, and its tasks at most
COUNTED_EVERY = 2.0  # seconds between two counts of the workers
CONNECT = 20  # seconds for a scheduler to answer
WORKERS_WAIT = 60  # seconds for the first worker of a cluster
_ONE_AT_A_TIME = threading.Lock()  # in a worker of a cluster, which may have several threads


class Work(NamedTuple):
    """What a process needs in order to do tasks. It pickles.

    Attributes:
      start: () -> (task -> result); called once in each process. A result pickles. Either function
        raises a ValueError where one task cannot be done, an OSError where others would fail alike.
      threads: of XLA on a CPU, as NPROC; 0 leaves them as they are.
      most: processes that can be of use, where that is known.
      on_device: whether JAX computes; else any number of processes share the devices.
    """

    start: Callable
    threads: int = 0
    most: int | None = None
    on_device: bool = True


class Failure(NamedTuple):
    """A task that could not be done, and why; `fatal` where others would fail equally."""

    sentence: str
    fatal: bool


class Here:
    """This process, task after task."""

    workers = 1
    where = "this process"

    def __init__(self, work):
        self._do = work.start()

    def run(self, tasks):
        """Yield (task, result or `Failure`) for every task."""
        for task in tasks:
            yield task, _attempt(self._do, task)


def _attempt(do, task):
    """What `do` returns, or a `Failure`: a task that cannot be done does not stop the others."""
    try:
        return do(task)
    except ValueError as error:
        return Failure(str(error), fatal=False)
    except OSError as error:
        return Failure(str(error), fatal=True)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        first, *_ = (str(error) or "out of memory").splitlines()
        return Failure(f"its device failed ({first}): give it less at a time.", fatal=False)


class OnDask:
    """Workers of Dask, each started once; a worker that dies is replaced by its nanny.

    Quick tasks are submitted in groups that take about GROUP_SECONDS, since handing out one takes
    a few milliseconds; a group is at most an even share of what waits, so that at the end no
    worker has much to do while others have nothing. At most IN_FLIGHT groups for each worker are
    submitted at a time, so the scheduler's memory does not grow with the tasks. A group during
    which a worker died is submitted again task by task; a task after its second such death is
    submitted alone, so that no other task is blamed, and after DEATHS it fails.
    """

    def __init__(self, work, client, where):
        # Workers of a cluster outlive a command, after which files may change: each starts anew.
        self._client, self._pickled, self.where = client, (_pickled(work), uuid.uuid4().hex), where
        self._counted, self._workers = -math.inf, 1

    @property
    def workers(self):
        """How many there are; asked every COUNTED_EVERY seconds, since that takes milliseconds."""
        if time.monotonic() - self._counted > COUNTED_EVERY:
            found = self._client.scheduler_info(n_workers=-1)["workers"]
            self._counted, self._workers = time.monotonic(), max(len(found), 1)
        return self._workers

    def run(self, tasks):
        """Yield (task, result or `Failure`) for every task, as they finish."""
        from distributed import as_completed

        waiting, again, alone = collections.deque(tasks), collections.deque(), collections.deque()
        deaths = collections.Counter()
        under_way, size = {}, 1
        finished = as_completed()
        while waiting or again or alone or under_way:
            while self._may_submit(waiting or again, alone, under_way):
                if waiting:
                    share = max(len(waiting) // (IN_FLIGHT * self.workers), 1)
                    group = [waiting.popleft() for _ in range(min(size, share))]
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
                    yield group[0], Failure(KILLED, fatal=False)
                else:
                    (alone if deaths[group[0]] > 1 else again).append(group[0])

    def _may_submit(self, waiting, alone, under_way):
        if waiting:
            return len(under_way) < IN_FLIGHT * self.workers
        return bool(alone) and not under_way

    def _submit(self, group, attempt):
        key = f"{group[0]}-{attempt}-{time.monotonic_ns()}"
        # Dask would take tuples apart.
        return self._client.submit(
            on_worker, *self._pickled, pickle.dumps(group), key=key, pure=False
        )


def _result(future):
    """What a future's group returned, a `Failure`, or None where its worker died."""
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker) or future.status == "lost":
        return None
    return Failure(f"{type(error).__name__} on a worker: {error}", fatal=True)


def on_worker(work, command, tasks):
    """(seconds, result or `Failure` of each) of some tasks, done in a worker of Dask.

    Args:
      work: `Work`, pickled.
      command: text that no other command has.
      tasks: list of tasks, pickled.
    """
    with _ONE_AT_A_TIME:
        began = time.monotonic()
        results = [_attempt(lambda one: _start(work, command)(one), t) for t in pickle.loads(tasks)]
        return time.monotonic() - began, results


@functools.lru_cache(1)
def _start(pickled, command):
    work = pickle.loads(pickled)
    if work.threads and os.environ.get("NPROC") != str(work.threads):
        if xla_bridge.backends_are_initialized():
            raise OSError(
                "A worker of the cluster has already computed with another number of threads, on "
                "which the last bits of a prediction depend: restart the workers."
            )
        os.environ["NPROC"] = str(work.threads)
    workers.take_share()
    startup.prepare()
    return work.start()


def _pickled(work):
    import cloudpickle

    return cloudpickle.dumps(work)


def each(function, calls, open_engine):
    """Call a function several times, on workers that run one call at a time.

    What it prints is not shown: runs write a log each. A call whose worker died is made again.

    Args:
      function: of a module, for the workers to import.
      calls: {name: its arguments, a tuple}.
      open_engine: of `opener`.

    Yields:
      (name, result), as they finish.

    Raises:
      ValueError: Dask is not installed, or a call failed; those under way then end with the
        processes that were started for them, while workers of a cluster finish theirs.
    """
    start = functools.partial(_caller, function, calls, Path.cwd())
    with open_engine(Work(start, most=len(calls))) as opened:
        print(f"{len(calls)} runs on {opened.where}; each writes its log.txt", flush=True)
        for name, result in opened.run(list(calls)):
            if isinstance(result, Failure):
                raise ValueError(f"{name}: {result.sentence}")
            yield name, result


def _caller(function, calls, folder):
    return lambda name: _quietly(function, calls[name], folder)


def _quietly(function, arguments, folder):
    """Call a function in the folder that its relative paths mean."""
    unseen = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(unseen),
        contextlib.redirect_stderr(unseen),
    ):
        return function(*arguments)


def count(text):
    """A number of a command line, such as of workers: at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give a number of at least 1")
    return number


def opener(workers=None, scheduler=None):
    """A function that opens an engine: `Work` -> context manager.

    Args:
      workers: number of processes to start on this machine, or None.
      scheduler: address of a running one, or None; without either, this process computes.

    Raises:
      ValueError: both are given.
    """
    return on_workers(workers, scheduler) or (lambda work: contextlib.nullcontext(Here(work)))


def on_workers(workers, scheduler):
    """As `opener`; None without either, for work that this process does in its own way."""
    if scheduler and workers:
        raise ValueError("--scheduler brings its own workers: leave out --workers.")
    if scheduler:
        return lambda work: of_cluster(work, scheduler)
    return (lambda work: local(work, workers)) if workers else None


@contextlib.contextmanager
def local(work, number):
    """`OnDask` with processes that are started on this machine and end with this one.

    Raises:
      ValueError: Dask is not installed, or there are more processes than GPUs.
    """
    environment = {"NPROC": str(work.threads)} if work.threads else {}
    number = min(number, work.most or number)
    if work.on_device:
        workers.require_devices(number)
    with workers.on_this_machine(number, environment) as client:
        yield OnDask(work, client, f"{number} workers{workers.link(client)}")


@contextlib.contextmanager
def of_cluster(work, address):
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
        yield OnDask(work, client, f"the workers of {address}{workers.link(client)}")
