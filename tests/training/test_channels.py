"""Images of two channels, of which only the second holds the object: train, resume, predict."""

import json
import shutil

import jax
import numpy as np
import pytest
import tifffile

from jax_seg import evaluate, predict
from jax_seg.data.folder import find_volumes
from jax_seg.data.readers import read_volume
from jax_seg.diagnosis.evidence import Evidence, of_run
from jax_seg.diagnosis.examine import examine
from jax_seg.planning import facts
from jax_seg.report.page import make_page
from jax_seg.runs import checkpoints
from jax_seg.runs import run as opened
from jax_seg.training import run as training
from jax_seg.training.find_batch import abstract_programs
from tests.conftest import tiny_config

SIZE = 20


def write_two_channels(root, count=6):
    """Volumes in nnU-Net's layout: bright planes in channel 1 alone, on another scale."""
    generator = np.random.default_rng(1)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        depth = int(generator.integers(4, SIZE - 6))
        label = np.zeros((SIZE,) * 3, np.uint8)
        label[depth : depth + 2] = 1
        label[:, :, : SIZE // 4] = 2
        noise = generator.normal(800, 120, (2, SIZE, SIZE, SIZE))
        noise[1, depth : depth + 2] += 900
        for channel, scale in enumerate((1.0, 0.1)):
            image = np.clip(noise[channel] * scale, 1, 6e4).astype(np.uint16)
            path = root / "imagesTr" / f"v{number}_000{channel}.tif"
            tifffile.imwrite(path, image, compression="lzw", photometric="minisblack")
        tifffile.imwrite(root / "labelsTr" / f"v{number}.tif", label, compression="lzw")
    return root


def config_of(root, **train):
    config = tiny_config(root)
    config.optimizer.update(name="adamw")
    config.schedule.learning_rate = 0.03
    config.data.patches_per_volume = 8
    config.data.group = ""
    config.loss.weights.update(cross_entropy=0.5, focal=0.0)
    config.postprocess.steps = ("mask_empty",)
    config.train.update(train)
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_two_channels(tmp_path_factory.mktemp("channels"))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    return workdir, training.run(config_of(root, epochs=6), workdir)


def predicted(workdir, root, output, *flags):
    """Status of predicting all images; and the ids of those that the run held out."""
    images = ["--input", str(root / "imagesTr"), "--output", str(output)]
    status = predict.main(["--workdir", str(workdir), *images, "--probabilities", *flags])
    return status, sorted(p.stem for p in (workdir / "validation" / "probabilities").iterdir())


def test_it_learns_from_the_second_channel_and_predicts_as_it_was_judged(trained, root, tmp_path):
    workdir, scores = trained
    assert scores["dice"] > 0.75
    status, held_out = predicted(workdir, root, tmp_path)
    assert status == 0 and len(held_out) == 2
    assert sorted(p.stem for p in tmp_path.glob("*.tif")) == [f"v{n}" for n in range(6)]
    for name in held_out:
        own = tifffile.imread(workdir / "validation" / "probabilities" / f"{name}.tif")
        again = tifffile.imread(tmp_path / "probabilities" / f"{name}.tif")
        np.testing.assert_array_equal(again, own)
        facts_of = json.loads((tmp_path / f"{name}.json").read_text())
        assert facts_of["image"].endswith(f"{name}_{{0000..0001}}.tif")
        assert facts_of["judged_on"]["volumes"] == "held out"
    labels = str(root / "labelsTr")
    assert evaluate.main(["--predictions", str(tmp_path), "--labels", labels, "--ignore", "2"]) == 0


def test_what_is_stored(trained):
    workdir, _ = trained
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["in_channels"] == 2
    variables, stored, _ = checkpoints.read_variables(workdir)
    assert stored["config"]["model"]["in_channels"] == 2
    # Of N(800, 120); of N(80, 12) with a tenth of the voxels brighter by 90, whose top 5 % count.
    np.testing.assert_allclose(stored["preprocessing"]["low"], [491, 49], rtol=0.03)
    np.testing.assert_allclose(stored["preprocessing"]["high"], [1109, 190], rtol=0.03)
    assert variables["params"]["encoder_0"]["conv_0"]["kernel"].shape[3] == 2
    assert len(list((workdir / "plots").glob("v*.png"))) == 1


def test_the_page_and_the_doctor_take_such_runs(trained):
    page = make_page(opened.read_runs([trained[0]]))
    assert "cannot be shown" not in page and "data:image/" in page
    report = examine(of_run(trained[0], quick=True))
    assert report.failed == {}
    assert report.skipped["preprocess.saturated"].startswith("each channel is normalised")


def test_a_resumed_run_is_the_uninterrupted_one(root, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training.run(config_of(root, epochs=2), whole)
    training.run(config_of(root, epochs=1), parts)
    config = config_of(root, epochs=2)
    config.model.in_channels = 2  # as stored
    training.run(config, parts)
    one, two = (checkpoints.read_variables(path, "latest") for path in (whole, parts))
    assert one[2] == two[2]
    jax.tree.map(np.testing.assert_array_equal, one[0], two[0])


def test_other_numbers_of_channels_are_refused(trained, root, tmp_path):
    config = config_of(root)
    config.model.in_channels = 1
    with pytest.raises(ValueError, match=r"model\.in_channels is 1, but the images have 2"):
        training.run(config, tmp_path / "run")
    changed, workdir = tmp_path / "data", tmp_path / "copy"
    shutil.copytree(root, changed)
    shutil.copytree(trained[0], workdir)
    for path in changed.glob("imagesTr/*_0001.tif"):
        path.unlink()
    with pytest.raises(ValueError, match=r"a run on images of 2 channels, and those .* now have 1"):
        training.run(config_of(changed, epochs=6), workdir)


def test_images_of_other_channels_are_not_predicted(
    trained, root, volumes_folder, tmp_path, capsys
):
    workdir = str(trained[0])
    image = str(volumes_folder / "train_images" / "v0.tif")
    named = ["--workdir", workdir, "--input", image, "--output", str(tmp_path / "out")]
    assert predict.main(named) == 1
    assert "v0: the image has 1 channel, but the network of" in capsys.readouterr().err
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(root / "imagesTr" / "v0_0000.tif", alone)
    shutil.copy(root / "imagesTr" / "v0_0001.tif", alone)
    shutil.copy(root / "imagesTr" / "v1_0000.tif", alone)
    named[3] = str(alone)
    assert predict.main(named) == 1
    assert "lacks v1_0001.tif, a channel of v1" in capsys.readouterr().err


def assert_blocks_equal(run, root, name, whole, output):
    """The mask of a volume of two channels, block by block, is that in the folder `whole`."""
    image = root / "imagesTr" / f"{name}_{{0000..0001}}.tif"
    named = ["--workdir", str(run), "--input", str(image), "--output", str(output)]
    assert predict.main([*named, "--block", "16", "--chunk", "8"]) == 0
    mask = read_volume(whole / f"{name}.tif")
    assert 0 < mask.mean() < 1
    np.testing.assert_array_equal(read_volume(output), mask)


def test_blocks_of_two_channels(trained, root, tmp_path, capsys):
    run, one = trained[0], root / "imagesTr" / "v0_0000.tif"
    status, (name, *_) = predicted(run, root, tmp_path / "out")
    assert status == 0
    assert_blocks_equal(run, root, name, tmp_path / "out", tmp_path / "b.zarr")
    command = ["--workdir", str(run), "--input", str(one), "--output", str(tmp_path / "o.zarr")]
    assert predict.main(command) == 1
    assert "v0_0000.tif has 1 channel, but the network of" in capsys.readouterr().err


def test_each_volume_by_itself(root, tmp_path, capsys):
    config = config_of(root, epochs=1)
    config.preprocess.update(per_volume=True, name="zscore", region="nonzero")
    training.run(config, tmp_path / "run")
    status, held_out = predicted(tmp_path / "run", root, tmp_path / "out")
    assert status == 0
    blocks = tmp_path / "run", root, held_out[0], tmp_path / "out", tmp_path / "b.zarr"
    assert_blocks_equal(*blocks)
    assert "Measuring the intensities of all of" in capsys.readouterr().out
    assert_blocks_equal(*blocks)
    again = capsys.readouterr().out
    assert "Measuring" not in again and "8 wanted, 8 done" in again
    own, again = (
        tifffile.imread(folder / "probabilities" / f"{held_out[0]}.tif")
        for folder in (tmp_path / "run" / "validation", tmp_path / "out")
    )
    np.testing.assert_array_equal(again, own)


def test_another_spacing_is_resampled_in_all_channels(root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    for number in range(6):
        three = [2.0, 1.0, 1.0] if number == 0 else [1.0, 1.0, 1.0]
        (data / "imagesTr" / f"v{number}.json").write_text(json.dumps({"spacing": three}))
    training.run(config_of(data, epochs=1), tmp_path / "run")
    moved = list((tmp_path / "run" / "cache" / "resampled").glob("*.image_000?.tif"))
    assert [tifffile.imread(path).shape for path in moved] == [(40, 20, 20)] * 2
    status, _ = predicted(tmp_path / "run", data, tmp_path / "out")
    assert status == 0 and tifffile.imread(tmp_path / "out" / "v0.tif").shape == (20, 20, 20)


def test_the_data_say_how_many_channels_before_a_run(root):
    config = config_of(root)
    arguments = abstract_programs(config)["train"][1]
    assert arguments[1]["image"].shape[-1] == 2
    config.model.in_channels = 3
    assert abstract_programs(config)["train"][1][1]["image"].shape[-1] == 3
    assert Evidence(config_of(root), quick=True).model.in_channels == 2


def test_facts_for_a_plan(root, tmp_path):
    """Ranges are compared channel by channel: those of two channels differ by ten, of none here."""
    config = config_of(root)
    config.data.update(foreground=(1,), ignore=(2,))
    found = facts.gather(config, {"data.foreground": (1,)})
    assert found.range_ratio < 1.5 and found.dtype == "uint16" and found.zeros == 0
    assert len(find_volumes(root)) == 6
