"""What a run refuses: fields and data, by name, before anything is half-written."""

import numpy as np
import pytest
import tifffile

from jax_seg.system import configuration, memory
from jax_seg.training import run as training
from tests.conftest import tiny_config, write_volumes
from tests.training.test_liveness import names

BAD_FIELDS = {
    "seed": [-1],
    "data.root": ["", "/nowhere"],
    "data.name": ["tables"],
    "data.group": ["patient"],
    "data.folds": [4],
    "data.fold": ["3"],
    "data.patch": [(16, 17, 16), (16, 16), (-1, 16, 16)],
    "data.ignore": [()],
    "data.classes": [("sheet=9",), ("sheet=1,1.5",), ("sheet",)],
    "data.patches_per_volume": [0],
    "data.foreground_share": [1.5],
    "data.balance_target": [-0.1],
    "data.cache_gb": [float("nan")],
    "validate.metric": ["f1"],
    "validate.patches_per_volume": [-1],
    "model.name": ["vnet"],
    "model.filters": [0],
    "model.poolings": [-1, 10**6],
    "model.in_channels": [2],
    "model.out_channels": [2, 0],
    "model.dimensions": [2],
    "model.planar_levels": [2],
    "model.deep_supervision": [1],
    "model.dtype": ["float16"],
    "model.foreground_prior": [1.0],
    "loss.focal_alpha": [1.5],
    "loss.dice_smooth": [0.0],
    "loss.cldice_iterations": [-1],
    "loss.variance_target_entropy": [0.7],
    "optimizer.name": ["lion"],
    "optimizer.momentum": [1.0],
    "optimizer.weight_decay": [float("nan")],
    "parts.all.pattern": ["encoder", "encodr_0"],
    "schedule.name": ["linear"],
    "plateau.rule": ["hope"],
    "train.start_from": ["/nowhere", "/nowhere@best@best"],
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_bad_fields_are_named(field, volumes_folder, tmp_path):
    for value in BAD_FIELDS[field]:
        config = tiny_config(volumes_folder)
        config.update_from_flattened_dict({field: value})
        with pytest.raises((ValueError, FileNotFoundError)) as refused:
            training.run(config, tmp_path / "run")
        assert names(field, configuration.flat(config), str(refused.value)), refused.value


def test_bad_fields_of_the_augmentation_are_named(volumes_folder, tmp_path):
    """They are refused when the step is traced, and nothing has been trained by then."""
    config = tiny_config(volumes_folder)
    config.augment.flip = 1.5
    with pytest.raises(ValueError, match=r"augment\.flip is 1\.5"):
        training.run(config, tmp_path / "run")


def test_a_root_and_generated_volumes_are_refused_together(volumes_folder, tmp_path):
    config = tiny_config(volumes_folder)
    config.data.name = "synthetic"
    with pytest.raises(ValueError, match=r"data\.root is .*--config\.data\.name=folder"):
        training.run(config, tmp_path / "run")


def test_validation_volumes_that_memory_cannot_hold_are_refused_before_training(
    volumes_folder, tmp_path, monkeypatch
):
    config, where = tiny_config(volumes_folder), r"train_images/v\d\.tif needs .* GiB of memory"
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(ValueError, match=rf"{where} to score it as a whole .* cut it into parts"):
        training.run(config, tmp_path / "run")


def truncate(root):
    path = root / "train_images" / "v3.tif"
    path.write_bytes(path.read_bytes()[:3000])


def rgb(root):
    tifffile.imwrite(root / "train_images" / "v3.tif", np.zeros((20, 20, 3), np.uint8))


def not_a_number(root):
    volume = np.ones((20, 20, 20), np.float32)
    volume[3, 4, 5] = np.nan
    tifffile.imwrite(root / "train_images" / "v3.tif", volume, compression="lzw")


def other_shape(root):
    tifffile.imwrite(root / "train_labels" / "v3.tif", np.ones((20, 20, 21), np.uint8))


def unlabelled(root):
    tifffile.imwrite(root / "train_labels" / "v3.tif", np.full((20, 20, 20), 2, np.uint8))


def without_label(root):
    (root / "train_labels" / "v3.tif").unlink()


def flat(root):
    tifffile.imwrite(root / "train_images" / "v3.tif", np.zeros((20, 20), np.uint8))


BAD_DATA = {
    "v3.*(cut|truncated|damaged|decode)": truncate,
    "v3.*(RGB|3-D|D, H, W)": rgb,
    "v3.*nan": not_a_number,
    r"v3.*\(20, 20, 21\)|\(20, 20, 21\).*v3": other_shape,
    "v3.*no labelled voxel": unlabelled,
    "v3.*without a label": without_label,
    "v3.*(2-D|D, H, W|3-D)": flat,
}


@pytest.mark.parametrize("message", BAD_DATA)
def test_bad_data_is_named_and_nothing_half_written_stays(message, tmp_path):
    root = write_volumes(tmp_path / "data")
    BAD_DATA[message](root)
    workdir = tmp_path / "run"
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        training.run(tiny_config(root), workdir)
    assert "\n" not in str(caught.value)
    leftovers = [p for p in workdir.rglob("*") if p.is_file() and p.suffix not in (".npy", ".npz")]
    assert leftovers == []


def test_full_disk_while_saving(volumes_folder, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", full)
    with pytest.raises(OSError, match=r"/checkpoints could not .*No space left.*free some disk"):
        training.run(tiny_config(volumes_folder), tmp_path)
    assert not any((tmp_path / "checkpoints").iterdir())
