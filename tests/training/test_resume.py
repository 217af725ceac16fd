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

# Kills itself at the last of so many file operations of a kind on files that match a pattern.
KILLED = """
import os, re, runpy, signal, sys
_, kind, pattern, count, *sys.argv = sys.argv
left = int(count)

def audit(event, arguments):
    global left
    if event == kind and re.search(pattern, str(arguments[0])):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(audit)
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(volumes_folder, workdir, killed_at=None):
    command = [
        sys.executable,
        *(["-c", KILLED, *killed_at] if killed_at else []),
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
    """Whether this checkpoint, or a later one that has replaced it, is there."""
    return any(
        int(path.stem) >= step for path in (workdir / "checkpoints").glob("[0-9]*.safetensors")
    )


MOMENTS = {
    "before the first save": ("os.rename", r"/\.config\.", "1"),
    "during the second save": ("open", r"/\.2\.[^/]*\.safetensors$", "1"),
    "in the second epoch": ("open", r"/\.7\.[^/]*\.safetensors$", "1"),
    "as the second epoch is saved": ("os.rename", r"/\.8\.[^/]*\.safetensors$", "2"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_ends_bit_identical(moment, volumes_folder, uninterrupted, tmp_path):
    process = start(volumes_folder, tmp_path, MOMENTS[moment])
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
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
