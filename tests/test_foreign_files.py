"""No command replaces a file that it did not write, or writes among its inputs."""

import json

import numpy as np
import pytest
import tifffile

from jax_seg import compare, convert, evaluate, fit_ensemble, replay, tune
from jax_seg.report import __main__ as report
from tests.conftest import ROOT
from tests.workdirs import write_run

DEMO = str(ROOT / "configs" / "demo.py")

NOTES = '{"notes": "mine"}'


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An empty folder each of images and labels, and a file of notes under several names."""
    for name in ("images", "labels", "out", "run/tune"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("notes.json", "report.html", "out/README.md"):
        (tmp_path / name).write_text(NOTES)
    (tmp_path / "labels" / "notes.json").write_text(NOTES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SCORED = ["--predictions", "images", "--labels", "labels", "--output"]
CHOSEN = ["a", "b", "--images", "images", "--labels", "labels", "--output"]


@pytest.mark.parametrize(
    ("main", "command", "message"),
    [
        (evaluate.main, [*SCORED, "notes.json"], "notes.json was not written by jax_seg.evaluate"),
        (evaluate.main, [*SCORED, "labels/new.json"], "lies in labels, which holds inputs"),
        (evaluate.main, ["--camouflage", *SCORED, "notes.json"], "not written by jax_seg.evaluate"),
        (evaluate.main, [*SCORED, "notes.json/a.json"], "notes.json is not a folder"),
        (compare.main, [*CHOSEN, "notes.json"], "notes.json was not written by jax_seg.compare"),
        (compare.main, [*CHOSEN, "images/a.json"], "lies in images, which holds inputs"),
        (fit_ensemble.main, [*CHOSEN, "notes.json"], "not written by jax_seg.fit_ensemble"),
        (fit_ensemble.main, [*CHOSEN, "labels/notes.json"], "lies in labels, which holds inputs"),
        (report.main, ["run", "--output", "report.html"], "not written by jax_seg.report"),
        (report.main, ["run", "--output", "labels"], "labels is a folder: name a file"),
        (convert.main, ["a.pth", "out"], "out is not empty"),
        (convert.main, ["a.pth", "images/new", "--images", "images"], "which holds inputs"),
        (convert.main, ["a.pth", "notes.json"], "notes.json is not a folder"),
        (replay.main, ["--versions", DEMO, "--output", "out"], "README.md was not written by"),
        (
            replay.main,
            ["--versions", DEMO, "--output", "images", "--config.data.root=."],
            "lies in images, which holds inputs",
        ),
    ],
)
def test_what_a_command_did_not_write_stays(folders, capsys, main, command, message):
    before = {path: path.read_bytes() for path in folders.rglob("*") if path.is_file()}
    assert main(command) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in folders.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["postprocess.json", "tune/report.json"])
def test_tuned_steps_of_somebody_stay(volumes_folder, tmp_path, capsys, name):
    workdir = write_run(tmp_path / "run", volumes_folder)
    (workdir / "tune").mkdir()
    (workdir / name).write_text(NOTES)
    labels = str(volumes_folder / "train_labels")
    flags = ["--probabilities", labels, "--labels", labels]
    assert tune.main([str(workdir), *flags]) == 1
    error = capsys.readouterr().err
    assert f"{name} was not written by jax_seg.tune" in error and error.count("\n") == 1
    assert (workdir / name).read_text() == NOTES


def test_own_files_are_written_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        voxels = generator.integers(0, 2, (4, 8, 8), np.uint8)
        tifffile.imwrite(tmp_path / folder / "v.tif", voxels, photometric="minisblack")
    for name in ("a", "b"):
        scores = {"volumes": {f"v{n}": {"dice": float(generator.random())} for n in range(6)}}
        (tmp_path / name).write_text(json.dumps(scores))
    for main, command in (
        (evaluate.main, [*SCORED, "scores.json"]),
        (compare.main, ["a", "b", "--output", "compared.json"]),
    ):
        assert [main(command), main(command)] == [0, 0]
        assert main([*command[:-1], "a"]) == 1
    assert capsys.readouterr().err.count("a was not written by") == 2
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["origin"] == "written by jax_seg.evaluate" and len(content["volumes"]) == 1
    assert evaluate.main([*SCORED, "compared.json"]) == 1
