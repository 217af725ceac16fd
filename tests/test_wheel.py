"""The installed wheel does all that the repository does, from any folder.

A copy of the sources is built and installed into an environment of its own, which sees the other
packages of this one. `launch.py` and `configs/` are copied to where a user would keep them.
"""

import inspect
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest
import tifffile

from jax_seg.__main__ import COMMANDS
from tests.conftest import GOLDEN, ROOT, TIME_LIMIT, tiny_config, write_volumes

CONFIG = """
from configs import base

{tiny}

def get_config(argument="demo"):
    config = tiny_config({root!r})
    config.train.epochs = 1
    config.average.ema_decay = 0.9
    return config
"""


EACH = """
import contextlib, io, json, os, pathlib, sys
from jax_seg.__main__ import main
file = pathlib.Path(sys.argv[1])
said = {}
for name, arguments in json.loads(file.read_text()).items():
    if name == "replay":
        os.chdir(sys.argv[2])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main(arguments)
    assert not status, (name, status, printed.getvalue())
    said[name] = printed.getvalue()
file.write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, of a copy: what an earlier build left in the repository would come along."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "jax_seg", source / "jax_seg", ignore=_compiled)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder]
    _run([sys.executable, "-m", "pip", "wheel", *options, source], cwd=folder)
    (wheel,) = folder.glob("jax_seg-*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Programs of an environment with the wheel, and a folder to start them in."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "environment", with_pip=False, symlinks=True)
    python = folder / "environment" / "bin" / "python"
    packages = _run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder
    )
    # Their own .pth files are not read from here, so that an editable jax_seg stays unknown.
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (Path(packages.strip()) / "other_packages.pth").write_text("\n".join(others) + "\n")
    options = ["--no-deps", "--no-index", "--quiet", "--force-reinstall"]
    _run([sys.executable, "-m", "pip", "--python", python, "install", *options, built], folder)

    work = folder / "work"
    write_volumes(work / "data")
    shutil.copy(ROOT / "launch.py", work)
    shutil.copytree(ROOT / "configs", work / "configs", ignore=_compiled)
    text = CONFIG.format(tiny=inspect.getsource(tiny_config), root=str(work / "data"))
    (work / "configs" / "tiny.py").write_text(text)
    program = python.with_name("jax-seg")
    return SimpleNamespace(python=python, program=program, packages=packages.strip(), work=work)


@pytest.fixture(scope="module")
def trained(installed):
    """The workdir of a run that was started, and resumed, beside the commands' folder."""
    command = [installed.python, "launch.py", "--config=configs/tiny.py", "--workdir=run"]
    first = _run(command, installed.work)
    second = _run([*command, "--config.train.epochs=2", "--doctor=off"], installed.work)
    assert "Epoch 0 Train" in first and "Epoch 1 Train" not in first
    assert "Epoch 1 Train" in second and "Epoch 0 Train" not in second
    return installed.work / "run"


def _compiled(_, names):
    return [name for name in names if name == "__pycache__"]


def _run(command, cwd, status=0):
    """Standard output of a command that ends with `status`."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    ended = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout


def test_the_wheel_holds_the_library_alone(installed, tmp_path):
    found = {path.name for path in Path(installed.packages).glob("[!_]*")}
    assert {name for name in found if not name.endswith((".dist-info", ".pth"))} == {"jax_seg"}
    ask = "import jax_seg, importlib.util as u; print(jax_seg.__file__, u.find_spec('configs'))"
    imported, configs = _run([installed.python, "-c", ask], tmp_path).split()
    assert Path(imported).is_relative_to(installed.packages) and configs == "None"

    def files(root):
        names = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        return {str(name) for name in names if "__pycache__" not in name.parts}

    assert files(Path(installed.packages) / "jax_seg") == files(ROOT / "jax_seg")


def test_the_commands_are_listed_and_a_wrong_one_is_refused(installed, tmp_path):
    listed = _run([installed.program, "--help"], tmp_path)
    assert listed == _run([installed.python, "-m", "jax_seg", "--help"], tmp_path).replace(
        "python -m jax_seg", "jax-seg"
    )
    assert all(f"  {name} " in listed for name in COMMANDS)
    _run([installed.program, "pedict"], tmp_path, status=2)


@pytest.fixture(scope="module")
def masks(installed, trained, tmp_path_factory):
    """A folder with what the program `predict` writes."""
    folder = tmp_path_factory.mktemp("predicted") / "masks"
    command = [installed.program, "predict", "--workdir", trained, "--output", folder]
    _run([*command, "--input", installed.work / "data" / "train_images"], folder.parent)
    return folder


@pytest.fixture(scope="module")
def said(installed, trained, masks, tmp_path_factory):
    """(folder that the other commands have written to, what each of them has printed).

    They run one after another in one process of the environment, which starts and compiles once;
    `replay` alone, the last one, in the folder with `configs/`.
    """
    out = tmp_path_factory.mktemp("said")
    shutil.copytree(trained, out / "run", ignore=lambda _, names: {"cache"} & set(names))
    models = [trained, f"{trained}@ema"]
    labels = installed.work / "data" / "train_labels"
    commands = {
        "evaluate": ["--predictions", masks, "--labels", labels, "--output", out / "scores.json"],
        "report": [trained, "--output", out / "page.html"],
        "tune": [out / "run", "--metric", "dice", "--steps", "fill_holes"],
        "compare": models,
        "fit_ensemble": [*models, "--output", out / "ensemble.json"],
        "convert": [GOLDEN / "unet_f4_d2.pth", out / "converted"],
        "checkpoint": [out / "converted"],
        "replay": ["--versions=tiny", "--kind=as written", "--minutes=1e-9", "--output", out],
    }
    text = json.dumps({name: [name, *map(str, rest)] for name, rest in commands.items()})
    (out / "commands.json").write_text(text)
    _run([installed.python, "-c", EACH, out / "commands.json", installed.work], out)
    return out, json.loads((out / "commands.json").read_text())


def test_predict_and_evaluate(masks, said):
    out, _ = said
    assert {path.name for path in masks.glob("*.tif")} == {f"v{n}.tif" for n in range(6)}
    assert tifffile.imread(masks / "v0.tif").shape == (20, 20, 20)
    assert len(json.loads((out / "scores.json").read_text())["volumes"]) == 6


def test_report(said):
    style = (ROOT / "jax_seg" / "report" / "page.css").read_text()
    assert style in (said[0] / "page.html").read_text()


def test_tune(said):
    assert json.loads((said[0] / "run" / "postprocess.json").read_text())["steps"]


def test_compare_and_fit_ensemble(said):
    out, printed = said
    assert "dice of 2 volumes" in printed["compare"]
    weights = json.loads((out / "ensemble.json").read_text())["weights"]
    assert sum(weights) == pytest.approx(1)


def test_convert_and_checkpoint(said):
    _, printed = said
    assert "step 0" in printed["checkpoint"] and "code 0." in printed["checkpoint"]


def test_replay_finds_its_versions_in_the_current_folder(said):
    assert "| tiny, as written | 1 |" in (said[0] / "README.md").read_text()
