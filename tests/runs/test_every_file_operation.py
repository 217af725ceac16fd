"""A save that is cut off at any file operation leaves a folder that a run resumes from."""

import os
import pathlib
import shutil
import sys
from typing import NamedTuple

import pytest

from jax_seg.runs import checkpoints
from jax_seg.system.files import remove_unfinished
from tests.runs.states import ABSTRACT, assert_same_state, position, state_of


class Cut(BaseException):
    """The process is killed here: nothing clears up behind it."""


class Disk:
    """Operations on the files of a folder: from the `last` on none is carried out any more.

    Python reports most of them to audit hooks, before they happen; a write and a flush to the disk
    are reported by the test.
    """

    folder, last, seen = None, 0, ()

    def report(self, what, path):
        if self.folder is not None and str(path).startswith(self.folder):
            self.seen += ((what, pathlib.Path(path).name),)
            if len(self.seen) >= self.last:
                raise Cut

    def audit(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | os.PathLike) and flags & (os.O_WRONLY | os.O_RDWR):
                self.report("open", path)
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"):
            self.report(event, os.fspath(arguments[0]))


DISK = Disk()
sys.addaudithook(DISK.audit)  # it cannot be taken away again; without a folder it does nothing


@pytest.fixture
def reported(monkeypatch):
    """Writes in two halves, and flushes, are operations too."""
    fsync = os.fsync

    def in_halves(self, content):
        with self.open("wb", buffering=0) as file:
            for half in (content[: len(content) // 2], content[len(content) // 2 :]):
                DISK.report("write", self)
                file.write(half)

    def flushed(descriptor):
        DISK.report("fsync", pathlib.Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(pathlib.Path, "write_bytes", in_halves)
    monkeypatch.setattr(os, "fsync", flushed)
    yield
    DISK.folder = None


class Save(NamedTuple):
    """One of a run: its metrics, or None within an epoch, and the run's best by then."""

    step: int
    loss: float | None
    best: int | None


RUN = (
    Save(1, None, None),
    Save(2, None, None),
    Save(2, 1.0, 2),  # the end of the epoch, at the same step
    Save(3, None, 2),
    Save(4, None, 2),
    Save(4, 0.5, 4),  # a new best: the old one goes
    Save(5, 0.7, 4),
    Save(6, 0.6, 4),  # neither best nor latest: 5 goes
    Save(7, None, 4),
    Save(8, 0.1, 8),  # three go
)
KEPT = [1], [2], [2], [2, 3], [2, 4], [4], [4, 5], [4, 6], [4, 6, 7], [8]


def carry_out(folder, number):
    save = RUN[number]
    manager = checkpoints.open_checkpoints(folder, metric="loss", pinned=lambda: save.best)
    metrics = None if save.loss is None else {"loss": save.loss}
    try:
        checkpoints.save(manager, state_of(number, save.step), position(number), metrics)
        checkpoints.wait(manager)
    finally:
        manager.close()


def assert_resumable(folder, number):
    """As a restarted run finds it: after the save, or just before it, with the best of then."""
    remove_unfinished(folder)
    manager = checkpoints.open_checkpoints(folder, metric="loss")
    latest = manager.latest_step()
    if latest is None:
        assert number == 0
        return
    state, beside = checkpoints.restore(manager, ABSTRACT, latest)
    found = beside["save"]
    assert found in (number, number - 1)
    assert_same_state(state, state_of(found, RUN[found].step))
    if RUN[found].best is not None:
        best = checkpoints.resolve(manager, RUN[found].best)
        written = max(n for n in range(found + 1) if RUN[n].step == best)
        _, beside = checkpoints.restore(manager, ABSTRACT, best)
        assert beside["save"] == written  # the one at the end of its epoch
        assert checkpoints.resolve(manager, "best") in (best, RUN[number].best)
    assert [path.suffix for path in manager.directory.iterdir() if path.name[0] == "."] == []


def test_a_save_that_is_cut_off_anywhere_loses_nothing(tmp_path, reported):
    cuts = []
    before = tmp_path / "0"
    before.mkdir()
    for number in range(len(RUN)):
        after, cut = tmp_path / str(number + 1), 0
        while True:
            cut += 1
            folder = tmp_path / "run"
            shutil.copytree(before, folder)
            DISK.folder, DISK.last, DISK.seen = str(folder), cut, ()
            try:
                carry_out(folder, number)
                break
            except Cut:
                cuts.append(DISK.seen[cut - 1])
            finally:
                DISK.folder = None
            assert_resumable(folder, number)
            carry_out(folder, number)  # what the run does next
            assert checkpoints.open_checkpoints(folder, metric="loss").all_steps() == KEPT[number]
            shutil.rmtree(folder)
        assert_resumable(folder, number)
        assert checkpoints.open_checkpoints(folder, metric="loss").all_steps() == KEPT[number]
        folder.rename(after)
        before = after
    # Each save: open, two writes, the file and its name to the disk; and each that goes.
    kinds = {what for what, _ in cuts}
    assert kinds == {"os.mkdir", "open", "write", "fsync", "os.rename", "os.remove"}
    assert sum(what == "os.rename" for what, _ in cuts) == len(RUN)
    assert ("os.remove", "2.safetensors") in cuts and ("os.remove", "7.safetensors") in cuts
