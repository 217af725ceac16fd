"""What a person sees of a run: lines on the terminal and in `log.txt`, a bar in an epoch."""

import logging
import resource
import sys
from pathlib import Path

import jax
from tqdm import tqdm


def open_log(workdir):
    """A logger that prints to standard output and appends to `workdir/log.txt`, with the time."""
    log = logging.getLogger("jax_seg")
    log.setLevel(logging.INFO)
    log.propagate = False
    close_log(log)
    terminal = _AboveTheBar()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    file = logging.FileHandler(Path(workdir) / "log.txt")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for handler in (terminal, file):
        log.addHandler(handler)
    return log


def close_log(log):
    """Close the logger's file and let go of the terminal."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()


def progress(iterable, description, total, done=0):
    """`iterable` with a progress bar where standard error is a terminal, silent otherwise."""
    return tqdm(
        iterable,
        desc=description,
        total=total,
        initial=done,
        leave=False,
        disable=not sys.stderr.isatty(),
    )


def figures(values):
    """'dice: 0.4845, focal: 0.1605' from a dict."""
    return ", ".join(f"{name}: {value:.4f}" for name, value in values.items())


def memory():
    """Peak memory: of the device where it is known, else of the process, in GiB, with its name."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**30, "device memory"
    kilobytes = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes / 2**30, "memory"


class _AboveTheBar(logging.Handler):
    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()
