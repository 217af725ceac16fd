"""Images and labels that are corrected after a run: every command says what rests on the old."""

import shutil

import numpy as np
import pytest
import tifffile

from jax_seg import compare, fit_ensemble, predict, tune
from jax_seg.report import __main__ as report
from jax_seg.runs.run import open_run
from jax_seg.system.files import read_json, write_json
from jax_seg.training import run as training
from tests.conftest import tiny_config, write_volumes

TUNED = ["--metric", "dice", "--steps", "fill_holes"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data, a finished run, its tuned steps and an ensemble."""
    folder = tmp_path_factory.mktemp("made")
    config = tiny_config(write_volumes(folder / "data"))
    config.train.epochs = 1
    training.run(config, folder / "run")
    run = str(folder / "run")
    assert tune.main([run, *TUNED]) == 0
    command = [f"{run}@best", f"{run}@latest", "--output", str(folder / "e.json")]
    assert fit_ensemble.main(command) == 0
    return folder, config


@pytest.fixture
def folder(made):
    """The same, whose data are put back after the test."""
    shutil.copytree(made[0] / "data", made[0] / "before")
    yield made[0]
    shutil.rmtree(made[0] / "data")
    (made[0] / "before").rename(made[0] / "data")


def invert(folder, part):
    for path in (folder / "data" / part).glob("*.tif"):
        voxels = tifffile.imread(path)
        other = np.where(voxels == 2, 2, 1 - voxels) if part == "train_labels" else 255 - voxels
        tifffile.imwrite(path, other.astype(np.uint8), compression="lzw")


def said(capsys):
    printed = capsys.readouterr()
    return printed.out + printed.err


def commands(folder, out):
    """What each command says, by its name."""
    run, image = str(folder / "run"), str(folder / "data" / "train_images" / "v0.tif")
    ensemble, plain = str(folder / "e.json"), ["--postprocess", "none"]
    of_image = ["--overwrite", "--input", image, "--output"]
    return {
        "predict": lambda: predict.main(["--workdir", run, *of_image, str(out / "a")]),
        "ensemble": lambda: predict.main(
            ["--ensemble", ensemble, *of_image, str(out / "b"), *plain]
        ),
        "compare": lambda: compare.main([run, f"{run}@latest"]),
        "page": lambda: report.main([run, "--output", str(out / "page.html")]),
    }


SAID = {
    "predict": ("The {} of v", "postprocess.json were chosen: run jax_seg.tune again."),
    "ensemble": ("The {} of v", "e.json were chosen: run jax_seg.fit_ensemble again."),
    "compare": ("The {} of v", "volumes of this run were scored: run launch.py again"),
}


@pytest.mark.parametrize("part", ["train_labels", "train_images"])
def test_every_command_says_what_rests_on_other_data(folder, tmp_path, capsys, part):
    capsys.readouterr()
    for command in commands(folder, tmp_path).values():
        assert command() == 0
    assert "changed since" not in said(capsys)
    assert "changed since" not in (tmp_path / "page.html").read_text()
    invert(folder, part)
    noun = {"train_labels": "label", "train_images": "image"}[part]
    for name, command in commands(folder, tmp_path).items():
        assert command() == 0
        text = said(capsys) if name != "page" else (tmp_path / "page.html").read_text()
        for words in SAID.get(name, ()):
            assert words.format(noun) in text, name
    assert f"The {noun} of v" in text and "changed since this run was tuned" in text
    assert "changed since the volumes of this run were scored" in text


def test_tune_uses_no_probabilities_of_other_images(folder, made, capsys):
    invert(folder, "train_images")
    assert tune.main([str(folder / "run"), *TUNED]) == 1
    error = capsys.readouterr().err
    assert "The image of v" in error and "run launch.py again, which predicts it anew" in error
    assert error.count("\n") == 1
    training.run(made[1], folder / "run")
    assert tune.main([str(folder / "run"), *TUNED]) == 0
    assert open_run(folder / "run").outdated_steps == ""
    invert(folder, "train_images")  # back, for the other tests
    training.run(made[1], folder / "run")
    assert tune.main([str(folder / "run"), *TUNED]) == 0


def test_tune_scores_other_labels_anew(folder, capsys):
    before = read_json(folder / "run" / "postprocess.json")
    invert(folder, "train_labels")
    assert open_run(folder / "run").outdated_steps
    assert tune.main([str(folder / "run"), *TUNED]) == 0
    assert open_run(folder / "run").outdated_steps == ""
    assert read_json(folder / "run" / "postprocess.json")["score"] != before["score"]
    invert(folder, "train_labels")
    assert tune.main([str(folder / "run"), *TUNED]) == 0
    capsys.readouterr()


def test_a_moved_run_and_one_of_an_older_version_claim_nothing(folder, tmp_path, capsys):
    invert(folder, "train_labels")
    shutil.copytree(folder / "run", tmp_path / "run")
    for name in ("validation/scores.json", "postprocess.json", "tune/report.json"):
        content = read_json(tmp_path / "run" / name)
        assert content.pop("sources")
        write_json(tmp_path / "run" / name, content)
    older = open_run(tmp_path / "run")
    assert older.outdated_scores == older.outdated_steps == ""
    run = open_run(folder / "run")
    assert run.outdated_scores and run.outdated_steps
    (folder / "data").rename(folder / "elsewhere")
    assert run.outdated_scores == run.outdated_steps == ""
    (folder / "elsewhere").rename(folder / "data")
