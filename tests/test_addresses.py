"""Addresses of servers and object stores: refused by every command, before anything is written."""

import sys

import pytest

from jax_seg import checkpoint, compare, convert, doctor, evaluate, fit_ensemble, predict, replay
from jax_seg import tune as tuning
from jax_seg.data import synthetic
from jax_seg.report import __main__ as report
from jax_seg.training import cross_validation
from jax_seg.training import run as training
from tests.conftest import ROOT, tiny_config
from tests.workdirs import write_run

DEMO = str(ROOT / "configs" / "demo.py")
RUN, OUT = "s3://bucket/run", "s3://bucket/out"
OF_RUN = ["--workdir", "run", "--input", "images", "--output"]
SCORED = ["--predictions", "images", "--labels", "images"]


@pytest.fixture(scope="module")
def folder(volumes_folder, tmp_path_factory):
    """A run, and a link to the images that it was trained on."""
    folder = tmp_path_factory.mktemp("addresses")
    write_run(folder / "run", volumes_folder)
    (folder / "images").symlink_to(volumes_folder / "train_images")
    return folder


def paths(folder):
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def status(main, command, capsys):
    """(exit status, standard error), however the command ends."""
    try:
        ended = main(command)
    except SystemExit as exit_:
        ended = exit_.code
        if isinstance(ended, str):
            sys.stderr.write(f"{ended}\n")
            ended = 1
    return ended, capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "command"),
    [
        (predict.main, [*OF_RUN, OUT]),
        (predict.main, [*OF_RUN, "out", "--submission", f"{OUT}.zip"]),
        (predict.main, ["--workdir", RUN, "--input", "images", "--output", "out"]),
        (predict.main, ["--ensemble", f"{RUN}.json", "--input", "images", "--output", "out"]),
        (evaluate.main, [*SCORED, "--output", f"{OUT}.json"]),
        (checkpoint.main, [RUN]),
        (report.main, [RUN]),
        (report.main, ["run", "--output", f"{OUT}.html"]),
        (tuning.main, [RUN]),
        (compare.main, [RUN, "run"]),
        (compare.main, ["run", f"{RUN}@latest"]),
        (fit_ensemble.main, ["run", RUN, "--output", "e.json"]),
        (fit_ensemble.main, ["run", "run@swa", "--output", f"{OUT}.json"]),
        (convert.main, ["gs://bucket/a.pth", "out"]),
        (convert.main, ["https://host.org/a.safetensors", "out"]),
        (convert.main, ["a.pth", OUT]),
        (doctor.main, ["--workdir", RUN]),
        (doctor.main, ["--workdir", "run", "--json", f"{OUT}.json"]),
        (replay.main, ["--versions", DEMO, "--output", OUT]),
        (synthetic.main, [OUT, "--volumes", "1", "--size", "32"]),
    ],
)
def test_a_command_refuses_an_address(folder, monkeypatch, capsys, main, command):
    monkeypatch.chdir(folder)
    before = paths(folder)
    ended, error = status(main, command, capsys)
    assert ended in (1, 2) and "is an address, and only files of this machine" in error
    assert "://" in error and error.count("\n") == 1
    assert paths(folder) == before


@pytest.mark.parametrize(
    ("workdir", "section", "field"),
    [
        (RUN, "data", {}),
        ("new", "data", {"cache": "s3://bucket/cache"}),
        ("new", "data", {"root": "s3://bucket/data"}),
        ("new", "train", {"start_from": RUN}),
    ],
)
def test_training_refuses_an_address(
    folder, volumes_folder, tmp_path, monkeypatch, workdir, section, field
):
    monkeypatch.chdir(tmp_path)
    config = tiny_config(volumes_folder)
    config[section].update(field)
    with pytest.raises(ValueError, match=r"s3://bucket/\w+.* is an address, and only files"):
        training.run(config, workdir)
    assert not (tmp_path / "s3:").exists()
    config.data.fold = "all"
    with pytest.raises(ValueError, match=r"s3://bucket/\w+.* is an address, and only files"):
        cross_validation.run(config, workdir)
    assert not (tmp_path / "s3:").exists()
