"""A run that is killed at any moment and started again ends as if nothing had happened."""

import os
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from jax_seg.runs import checkpoints
from jax_seg.runs.events import read_events
from jax_seg.training import run as training
from tests import interrupted, snapshots
from tests import tiny as tiny_run
from tests.conftest import ROOT, TIME_LIMIT


def start(config, workdir):
    options = [f"--config={config}", f"--workdir={workdir}", "--doctor=off"]
    return subprocess.Popen(
        [sys.executable, "launch.py", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == status, output
    return output


@pytest.fixture(scope="module")
def tiny(volumes_folder):
    return f"tests/tiny.py:{volumes_folder}"


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Where copies of the uninterrupted run go: what a kill at each moment would have left."""
    return tmp_path_factory.mktemp("left")


@pytest.fixture(scope="module")
def uninterrupted(volumes_folder, left, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    snapshots.take({left / name: moment for name, moment in MOMENTS.items()}, workdir)
    training.run(tiny_run.get_config(str(volumes_folder)), workdir)
    return workdir


def figures(workdir):
    """The events without what a clock or a meter says."""
    measured = ("patches_per_second", "memory_gib")
    return [{k: v for k, v in e.items() if k not in measured} for e in read_events(workdir)]


def assert_same_end(workdir, expected):
    for weights in ("raw", "swa", "ema"):
        ours, _, step = checkpoints.read_variables(workdir, "latest", weights)
        theirs, _, expected_step = checkpoints.read_variables(expected, "latest", weights)
        assert step == expected_step
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert figures(workdir) == figures(expected)


MOMENTS = {  # of 12 updates, 4 an epoch, with checkpoint 2n after update n, 2n + 1 after an epoch
    "before the first save": ("os.mkdir", r"/checkpoints/save_2\."),
    "during the second save": ("os.mkdir", r"/checkpoints/save_4\.[^/]*/."),
    "in the second epoch": ("os.mkdir", r"/checkpoints/save_14\."),
    "as the second epoch is saved": ("os.rename", r"/checkpoints/save_17\.[^/]*$"),
}
KILLED = "during the second save"  # there a process is killed as well


def whole_saves(workdir):
    """Names of the checkpoints whose save has come to its end."""
    return {
        p.name for p in (workdir / "checkpoints").iterdir() if re.fullmatch(r"save_\d+", p.name)
    }


@pytest.mark.parametrize("moment", [name for name in MOMENTS if name != KILLED])
def test_killed_run_ends_bit_identical(moment, volumes_folder, uninterrupted, left):
    assert not (left / moment / "scores.json").exists()
    training.run(tiny_run.get_config(str(volumes_folder)), left / moment)
    assert_same_end(left / moment, uninterrupted)


def test_killed_process_leaves_what_the_copies_hold(
    tiny, volumes_folder, uninterrupted, left, tmp_path
):
    """Of two processes, the second this one: bits do not depend on which has compiled."""
    killed = start(interrupted.at(MOMENTS[KILLED], tiny), tmp_path)
    finish(killed, status=-signal.SIGKILL)
    assert whole_saves(tmp_path) == whole_saves(left / KILLED)
    training.run(tiny_run.get_config(str(volumes_folder)), tmp_path)
    assert_same_end(tmp_path, uninterrupted)


def test_sigterm_saves_exits_cleanly_and_resumes(tiny, uninterrupted, tmp_path):
    moment = ("os.mkdir", r"/checkpoints/save_12\.")
    output = finish(start(interrupted.at(moment, tiny, signal.SIGTERM), tmp_path))
    assert "Stopped by SIGTERM" in output and "Run the same command to resume" in output
    finish(start(tiny, tmp_path))
    assert_same_end(tmp_path, uninterrupted)
