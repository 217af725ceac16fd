"""A run that is killed at any moment and started again ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jax_seg.runs import checkpoints
from jax_seg.runs.events import read_events
from tests.conftest import ROOT


def start(volumes_folder, workdir):
    command = [
        sys.executable,
        "launch.py",
        f"--config=tests/tiny.py:{volumes_folder}",
        f"--workdir={workdir}",
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def wait_for(condition, process, what):
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, f"ended before {what}: {process.stdout.read()}"
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


@pytest.fixture(scope="module")
def uninterrupted(volumes_folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finish(start(volumes_folder, workdir))
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


def saved(workdir, step):
    return (workdir / "checkpoints" / f"{step}.safetensors").exists()


def saving(workdir, step):
    return any((workdir / "checkpoints").glob(f".{step}.*"))


MOMENTS = {
    "before the first save": lambda workdir: (workdir / "config.json").exists(),
    "during the second save": lambda workdir: saving(workdir, 2),
    "in the second epoch": lambda workdir: saved(workdir, 6),
    "as the second epoch is saved": lambda workdir: saving(workdir, 8),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_ends_bit_identical(moment, volumes_folder, uninterrupted, tmp_path):
    process = start(volumes_folder, tmp_path)
    wait_for(lambda: MOMENTS[moment](tmp_path), process, moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finish(start(volumes_folder, tmp_path))
    assert_same_end(tmp_path, uninterrupted)


def test_sigterm_saves_exits_cleanly_and_resumes(volumes_folder, uninterrupted, tmp_path):
    process = start(volumes_folder, tmp_path)
    wait_for(lambda: saved(tmp_path, 5), process, "step 5")
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert "Stopped by SIGTERM" in output and "goes on" in output
    finish(start(volumes_folder, tmp_path))
    assert_same_end(tmp_path, uninterrupted)
