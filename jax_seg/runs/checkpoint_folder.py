"""The checkpoints of a run on disk: which exist, which are intact, which one a name refers to.

A checkpoint is a folder `checkpoints/save_NUMBER`. The number is twice the step, plus one at the
end of an epoch: a save within an epoch and the one at its end can have the same step, and neither
may be removed before the other is complete. Orbax writes beside and renames, and renames before it
deletes. So a folder named save_NUMBER is complete unless it was damaged later, which its checksums
reveal.
"""

import contextlib
import errno
import math
import os
import re
import shutil
import threading
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

from orbax.checkpoint._src.futures import future

from jax_seg.system.files import read_json, unwritable, write_json

HIGHER_IS_BETTER = {"loss": False, "dice": True, "iou": True}
PREFIX, REMOVED, DAMAGED = "save", "removed", "damaged_"
CHECKSUMS = "checksums.json"


class Checkpoint(NamedTuple):
    """One checkpoint on the disk.

    Attributes:
      step: number of updates of the state.
      path: its folder.
      loop: dict saved beside the state.
      metrics: validation metrics by name; None for a save within an epoch.
    """

    step: int
    path: Path
    loop: dict
    metrics: dict | None


class Checkpoints:
    """The checkpoints of a run, listed anew at each call, since the run may be writing them.

    Attributes:
      directory: their folder, a Path.
      manager: Orbax's checkpoint manager; None for reading only.
    """

    def __init__(self, directory, metric, manager=None):
        """The checkpoints in `directory`; `metric` chooses the best."""
        self.directory, self.manager, self._metric = directory, manager, metric
        self._damaged = {}  # folder -> why
        self._failed = False  # whether an error of writing was raised

    def found(self):
        """{step: `Checkpoint`} in order; of two with the same step, the one at the epoch's end.

        Damaged checkpoints are skipped with a warning.
        """
        found = {}
        for number, path in sorted(_numbered(self.directory)):
            if path in self._damaged:
                continue
            try:
                found[number // 2] = _read_beside(number, path)
            except FileNotFoundError as error:
                if path.exists():  # else the training run has removed it meanwhile
                    self.skip(path, error)
            except Exception as error:  # a damaged file breaks its reader in many ways
                self.skip(path, error)
        return found

    def skip(self, path, error):
        """Mark a checkpoint as damaged and warn."""
        self._damaged[path] = reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        warnings.warn(f"{path} is damaged ({reason}); skipping it.", stacklevel=2)

    def latest_step(self):
        """The newest step; None without a checkpoint."""
        return max(self.found(), default=None)

    def best_step(self):
        """The best step among those with metrics, the later of equals; None without any."""
        judged = {step: one.metrics for step, one in self.found().items() if one.metrics}
        goodness = goodness_by(self._metric)
        return max(judged, key=lambda step: (goodness(judged[step]), step), default=None)

    def resolve(self, name):
        """The step that 'best', 'latest' or a number names.

        Raises:
          FileNotFoundError: there is no such checkpoint.
        """
        steps = list(self.found())
        if not steps:
            self.require_whole()
            raise FileNotFoundError(
                f"{self.directory} holds no checkpoint; train or convert a model first."
            )
        if name == "latest":
            return steps[-1]
        if name == "best":
            # Before the first evaluation no checkpoint has metrics: fall back to the latest.
            best = self.best_step()
            return steps[-1] if best is None else best
        if not str(name).isdecimal() or int(name) not in steps:
            raise FileNotFoundError(
                f"{self.directory} holds no checkpoint {str(name)!r}{self._why_not(name)}; choose "
                f"best, latest or one of {', '.join(map(str, steps))}."
            )
        return int(name)

    def _why_not(self, step):
        """' (… is damaged: …)' where that is why there is no checkpoint of a step, else ''."""
        for path, reason in self._damaged.items():
            if str(_number(path) // 2) == str(step):
                return f" ({path.name} is damaged: {reason})"
        return ""

    def skip_damaged(self):
        """Read every checkpoint to its end, and skip those that are not as they were written."""
        for one in self.found().values():
            self._is_whole(one)

    def _is_whole(self, one):
        try:
            _check(one.path)
        except (OSError, ValueError) as error:
            if one.path.exists():  # else the run that is training has removed it meanwhile
                self.skip(one.path, error)
        return one.path.exists() and one.path not in self._damaged

    def set_damaged_aside(self):
        """Rename every damaged checkpoint, so that its number is free again.

        Raises:
          FileNotFoundError: there are checkpoints, but none is intact.
        """
        self.skip_damaged()
        self.require_whole()
        for path in self._damaged:
            aside = path.with_name(DAMAGED + path.name)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)

    def whole(self, name):
        """The intact `Checkpoint` that a name of `resolve` refers to.

        If the best or the latest is damaged, the next one is used, with a warning.
        """
        while True:
            found = self.found()
            one = found.get(self.resolve(name))
            if one is not None and self._is_whole(one):
                return one

    def require_whole(self):
        """Raise FileNotFoundError if there are checkpoints, but none is intact."""
        if self._damaged and not self.found():
            path, reason = next(iter(self._damaged.items()))
            raise FileNotFoundError(
                f"{self.directory} holds no intact checkpoint ({path.name} is damaged: {reason}): "
                "restore one from a copy, or choose another --workdir to train again."
            )

    @contextlib.contextmanager
    def writing(self):
        """Say in a sentence which folder could not be written, and what to do.

        Raises:
          OSError: nothing could be written, for example because the disk is full.
        """
        try:
            yield
        except (OSError, ValueError) as error:
            self._failed = True
            raise _in_a_sentence(self.directory, error) from error

    def close(self):
        """Wait for a save under way and let go of Orbax's threads.

        A save that failed is a warning, unless its error was raised before.
        """
        if self.manager is None:
            return
        for _ in range(3):  # each of Orbax's threads can have failed, and close reports one
            try:
                self.manager.close()
                break
            except (OSError, ValueError) as error:
                if not self._failed:
                    warnings.warn(str(_in_a_sentence(self.directory, error)), stacklevel=2)
                self._failed = True
        if self._failed:
            _release_threads()


def _release_threads():
    """End the threads of a save that failed, which would wait for one another for five minutes.

    Orbax has no public way to; Python waits for them before it ends.
    """
    for thread in threading.enumerate():
        if signals := getattr(thread, "_receive_signals", None):
            thread.cancel()
            future.set_signals(signals, operation_id=thread._operation_id)


def _in_a_sentence(folder, error):
    """The `files.unwritable` of an error of Orbax's; another error than the system's stays."""
    if not isinstance(error, OSError):  # TensorStore's; it names the error in its text
        number = re.search(r"os_error_code='(\d+)'", str(error))
        numbers = [int(number[1])] if number else errno.errorcode
        number = next((n for n in numbers if os.strerror(n) in str(error)), None)
        if number is None:
            return error
        error = OSError(number, os.strerror(number))
    return unwritable(folder, error)


def goodness_by(metric):
    """metrics -> a number that is higher for a better checkpoint."""

    def goodness(metrics):
        value = metrics.get(metric)  # whole volumes are not evaluated every epoch
        if value is None:
            return -math.inf
        return value if HIGHER_IS_BETTER[metric] else -value

    return goodness


def clean(folder):
    """Remove what an interrupted save or removal left; no other process may be writing here."""
    for unfinished in (*folder.glob("*.orbax-checkpoint-tmp*"), folder / REMOVED):
        shutil.rmtree(unfinished, ignore_errors=True)


def seal(folder):
    """Write missing checksums of checkpoints, and remove what Orbax has marked as deleted."""
    shutil.rmtree(folder / REMOVED, ignore_errors=True)
    for _, path in _numbered(folder):
        if not (path / CHECKSUMS).exists():
            write_json(path / CHECKSUMS, _checksums(path))


def _numbered(folder):
    """(number, path) of every folder with the name of a complete checkpoint."""
    for path in folder.glob(f"{PREFIX}_*"):
        if path.name.removeprefix(f"{PREFIX}_").isdecimal():
            yield _number(path), path


def _number(path):
    return int(path.name.removeprefix(f"{PREFIX}_"))


def _read_beside(number, path):
    """The `Checkpoint` of a folder; any exception if a file is missing, truncated or damaged."""
    at_the_end_of_an_epoch = number % 2
    for name in ("_CHECKPOINT_METADATA", "state/_METADATA"):
        read_json(path / name)
    if not (path / "state" / "manifest.ocdbt").stat().st_size:
        raise ValueError("state/manifest.ocdbt is empty")
    return Checkpoint(
        step=number // 2,
        path=path,
        loop=read_json(path / "loop" / "metadata"),
        metrics=read_json(path / "metrics" / "metrics") if at_the_end_of_an_epoch else None,
    )


def _checksums(path):
    """{name: [bytes, CRC-32]} of the files of a checkpoint, except the file of checksums."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {
        str(file.relative_to(path)): [file.stat().st_size, zlib.crc32(file.read_bytes())]
        for file in files
        if CHECKSUMS not in file.name
    }


def _check(path):
    """Raise ValueError, naming the file, if one differs from its checksum.

    A run that is killed just after Orbax renames a folder leaves it complete but without checksums.
    """
    if not (path / CHECKSUMS).exists():
        return
    written, now = read_json(path / CHECKSUMS), _checksums(path)
    for name in sorted(written.keys() | now.keys()):
        if name not in now:
            raise ValueError(f"{name} is missing")
        if now[name] != written.get(name):
            raise ValueError(f"{name} has changed since it was written")
