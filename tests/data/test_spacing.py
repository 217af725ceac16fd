"""The spacing of a run: what states it, what is resampled, what is refused."""

import json
import shutil

import numpy as np
import pytest
import tifffile

from jax_seg import predict
from jax_seg.data import spacing
from jax_seg.data.folder import find_images, find_volumes
from jax_seg.data.labels import label_table
from jax_seg.data.readers import open_volume, remote
from jax_seg.data.resample import resample_classes, resample_image
from jax_seg.data.table import read_spacings
from jax_seg.infer.inspection import spacing_as_nnunet
from jax_seg.runs import checkpoints
from jax_seg.system import memory
from jax_seg.tasks import volumes
from jax_seg.training import run as training
from tests.conftest import tiny_config, write_volumes


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Six volumes of 20³, one of which states slices half as far apart as the others' JSON."""
    root = write_volumes(tmp_path_factory.mktemp("mixed"))
    for number in range(6):
        stated = [1.0 if number == 2 else 2.0, 1.0, 1.0]
        path = root / "train_images" / f"v{number}.json"
        path.write_text(json.dumps({"spacing": stated}))
    return root


def config_of(root):
    config = tiny_config(root)
    config.train.epochs = 1
    return config


@pytest.fixture(scope="module")
def trained(mixed, tmp_path_factory):
    """Workdir of a run on the mixed volumes."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    config = config_of(mixed)
    config.data.split_seed = 1
    training.run(config, workdir)
    return workdir


def test_what_states_a_spacing(mixed, tmp_path):
    image = mixed / "train_images" / "v2.tif"
    assert spacing.stated(image) == (1, 1, 1)
    assert spacing.stated(image, (3.0, 2.0, 1.0)) == (3, 2, 1)  # the table comes first
    plain = tmp_path / "plain.tif"
    tifffile.imwrite(plain, np.zeros((2, 3, 4), np.uint8), photometric="minisblack")
    assert spacing.stated(plain) is None
    (tmp_path / "plain.json").write_text('{"spacing": [1, 0, 1]}')
    with pytest.raises(ValueError, match=r"plain\.json states the spacing \[1, 0, 1\]"):
        spacing.stated(plain)
    (tmp_path / "plain.json").write_text('{"threshold": 0.5}')  # as predict writes
    assert spacing.stated(plain) is None


def test_the_table_may_have_a_column(tmp_path):
    root = write_volumes(tmp_path / "data", count=2)
    table = root / "train.csv"
    table.write_text("id,scroll_id,spacing\nv0,s0,2 0.5 0.5\nv1,s0,\n")
    assert read_spacings(table) == {"v0": (2, 0.5, 0.5)}
    assert [v.spacing for v in find_volumes(root)] == [(2, 0.5, 0.5), None]
    assert [v.spacing for v in find_images(root / "train_images")] == [(2, 0.5, 0.5), None]
    table.write_text("id,scroll_id,spacing\nv0,s0,2 0.5\nv1,s0,\n")
    with pytest.raises(ValueError, match=r"the spacing '2 0\.5' for v0: write three"):
        read_spacings(table)
    table.write_text("id,spacing\nv0,2 0.5 0.5\n")
    with pytest.raises(ValueError, match="has no column scroll_id"):
        find_images(root / "train_images")
    table.write_text("image,label\nv0.tif,1\n")  # of something else, which a prediction ignores
    assert [v.spacing for v in find_images(root / "train_images")] == [None, None]


def test_the_runs_own_is_the_target_or_the_median():
    known = [(2.0, 1.0, 1.0), None, (4.0, 1.0, 1.0), (2.0, 1.0, 3.0)]
    assert spacing.of_run(known, ()) == (2, 1, 1)
    assert spacing.of_run(known, (5, 1, 1)) == (5, 1, 1)
    assert spacing.of_run([None], ()) is None


def test_a_run_trains_at_one_spacing_and_is_scored_on_the_volumes_as_they_are(trained, mixed):
    resampled = list((trained / "cache" / "resampled").glob("v2-*.tif"))
    assert len(resampled) == 2  # image and label
    assert {open_volume(path).shape for path in resampled} == {(10, 20, 20)}
    label = next(path for path in resampled if ".label." in path.name)
    values = tifffile.imread(label)
    assert set(np.unique(values)) == {0, 1, 2} and np.all(values[:, :, :4] == 2)
    saved = checkpoints.open_for_reading(trained)
    assert saved.found()[saved.resolve("latest")].loop["spacing"] == [2, 1, 1]
    scored = json.loads((trained / "validation" / "scores.json").read_text())["volumes"]
    for name in scored:
        probability = tifffile.imread(trained / "validation" / "probabilities" / f"{name}.tif")
        assert probability.shape == (20, 20, 20)


def test_a_prediction_is_on_the_grid_of_its_input(trained, mixed, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    voxels = tifffile.imread(mixed / "train_images" / "v2.tif")
    for name, stated in (("same", 2.0), ("finer", 1.0)):
        tifffile.imwrite(images / f"{name}.tif", voxels)
        (images / f"{name}.json").write_text(json.dumps({"spacing": [stated, 1.0, 1.0]}))
    tifffile.imwrite(images / "unknown.tif", voxels)
    command = ["--workdir", str(trained), "--input", str(images)]
    assert predict.main([*command, "--output", str(tmp_path / "out"), "--probabilities"]) == 0
    said = capsys.readouterr().err
    assert said.count("states no spacing") == 1
    assert "unknown.tif states no spacing and is taken as it is" in said
    assert "the network was trained at 2 × 1 × 1 (z, y, x)." in said
    found = [
        tifffile.imread(tmp_path / "out" / "probabilities" / f"{n}.tif") for n in ("same", "finer")
    ]
    assert found[0].shape == found[1].shape == (20, 20, 20)
    assert np.abs(found[0].astype(np.float32) - found[1]).max() > 0.01  # it saw another volume
    same, finer = (
        json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("same", "finer")
    )
    # Windows of 16 voxels: along 20 there are 2, along 10 of twice the spacing 1.
    assert same["windows"] == 8 and "resampled_from" not in same
    assert finer["windows"] == 4
    assert (finer["resampled_from"], finer["resampled_to"]) == ([1, 1, 1], [[2, 1, 1]])
    block = [*command[:3], str(images / "finer.tif"), "--output", str(tmp_path / "mask.zarr")]
    capsys.readouterr()
    assert predict.main(block) == 1
    assert "blocks are not resampled" in capsys.readouterr().err
    unknown = [*command[:3], str(images / "unknown.tif"), "--output", str(tmp_path / "u.zarr")]
    assert predict.main([*unknown, "--block", "16", "--chunk", "16"]) == 0
    assert "unknown.tif states no spacing" in capsys.readouterr().out


def test_a_sheet_across_two_slices_is_kept():
    label = np.zeros((4, 2, 2), np.uint8)
    label[1:3] = 1
    found = resample_classes(label, (1, 1, 1), (2, 1, 1))
    np.testing.assert_array_equal(found, np.ones((2, 2, 2)))
    label[:] = [[[0]], [[0]], [[1]], [[1]]]
    found = resample_classes(label, (1, 1, 1), (2, 1, 1))
    np.testing.assert_array_equal(found[:, 0, 0], [0, 1])


def test_a_run_does_not_go_on_at_another_spacing(mixed, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(mixed, root)
    training.run(config_of(root), tmp_path / "run")
    for path in (root / "train_images").glob("*.json"):
        path.write_text('{"spacing": [3, 1, 1]}')
    config = config_of(root)
    config.train.epochs = 2
    with pytest.raises(ValueError, match=r"at a spacing of 2 × 1 × 1 .* now state 3 × 1 × 1"):
        training.run(config, tmp_path / "run")


def test_what_memory_cannot_hold_is_not_resampled(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 8 * (64 + 2 * 128) - 1)
    with pytest.raises(ValueError, match="A volume of 8×4×4 voxels needs"):
        resample_image(np.ones((4, 4, 4), np.uint8), (2, 1, 1), (1, 1, 1))


def test_never_refuses_another_spacing(mixed, tmp_path):
    config = config_of(mixed)
    config.data.resample = "never"
    with pytest.raises(ValueError, match=r"v2\.tif has a spacing of 1 × 1 × 1 .*data.resample"):
        training.run(config, tmp_path)


def test_the_field_stands_for_all_files(mixed, tmp_path):
    config = config_of(mixed)
    config.data.update(spacing=(3.0, 1.0, 1.0), resample="never")
    training.run(config, tmp_path / "one")
    assert not list((tmp_path / "one" / "cache" / "resampled").glob("*"))
    config.data.update(target_spacing=(6.0, 1.0, 1.0), resample="auto")
    training.run(config, tmp_path / "other")
    copies = list((tmp_path / "other" / "cache" / "resampled").glob("*.tif"))
    assert len(copies) == 12 and {open_volume(path).shape for path in copies} == {(10, 20, 20)}
    options = ["--workdir", str(tmp_path / "other"), "--output", str(tmp_path / "out")]
    assert predict.main([*options, "--input", str(mixed / "train_images" / "v2.tif")]) == 0
    said = json.loads((tmp_path / "out" / "v2.json").read_text())
    assert (said["resampled_from"], said["resampled_to"]) == ([3, 1, 1], [[6, 1, 1]])


@pytest.mark.parametrize(
    ("target", "fields", "said"),
    [
        ((2.0, 1.0, 1.0), {}, 1),
        ((2.0, 1.0, 1.0), {"in_plane_only": True}, 0),
        ((2.0, 1.0, 1.0), {"rotate90": 0.0}, 0),
        ((2.0, 1.0, 3.0), {"in_plane_only": True}, 1),
        ((1.2, 1.0, 1.0), {}, 0),
    ],
)
def test_patches_that_are_turned_though_they_cover_unequal_distances_are_named(
    mixed, tmp_path, target, fields, said
):
    config = config_of(mixed)
    config.data.target_spacing = target
    config.augment.update(fields)
    task = volumes.prepare(
        tmp_path, None, seed=0, **{name: config[name].to_dict() for name in volumes.FIELDS}
    )
    found = [one for one in task.remarks if "a patch covers unequal distances" in one]
    assert len(found) == said


def test_what_is_resampled_or_unknown_is_said(mixed, tmp_path):
    root = shutil.copytree(mixed, tmp_path / "data")
    (root / "train_images" / "v4.json").unlink()
    config = config_of(root)
    config.augment.rotate90, config.data.fold = 0.0, "none"
    task = volumes.prepare(
        tmp_path, None, seed=0, **{name: config[name].to_dict() for name in volumes.FIELDS}
    )
    unknown, copies = task.remarks
    assert unknown.startswith("1 volume (v4) without a stated spacing, unlike the others, count")
    assert copies.startswith("1 of 6 volumes are resampled to the run's spacing, 2 × 1 × 1")


def test_images_are_resampled_once_for_all_meanings_of_their_labels(mixed, tmp_path):
    (volume,) = (v for v in find_volumes(mixed) if v.id == "v2")
    copies = [
        spacing.copy_of(volume, (1, 1, 1), (2, 1, 1), label_table(ignore=some), tmp_path).volume
        for some in ((2,), (2, 3))
    ]
    assert copies[0].image == copies[1].image and copies[0].label != copies[1].label


def test_all_folds_train_at_one_spacing(tmp_path):
    """Also where the median of what one of them trains on is another."""
    root = write_volumes(tmp_path / "data")
    for number in range(6):
        text = json.dumps({"spacing": [1.0 + number, 1.0, 1.0]})
        (root / "train_images" / f"v{number}.json").write_text(text)
    config = config_of(root)
    config.data.cache = str(tmp_path / "cache")
    found = []
    for fold in range(3):
        config.data.fold = str(fold)
        sections = {name: config[name].to_dict() for name in ("data", "synthetic", "preprocess")}
        found.append(volumes.prepare_data(tmp_path, **sections).spacing)
    assert found == [(3.5, 1, 1)] * 3


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"spacing": (1.0, 1.0)}, "data.spacing is"),
        ({"spacing": (1.0, 1.0, -1.0)}, "data.spacing is"),
        ({"target_spacing": (0.0, 1.0, 1.0)}, "data.target_spacing is .* train at the median"),
        ({"resample": "maybe"}, "data.resample is 'maybe'"),
    ],
)
def test_bad_fields(mixed, tmp_path, fields, sentence):
    config = config_of(mixed)
    config.data.update(**fields)
    with pytest.raises(ValueError, match=sentence):
        training.run(config, tmp_path)


def test_other_units_are_not_resampled():
    with pytest.raises(ValueError, match="more than 20 times"):
        spacing.to_resample("a.tif", (1000.0, 1000.0, 1000.0), (1.0, 1.0, 1.0), "auto")
    assert not spacing.to_resample("a.tif", (1.005, 1.0, 1.0), (1.0, 1.0, 1.0), "never")
    assert not spacing.to_resample("a.tif", None, (1.0, 1.0, 1.0), "never")


def test_masks_keep_the_spacing(tmp_path, trained):
    image = tmp_path / "a.ome.tif"
    sizes = {"PhysicalSizeZ": 2, "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.5}
    voxels = np.random.default_rng(0).integers(1, 200, (16, 16, 16)).astype(np.uint8)
    tifffile.imwrite(image, voxels, photometric="minisblack", metadata={"axes": "ZYX", **sizes})
    (tmp_path / "a.json").write_text('{"spacing": [2, 1, 1]}')
    command = ["--workdir", str(trained), "--input", str(image), "--output", str(tmp_path / "out")]
    assert predict.main(command) == 0
    assert open_volume(tmp_path / "out" / "a.tif").spacing == pytest.approx((2, 0.5, 0.5))


def test_nnunet_reads_no_spacing_from_an_address():
    """A volume on a server is predicted as it is; none of its files can be looked at."""
    address = remote.Address("http://localhost:1/scroll.zarr")
    assert spacing_as_nnunet(address) is None
