"""Commands of users without a home folder: in containers they have a number alone."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jax_seg.system import home
from tests.conftest import ROOT

# Imports come first: another user may not be allowed to read the interpreter.
COMMAND = """
import json, os, sys, warnings
warnings.simplefilter("error")
from jax_seg import checkpoint
from jax_seg.metrics import elimination
import numba, jax, pwd
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)
os.environ.pop("HOME", None)
try:
    print(pwd.getpwuid(os.getuid()).pw_name, file=sys.stderr)
except KeyError:
    pass
from jax_seg.system import startup
from jax_seg.system.home import cache_folder
cache_folder.cache_clear()
print(json.dumps([checkpoint.main([sys.argv[1]]), str(cache_folder()),
                  jax.config.jax_compilation_cache_dir, os.environ.get("MPLCONFIGDIR")]))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes a user who is not in the list of users")
def test_a_user_without_home_and_name_runs_a_command():
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "MPL"))}
    with tempfile.TemporaryDirectory() as place:  # only the owner may enter pytest's own
        Path(place).chmod(0o777)
        ended = subprocess.run(
            [sys.executable, "-c", COMMAND, "/nowhere"],
            env=environment | {"PYTHONPATH": str(ROOT), "TMPDIR": place},
            capture_output=True,
            text=True,
            check=True,
        )
    status, folder, compiled, matplotlib = json.loads(ended.stdout)
    assert status == 1 and ended.stderr.startswith("Error: /nowhere is not the folder of a run")
    assert folder == f"{place}/jax_seg-54321"
    assert compiled == folder + "/compiled" and matplotlib == folder + "/matplotlib"
    assert ended.stderr.count("\n") == 1


def test_numba_keeps_its_programs_elsewhere_where_no_home_can_be_written(tmp_path):
    """By default it raises RuntimeError at import, or makes a folder named '~'."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    environment |= {"HOME": "/dev/null"}
    program = "from jax_seg.ops import jit; import numba; print(numba.config.CACHE_DIR)"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == str(tmp_path / f"jax_seg-{os.getuid()}")


@pytest.fixture
def fresh():
    home.cache_folder.cache_clear()
    yield
    home.cache_folder.cache_clear()


def nobody():
    raise RuntimeError("Could not determine home directory.")


def test_a_home_that_can_be_written_is_used(tmp_path, monkeypatch, fresh):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.cache_folder() == tmp_path / ".cache" / "jax_seg" and home.has_home()


def test_programs_that_another_user_may_have_left_are_not_run(tmp_path, monkeypatch, fresh):
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"jax_seg-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    assert home.cache_folder() is None and not home.has_home()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    home.cache_folder.cache_clear()
    assert home.cache_folder() is None
    folder.unlink()
    home.cache_folder.cache_clear()
    assert home.cache_folder() == folder and not home.has_home()


def test_nowhere_to_write(monkeypatch, fresh):
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr("tempfile.tempdir", "/dev/null")
    assert home.cache_folder() is None and not home.has_home()
