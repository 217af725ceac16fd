"""The checkpoints of a run: which there are, which one a name means, which stay.

Each is one file, `STEP.safetensors`, see `checkpoint_file`. Nothing is removed before what replaces
it is complete and on the disk. A damaged file is skipped with a warning.
"""

import concurrent.futures
import warnings

from jax_seg.runs import checkpoint_file
from jax_seg.system.files import writing


class Checkpoints:
    """A folder of checkpoints, and the one that is being written.

    Attributes:
      directory: Path.
    """

    def __init__(self, directory, *, goodness, keep, pinned):
        """Opens a folder that is there; the arguments say which checkpoints stay.

        Args:
          directory: Path.
          goodness: metrics of a checkpoint -> number, higher for a better one.
          keep: latest checkpoints with metrics that stay; a later one without does, too.
          pinned: () -> step of one more checkpoint that stays, or None.
        """
        self.directory = directory
        self._goodness, self._keep, self._pinned = goodness, keep, pinned
        self._damaged = {}  # step -> `Damaged`, of files known to be damaged
        self._checked = set()  # steps whose arrays were read and compared with their digests
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._under_way = None

    def path(self, step):
        """The file of a step."""
        return self.directory / f"{step}.safetensors"

    def all_steps(self):
        """Steps of the checkpoints in order; those known to be damaged are not among them."""
        return sorted(self._headers())

    def latest_step(self):
        """The newest whole checkpoint; None in a folder without any.

        Raises:
          FileNotFoundError: all of them are damaged.
        """
        return resolve(self, "latest") if self.all_steps() or self._damaged else None

    def best_step(self):
        """The best of those with metrics, the later one of equals; None where none has any."""
        judged = {step: h.metrics for step, h in self._headers().items() if h.metrics is not None}
        return max(judged, key=lambda step: (self._goodness(judged[step]), step), default=None)

    def metrics(self, step):
        """The validation metrics of a checkpoint by name, or None."""
        return checkpoint_file.read_header(self.path(step)).metrics

    def is_whole(self, step):
        """Whether a checkpoint is there and all of it is what was written; else warns."""
        if step not in self._checked:
            try:
                checkpoint_file.check(self.path(step))
            except FileNotFoundError:  # replaced since by the run, which is training
                return False
            except checkpoint_file.Damaged as error:
                self._skip(step, error)
                return False
            self._checked.add(step)
        return True

    def missing(self, name):
        """The error that there is no whole checkpoint of a name, and what there is instead."""
        damaged = ", ".join(
            f"{self.path(step).name} is damaged: {error.reason}"
            for step, error in self._damaged.items()
        )
        steps = self.all_steps()
        if steps:
            why = f" ({damaged})" if damaged else ""
            return FileNotFoundError(
                f"{self.directory} holds no checkpoint {str(name)!r}{why}; choose best, latest or "
                f"one of {', '.join(map(str, steps))}."
            )
        if damaged:
            return FileNotFoundError(
                f"{self.directory} holds no whole checkpoint ({damaged}): restore one from a copy, "
                "or remove the folder to start from the beginning."
            )
        return FileNotFoundError(
            f"{self.directory} holds no checkpoint; train or convert a model first."
        )

    def start_writing(self, step, tree, loop, metrics=None):
        """Write a checkpoint in the background; `wait` raises its errors.

        Args:
          step: its number; a checkpoint that has it is replaced.
          tree, loop, metrics: of `checkpoint_file.write`. They must not change while it is written.
        """
        # Asked now: in the meantime the run may choose another, which is not on the disk yet.
        pinned = self._pinned()
        self._under_way = self._writer.submit(self._write, step, tree, loop, metrics, pinned)

    def wait(self):
        """Wait until the last checkpoint lies on the disk; OSError when it could not be written."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self):
        """Wait for a checkpoint under way, whatever ends the run; an error becomes a warning."""
        try:
            self.wait()
        except OSError as error:
            warnings.warn(str(error), stacklevel=2)
        self._writer.shutdown()

    def _write(self, step, tree, loop, metrics, pinned):
        checkpoint_file.write(self.path(step), tree, loop, metrics=metrics, pinned=pinned)
        self._damaged.pop(step, None)
        headers = self._headers()
        staying = self._preserved(headers, pinned)
        for other in (headers.keys() | self._damaged.keys()) - staying:
            with writing(self.path(other)):
                self.path(other).unlink(missing_ok=True)

    def _preserved(self, headers, pinned):
        """Steps that stay: the best, and what a run may resume from, with what it may return to."""
        judged = sorted(step for step, header in headers.items() if header.metrics is not None)
        resumed = {max(headers), *judged[-self._keep :]}
        return resumed | {headers[step].pinned for step in resumed} | {self.best_step(), pinned}

    def _headers(self):
        found = {}
        for path in self.directory.glob("*.safetensors"):
            if not path.stem.isdecimal() or int(path.stem) in self._damaged:
                continue
            try:
                found[int(path.stem)] = checkpoint_file.read_header(path)
            except FileNotFoundError:  # removed since by the run, which is training
                continue
            except checkpoint_file.Damaged as error:
                self._skip(int(path.stem), error)
        return found

    def _skip(self, step, error):
        self._damaged[step] = error
        warnings.warn(f"{self.path(step)} is damaged ({error.reason}); skipped.", stacklevel=2)


def resolve(manager, name, *, or_best=False):
    """The step that 'best', 'latest' or a number names; its file is whole.

    Where the best or the latest is damaged the next one is taken, with a warning.

    Args:
      manager: Checkpoints.
      name: 'best', 'latest', or a step.
      or_best: take the best, with a warning, where that step is damaged or absent.

    Raises:
      FileNotFoundError: there is no such checkpoint.
    """
    while steps := manager.all_steps():
        if name == "latest":
            step = steps[-1]
        elif name == "best":
            # Before the first evaluation nothing has been judged: the latest stands in.
            best = manager.best_step()
            step = steps[-1] if best is None else best
        elif str(name).isdecimal() and int(name) in steps:
            step = int(name)
        elif or_best:
            step = resolve(manager, "best")
            warnings.warn(
                f"{manager.missing(name)} Checkpoint {step}, the best, stands in.", stacklevel=2
            )
        else:
            break
        if manager.is_whole(step):
            return step
    raise manager.missing(name)
