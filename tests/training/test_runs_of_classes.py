"""Runs that tell several classes apart: they learn each, score each, and predict label values."""

import json
import re

import numpy as np
import pytest
import tifffile

from jax_seg import compare, doctor, evaluate, fit_ensemble, predict, tune
from jax_seg.data.readers import read_volume
from jax_seg.report.page import make_page
from jax_seg.runs.run import read_runs
from jax_seg.training import run as training
from tests.conftest import tiny_config

DARK, BRIGHT = 1, 3  # label values


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Volumes with a plane of either class, across each other, and an unlabelled margin."""
    root = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / name).mkdir()
    for number in range(6):
        image = generator.normal(120, 8, (20, 20, 20))
        label = np.zeros(image.shape, np.uint8)
        depth, row = 2 + 3 * number, 1 + (7 * number) % 16  # each elsewhere
        for value, shift, where in (
            (DARK, -60, np.s_[depth : depth + 3]),
            (BRIGHT, 90, np.s_[:, row : row + 3]),
        ):
            image[where], label[where] = 120 + shift, value
        label[:, :, :4] = 2
        image = (image + generator.normal(0, 25, image.shape)).clip(0, 255)
        tifffile.imwrite(root / "images" / f"v{number}.tif", image.astype(np.uint8))
        tifffile.imwrite(root / "labels" / f"v{number}.tif", label)
    return root


def config_of(folder, classes):
    config = tiny_config(folder)
    config.data.update(classes=classes, patches_per_volume=16)
    config.optimizer.update(name="adamw")
    config.schedule.learning_rate = 0.03
    config.train.epochs = 5
    config.model.update(filters=4, out_channels=len(classes))
    config.loss.weights.update(cross_entropy=0.5, focal=0.0, skeleton_recall=0.2)
    config.postprocess.steps = ()
    return config


@pytest.fixture(scope="module")
def exclusive(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "exclusive"
    return workdir, training.run(config_of(folder, ("dark=1", "bright=3")), workdir)


@pytest.fixture(scope="module")
def nested(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "nested"
    return workdir, training.run(config_of(folder, ("any=1,3", "bright=3")), workdir)


@pytest.mark.parametrize("name", ["exclusive", "nested"])
def test_every_class_is_learned_and_scored(name, request):
    workdir, scores = request.getfixturevalue(name)
    of_class = scores["classes"]
    assert all(one["dice"] > 0.8 for one in of_class.values())
    means = np.mean([one["dice"] for one in of_class.values()])
    assert scores["dice"] == pytest.approx(means)
    names = list(of_class)
    log = (workdir / "log.txt").read_text()
    assert re.search(rf"Dice of {names[0]}: [01]\.\d+, Dice of {names[1]}: [01]\.\d+", log)
    assert (workdir / "plots" / "v0.png").exists() or list((workdir / "plots").glob("v*.png"))


@pytest.mark.parametrize(
    ("name", "classes"),
    [("exclusive", ["dark=1", "bright=3"]), ("nested", ["any=1,3", "bright=3"])],
)
def test_a_prediction_holds_label_values_and_scores_as_the_run(
    name, classes, folder, tmp_path, request, capsys
):
    workdir, scores = request.getfixturevalue(name)
    held_out = json.loads((workdir / "validation" / "scores.json").read_text())["volumes"]
    inputs = [str(folder / "images" / f"{id}.tif") for id in held_out]
    output = tmp_path / "masks"
    command = ["--workdir", str(workdir), "--input", *inputs, "--output", str(output)]
    assert predict.main(command) == 0
    found = {id: tifffile.imread(output / f"{id}.tif") for id in held_out}
    for id, mask in found.items():
        assert set(np.unique(mask)) == {0, DARK, BRIGHT}
        own = tifffile.imread(workdir / "validation" / "masks" / f"{id}.tif")
        np.testing.assert_array_equal(mask, own)
    labels = tmp_path / "labels"
    labels.mkdir()
    for id in held_out:
        (labels / f"{id}.tif").symlink_to(folder / "labels" / f"{id}.tif")
    written = tmp_path / "scores.json"
    command = ["--predictions", str(output), "--labels", str(labels), "--output", str(written)]
    assert evaluate.main([*command, "--classes", *classes]) == 0
    again = json.loads(written.read_text())["pooled"]
    for one, expected in scores["classes"].items():
        assert again["classes"][one]["dice"] == pytest.approx(expected["dice"])
    assert again["dice"] == pytest.approx(scores["dice"])
    table = capsys.readouterr().out
    assert re.search(r"^pooled +[01]\.", table, re.M)
    assert re.search(r"^  bright +[01]\.", table, re.M)


def test_probabilities_lie_in_a_folder_of_each_class(exclusive, folder, tmp_path):
    """Those of classes that exclude each other; the mask shows the largest."""
    image, output = folder / "images" / "v0.tif", tmp_path / "out"
    command = ["--workdir", str(exclusive[0]), "--input", str(image), "--output", str(output)]
    assert predict.main([*command, "--probabilities"]) == 0
    found = [
        tifffile.imread(output / "probabilities" / name / "v0.tif").astype(np.float32)
        for name in ("dark", "bright")
    ]
    each = np.stack([1 - sum(found), *found])
    assert each.min() > -2e-3 and each[1:].max() > 0.5
    expected = np.array([0, DARK, BRIGHT])[each.argmax(0)]
    clear = np.diff(np.sort(each, 0)[1:], axis=0)[0] > 5e-3
    mask = tifffile.imread(output / "v0.tif")
    np.testing.assert_array_equal(mask[clear], expected[clear])
    assert len(np.unique(expected[clear])) == 3
    made = json.loads((output / "v0.json").read_text())["files"]
    assert [*made] == ["v0.tif", "probabilities/dark/v0.tif", "probabilities/bright/v0.tif"]


def test_an_ensemble_averages_the_softmax(exclusive, folder, tmp_path):
    workdir, _ = exclusive
    image = folder / "images" / "v0.tif"
    for name, networks in (("one", [workdir]), ("two", [workdir, workdir])):
        command = ["--workdir", *map(str, networks), "--input", str(image)]
        assert predict.main([*command, "--output", str(tmp_path / name)]) == 0
    one, two = (tifffile.imread(tmp_path / name / "v0.tif") for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)


def test_runs_of_classes_are_compared(exclusive, folder, capsys):
    workdir, _ = exclusive
    assert compare.main([str(workdir), f"{workdir}@latest"]) == 0
    assert "dice ." in capsys.readouterr().out
    folders = ["--images", str(folder / "images"), "--labels", str(folder / "labels")]
    command = [str(workdir), f"{workdir}@latest", *folders, "--metric", "cldice"]
    assert compare.main(command) == 1
    assert "--metric cldice is of one class" in capsys.readouterr().err


def test_the_doctor_examines_the_first_class(exclusive, capsys):
    workdir, _ = exclusive
    status = doctor.main(["--workdir", str(workdir), "--quick"])
    said = capsys.readouterr()
    assert status == 0, said.out + said.err
    assert "Of several classes dark is examined, and bright counts as unlabelled." in said.out
    content = json.loads((workdir / "doctor.json").read_text())
    assert any("labels." in name for name in content["checked"])
    assert not [f for f in content["findings"] if f["severity"] == "error"]


def test_the_page_shows_every_class(exclusive):
    workdir, _ = exclusive
    assert "Dice of dark" in make_page(read_runs([workdir]))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (tune, ["{run}"]),
        (fit_ensemble, ["{run}", "{run}@latest", "--output", "{tmp}/e.json"]),
    ],
)
def test_commands_of_one_class_say_so(command, arguments, exclusive, tmp_path, capsys):
    words = [text.format(run=exclusive[0], tmp=tmp_path) for text in arguments]
    assert command.main(words) == 1
    assert "tells several classes apart (dark, bright)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--submission", "masks.zip"], "--submission is for one class"),
        (["--threshold", "0.4"], "--threshold has no meaning here"),
    ],
)
def test_flags_of_one_class_are_refused(flags, message, exclusive, folder, tmp_path, capsys):
    image = str(folder / "images" / "v0.tif")
    command = ["--workdir", str(exclusive[0]), "--input", image, "--output", str(tmp_path / "o")]
    assert predict.main([*command, *flags]) == 1
    assert message in capsys.readouterr().err


def test_blocks_equal_the_masks_in_memory(exclusive, folder, tmp_path, capsys):
    image = str(folder / "images" / "v0.tif")
    command = ["--workdir", str(exclusive[0]), "--input", image, "--block", "16", "--chunk", "8"]
    output = tmp_path / "out.zarr"
    assert predict.main([*command[:4], "--output", str(tmp_path / "whole")]) == 0
    assert predict.main([*command, "--output", str(output)]) == 0
    mask = read_volume(tmp_path / "whole" / "v0.tif")
    assert len(np.unique(mask)) > 1
    np.testing.assert_array_equal(read_volume(output), mask)
    again = ["--output", str(tmp_path / "p.zarr"), "--dtype", "float16"]
    assert predict.main([*command, *again]) == 1
    assert "--dtype is for one class, and these networks tell dark, bright" in (
        capsys.readouterr().err
    )


def test_a_network_needs_a_logit_for_each_class(folder, tmp_path):
    config = config_of(folder, ("dark=1", "bright=3"))
    config.model.out_channels = 1
    said = "model.out_channels is 1, but data.classes makes 2; set it to 2"
    with pytest.raises(ValueError, match=re.escape(said)):
        training.run(config, tmp_path)
