"""Processes of Dask on this machine, each with a device of its own, for what `engine` hands out."""

import contextlib
import importlib.util
import logging
import os

from jax_seg.system import processes, startup

MISSING = (
    "Dask is not installed, which --workers and --scheduler need: "
    "install it with pip install 'jax-seg[scale]', or leave them out."
)


def dask_and_distributed():
    """The modules `dask` and `distributed`, which print nothing of their own.

    Raises:
      ValueError: they are not installed.
    """
    try:
        import dask
        import distributed
    except ModuleNotFoundError as error:
        raise ValueError(MISSING) from error
    for name in logging.root.manager.loggerDict:  # each has a level of its own
        if name.split(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return dask, distributed


@contextlib.contextmanager
def on_this_machine(workers, environment=None):
    """A client of Dask with processes that are started here and end with this one.

    Args:
      workers: number of processes, each of which computes one thing at a time.
      environment: {name: value} for them.

    Yields:
      `distributed.Client`.

    Raises:
      ValueError: Dask is not installed.
    """
    dask, distributed = dask_and_distributed()
    settings = {
        # A worker that died twice within it, or starts slowly, would not be started again.
        "distributed.deploy.lost-worker-timeout": "24h",
        "distributed.scheduler.allowed-failures": 0,  # whoever submits decides
        "distributed.worker.multiprocessing-method": "spawn",  # JAX does not survive a fork
        # In place before a worker imports Dask, which then sets up its log.
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
        "distributed.comm.timeouts.connect": "60s",
    }
    env = {"JAX_SEG_WORKERS": str(workers)}
    with dask.config.set(settings), contextlib.ExitStack() as opened:
        cluster = opened.enter_context(
            distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,  # a paused worker would never go on
                env=env | (environment or {}),
                silence_logs=logging.CRITICAL,
                dashboard_address="127.0.0.1:0",
            )
        )
        yield opened.enter_context(distributed.Client(cluster))


def link(client):
    """Where the dashboard is, for the end of a sentence."""
    if importlib.util.find_spec("bokeh") is None:
        return " (pip install bokeh for Dask's dashboard)"
    return f" (dashboard: {client.dashboard_link})"


def require_devices(workers):
    """Raise a ValueError where there are GPUs, but fewer than workers."""
    if 0 < (available := len(_devices())) < workers:
        raise ValueError(
            f"--workers is {workers}, but there are {available} GPUs, and each worker takes one "
            f"as a whole: give at most {available}."
        )


def take_share():
    """In a worker, before JAX computes: one GPU for each; on a CPU its share of the processors.

    On a CPU the number of XLA's threads stays: the last bits of a product depend on it, but its
    speed on the processors that there are does not.
    """
    from distributed import get_worker

    with contextlib.suppress(ValueError):  # on a cluster, workers are named otherwise
        _take_share(int(get_worker().name), int(os.environ.get("JAX_SEG_WORKERS", "1")))


def _devices():
    """Names of the GPUs that JAX would compute on; none where it computes on the CPU."""
    on_cpu = os.environ.get("JAX_PLATFORMS", "").startswith("cpu")
    return processes.gpus() if startup.has_plugin() and not on_cpu else []


def _take_share(number, workers):
    if devices := _devices():
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    elif hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        share = max(len(cores) // workers, 1)
        first = number * share % len(cores)
        os.sched_setaffinity(0, cores[first : first + share])
