"""What a person sees of a run: lines on the terminal and in `log.txt`, a bar in an epoch."""

import logging
import math
import resource
import sys
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from jax_seg.system.files import writing


def open_log(workdir):
    """A logger that prints to standard output and appends to `workdir/log.txt`, with the time."""
    log = logging.getLogger("jax_seg")
    log.setLevel(logging.INFO)
    log.propagate = False
    close_log(log)
    terminal = _AboveTheBar()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    file = _LogFile(Path(workdir) / "log.txt")
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


def opening(workdir, state, epoch, about):
    """One line that says what is trained, where, and on what: `about` the data."""
    parameters = sum(p.size for p in jax.tree.leaves(state.params))
    where = f"goes on in epoch {epoch} at step {int(state.step)}" if state.step else "starts"
    device = jax.devices()[0]
    return (
        f"{workdir} {where}: {parameters:,} parameters on {device.platform} "
        f"({device.device_kind}), {about}"
    )


def about_volumes(data):
    """How many volumes a `Dataset` has, and what their voxels are."""
    counts = np.sum([facts.counts for facts in data.train_facts], 0)
    background, foreground, masked = 100 * counts / counts.sum()
    return (
        f"{len(data.train)} training and {len(data.validation)} validation volumes; voxels: "
        f"{background:.1f} % background, {foreground:.1f} % foreground, {masked:.1f} % unlabeled"
    )


def trained(means, terms, learning_rate):
    """What an epoch's mean figures say: the loss with its terms, rate, gradient norm, clipping."""
    told = f"Loss: {means['loss']:.4f} ({figures({name: means[name] for name in terms})})"
    told += f" | learning rate {learning_rate:.3g} | gradient norm {means['gradient_norm']:.3g}"
    if "clipped_share" in means:
        told += f", {100 * means['clipped_share']:.0f} % clipped"
    return told


def divergence(figures, modules, layers, names, loop, workdir):
    """The sentence that ends a run whose loss or gradient is not finite.

    Args:
      figures: of the update, by name.
      modules: {module of the network: norm of its gradient}.
      layers: those whose results are not finite, in order; None where they are not known.
      names: ids of the batch's volumes or images.
      loop: `train.Loop`.
      workdir: folder of the run.
    """
    broken = [name for name, value in figures.items() if not math.isfinite(value)]
    bad = [name for name, norm in modules.items() if not math.isfinite(norm)]
    if layers is None:
        where = "there was no memory to look for the layer"
    elif layers:
        where = f"the first layer with such a result is {layers[0]}"
    elif bad:
        where = f"every layer's result is finite, but the gradient of {', '.join(bad)} is not"
    else:
        where = "every layer's result is finite"
    return (
        f"Not finite: {', '.join(broken) or 'the gradient'} in epoch {loop.epoch}, batch "
        f"{loop.batches - 1}, of {', '.join(names)}; {where}; the weights were not touched and the "
        "checkpoint before stays: look at what is named here, or lower schedule.learning_rate in "
        f"another --workdir that goes on with --config.train.start_from={workdir}@latest."
    )


def sentence(decision):
    """'Intervention - scale: 2, p: 1, …': a decision with its numbers."""
    numbers = {k: v for k, v in decision.items() if k not in ("kind", "epoch")}
    told = ", ".join(
        f"{k}: {v:.4g}" if isinstance(v, float) else f"{k}: {v}" for k, v in numbers.items()
    )
    return f"{decision['kind'].replace('_', ' ').capitalize()} - {told}"


def memory():
    """Peak memory: of the device where it is known, else of the process, in GiB, with its name."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**30, "device memory"
    kilobytes = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes / 2**30, "memory"


class _LogFile(logging.FileHandler):
    """A file of log lines; a full disk raises, instead of a traceback printed for every line."""

    def __init__(self, path):
        with writing(path):
            super().__init__(path)

    def handleError(self, record):
        with writing(self.baseFilename):
            raise

    def close(self):
        with writing(self.baseFilename):
            super().close()


class _AboveTheBar(logging.Handler):
    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()
