"""What the user sees of a run: lines on the terminal and in `log.txt`, and a progress bar."""

import contextlib
import logging
import math
import resource
import sys
import warnings
from pathlib import Path

import jax
from tqdm import tqdm

from jax_seg.metrics.segmentation import in_words
from jax_seg.runs.events import Events
from jax_seg.system.files import writing
from jax_seg.tasks import judged


class Journal:
    """Reports a run: lines on the terminal and in `log.txt`, events in files."""

    def __init__(self, workdir, silent=False):
        """A journal of the run in `workdir`; nothing is opened or changed yet, and if silent never.

        One process of a run keeps its journal.
        """
        self._workdir, self._silent = workdir, silent
        self._log, self._events = None, None

    def open(self, epoch, step):
        """Open the log and the events of a run at `epoch` and `step`."""
        if not self._silent:
            self._log, self._events = open_log(self._workdir), Events(self._workdir, epoch, step)

    def say(self, line):
        """Log a line."""
        if not self._silent:
            self._log.info(line)

    def warn(self, line):
        """Log a line as a warning."""
        if not self._silent:
            self._log.warning(line)

    def event(self, kind, **metrics):
        """Write an event, see `Events.write`."""
        if not self._silent:
            self._events.write(kind, **metrics)

    def close(self):
        """Close whatever is open."""
        if self._log:
            close_log(self._log)
        if self._events:
            self._events.close()


@contextlib.contextmanager
def collected_warnings():
    """Yield a list of the sentences that are warned of meanwhile, for the log of a run.

    Where the block fails they are shown after all; warnings of libraries are always shown.
    """
    sentences = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield sentences
            shown = [one for one in caught if one.category is not UserWarning]
            sentences += [str(one.message) for one in caught if one.category is UserWarning]
        except BaseException:
            shown = caught
            raise
        finally:
            for one in shown:
                sys.stderr.write(
                    warnings.formatwarning(one.message, one.category, one.filename, one.lineno)
                )


def open_log(workdir):
    """A logger that prints to standard output and appends to `workdir/log.txt` with timestamps."""
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
    """Close the logger's file and detach it from the terminal."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()


def progress(iterable, description, total, done=0):
    """`iterable` with a progress bar if standard error is a terminal, silent otherwise."""
    return tqdm(
        iterable,
        desc=description,
        total=total,
        initial=done,
        leave=False,
        disable=not sys.stderr.isatty(),
    )


def opening(workdir, state, epoch, about, devices):
    """The opening line: what is trained, where, and on what data (`about`)."""
    parameters = sum(p.size for p in jax.tree.leaves(state.params))
    where = f"resumes in epoch {epoch} at step {int(state.step)}" if state.step else "starts"
    kind = f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind})"
    return f"{workdir} {where}: {parameters:,} parameters on {devices.words(kind)}, {about}"


def judged_on(on, wholes):
    """A caution about the scores of a run; '' if its validation volumes are held out.

    Args:
      on: `JudgedOn` of the validation part.
      wholes: 'volumes' or 'images'.
    """
    return {
        judged.TRAINING: f"The validation {wholes} of this run are training {wholes}: its scores "
        f"show how well it fits them, not how it performs on other {wholes}.",
        judged.UNKNOWN: f"The weights that this run starts with (train.start_from) may have been "
        f"trained on its validation {wholes}: its scores may say nothing about other {wholes}.",
    }.get(on.volumes, "")


def trained(means, terms, learning_rate):
    """An epoch's mean metrics in words: loss with its terms, rate, gradient norm, clipping."""
    summary = f"Loss: {means['loss']:.4f} ({in_words({name: means[name] for name in terms})})"
    summary += f" | learning rate {learning_rate:.3g} | gradient norm {means['gradient_norm']:.3g}"
    if "clipped_share" in means:
        summary += f", {100 * means['clipped_share']:.0f} % clipped"
    return summary


def divergence(metrics, modules, layers, names, *, epoch, batch, workdir):
    """The sentence that ends a run whose loss or gradient is not finite.

    Args:
      metrics: of the update, by name.
      modules: {module of the network: norm of its gradient}.
      layers: those with non-finite results, in order; the error if looking for them failed.
      names: ids of the batch's volumes or images.
      epoch, batch: of the update.
      workdir: folder of the run.
    """
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    bad = [name for name, norm in modules.items() if not math.isfinite(norm)]
    if isinstance(layers, Exception):
        # Every layer's result is kept meanwhile.
        full, reason = "RESOURCE_EXHAUSTED" in str(layers), str(layers).partition("\n")[0]
        why = "memory ran out while looking for it" if full else f"looking for it failed ({reason})"
        where = f"the layer is unknown, since {why}"
    elif layers:
        where = f"the first layer with a non-finite result is {layers[0]}"
    elif bad:
        where = f"every layer's result is finite, but the gradient of {', '.join(bad)} is not"
    else:
        where = "every layer's result is finite"
    return (
        f"Not finite: {', '.join(broken) or 'the gradient'} in epoch {epoch}, batch "
        f"{batch}, of {', '.join(names)}; {where}; the weights are unchanged and the last "
        "checkpoint is kept: inspect these samples and the layer, or lower schedule.learning_rate "
        f"in another --workdir with --config.train.start_from={workdir}@latest."
    )


def sentence(decision):
    """'Intervention - scale: 2, p: 1, …': a decision with its numbers."""
    numbers = {k: v for k, v in decision.items() if k not in ("kind", "epoch")}
    message = ", ".join(
        f"{k}: {v:.4g}" if isinstance(v, float) else f"{k}: {v}" for k, v in numbers.items()
    )
    return f"{decision['kind'].replace('_', ' ').capitalize()} - {message}"


def memory():
    """(peak memory in GiB, its name): of the device if known, else of the process."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**30, "device memory"
    kilobytes = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes / 2**30, "memory"


class _LogFile(logging.FileHandler):
    """A log file; a full disk raises instead of printing a traceback for every line."""

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
