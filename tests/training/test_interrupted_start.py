"""Ctrl-C before the first epoch: one sentence, the status of an interrupt, and the next start."""

import os
import signal
import subprocess
import sys

import pytest

from jax_seg.system.commands import INTERRUPTED
from tests import interrupted
from tests.conftest import ROOT, TIME_LIMIT

MOMENTS = {
    "as the flags are read": ("import", "^pytest$"),
    "as JAX is imported": ("import", r"^jax_seg\.training\.epoch$"),
    "as the data are measured": ("os.mkdir", r"/cache/measured$"),
}

# A shell lets what it starts in the background ignore Ctrl-C, this suite perhaps included.
HEEDS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_start_is_one_sentence(moment, volumes_folder, tmp_path):
    tiny = f"tests/tiny.py:{volumes_folder}"
    config = interrupted.at(MOMENTS[moment], tiny, signal.SIGINT)
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            HEEDS,
            "launch.py",
            f"--config={config}",
            f"--workdir={tmp_path / 'run'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == INTERRUPTED, ended.stderr
    assert ended.stderr == "Interrupted: run the same command to start or resume the run.\n"
