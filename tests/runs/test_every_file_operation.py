"""A save that is cut off at any file operation leaves a folder that a run resumes from."""

import json
import subprocess
import sys
import warnings

import numpy as np

from jax_seg.runs import checkpoints
from jax_seg.system.files import write_json
from tests.conftest import ROOT, TIME_LIMIT
from tests.runs.states import ABSTRACT, assert_same_state, position, state_of

STEPS = {0: 2, 1: 3, 2: 4, 3: 4, 4: 5}  # of the saves of a run, by their number


def save(manager, number, metrics=None):
    checkpoints.save(manager, state_of(number, STEPS[number]), position(number), metrics)
    checkpoints.wait(manager)


def newest(manager):
    """(number of the save, step) of the newest checkpoint, whose state is that of the save."""
    step = manager.latest_step()
    state, beside = checkpoints.restore(manager, ABSTRACT, step)
    assert_same_state(state, state_of(beside["save"], step))
    assert beside == position(beside["save"])
    return beside["save"], step


def assert_resumable(run, number):
    """Readers and a further start find the save before the one that was cut off, or that one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # an interrupted save is no damage
        warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
        variables, beside, step = checkpoints.read_variables(run, "latest")
        assert (step, beside["save"]) in ((4, 2), (4, 3))
        np.testing.assert_array_equal(
            variables["params"]["output"]["kernel"],
            state_of(beside["save"], 4).params["output"]["kernel"],
        )
        manager = checkpoints.open_checkpoints(run, metric="loss", pinned=lambda: 4)
    assert newest(manager) == (beside["save"], 4)
    assert manager.best_step() == (4 if beside["save"] == 3 else 2)  # never without a best
    if beside["save"] == 2:  # what the run does next
        save(manager, 3, {"loss": 0.5})
    assert newest(manager) == (3, 4)
    save(manager, 4)
    assert newest(manager) == (4, 5)
    manager.close()
    left = {path.name for path in (run / "checkpoints").iterdir()}
    # A kill between the new name and the removals leaves those that were to go, at the most.
    assert {"save_9", "save_10"} <= left <= {"save_5", "save_8", "save_9", "save_10"}, number


def test_a_save_that_is_cut_off_anywhere_loses_nothing(tmp_path):
    """The end of an epoch and a new best, at the step of the save before, which goes."""
    before = tmp_path / "before"
    write_json(before / "config.json", {"validate": {"metric": "loss"}})
    manager = checkpoints.open_checkpoints(before, metric="loss", pinned=lambda: 2)
    for number, metrics in ((0, {"loss": 1.0}), (1, None), (2, None)):
        save(manager, number, metrics)
    manager.close()
    assert {p.name for p in (before / "checkpoints").iterdir()} == {"save_5", "save_8"}
    subprocess.run(
        [sys.executable, "-m", "tests.runs.cut_saves", tmp_path],
        check=True,
        cwd=ROOT,
        timeout=TIME_LIMIT,
    )
    cuts = json.loads((tmp_path / "operations.json").read_text())
    for number in range(1, len(cuts) + 1):
        assert_resumable(tmp_path / str(number), number)
    assert {"os.mkdir", "open", "os.rename", "os.rmdir", "os.remove"} <= {what for what, _ in cuts}
    renamed = [path for what, path in cuts if what == "os.rename"]
    for name in ("save_9.orbax-checkpoint-tmp", "save_5", "save_8"):
        assert any(path.endswith(name) for path in renamed), (name, renamed)
    assert len(cuts) > 30
