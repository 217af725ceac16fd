"""A workdir made of weights: its preprocessing, and that it appears whole or not at all."""

import jax
import numpy as np
import pytest
import tifffile

from jax_seg import models
from jax_seg.data.preprocess import Preprocessing
from jax_seg.models.unet import Model
from jax_seg.runs import checkpoints, from_weights
from jax_seg.system import configuration

PREPROCESSING = Preprocessing(0.0, 255.0, 0.0, 1 / 255)


def parameters():
    return {"output": {"kernel": np.ones((2, 1), np.float32), "bias": np.zeros(1, np.float32)}}


def write(workdir):
    model = Model(filters=2, poolings=0)
    network = from_weights.Imported(model, parameters(), PREPROCESSING, patch=(16, 16, 16))
    from_weights.write_workdir(workdir, {"": network})


def test_what_is_written_is_read_back(tmp_path):
    (tmp_path / "run").mkdir()  # an empty folder is as good as none
    write(tmp_path / "run")
    variables, stored, step = checkpoints.read_variables(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, variables["params"], parameters())
    assert step == 0 and stored["preprocessing"] == PREPROCESSING._asdict()
    fields = configuration.from_dict(stored["config"]["model"])
    assert models.build(**fields) == Model(filters=2, poolings=0)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(ValueError, match="run is not empty"):
        write(tmp_path / "run")


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_params", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_a_range_must_rise():
    preprocessing = from_weights.preprocessing_of_range(10.0, 30.0)
    assert preprocessing == Preprocessing(10.0, 30.0, 10.0, 0.05)
    with pytest.raises(ValueError, match=r"30 to 10; give the lower number first"):
        from_weights.preprocessing_of_range(30.0, 10.0)


def test_the_range_of_images_is_that_of_all_of_them(tmp_path):
    for name, value in (("a", 40), ("b", 80)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((8, 9, 10), value, np.uint8))
    preprocessing = from_weights.preprocessing_of_images(tmp_path)
    assert (preprocessing.low, preprocessing.high) == (40, 80)


def test_each_channel_of_images_has_its_range(tmp_path):
    for name, values in (("a", (40, 7)), ("b", (80, 9))):
        for channel, value in enumerate(values):
            path = tmp_path / f"{name}_000{channel}.tif"
            tifffile.imwrite(path, np.full((8, 9, 10), value, np.uint8))
    preprocessing = from_weights.preprocessing_of_images(tmp_path, 2)
    assert (preprocessing.low, preprocessing.high) == ((40, 7), (80, 9))
    with pytest.raises(ValueError, match=r"lacks a_0000\.tif, a channel of a"):
        (tmp_path / "a_0000.tif").unlink()
        from_weights.preprocessing_of_images(tmp_path, 2)
    tifffile.imwrite(tmp_path / "c.tif", np.ones((8, 9, 10), np.uint8))
    with pytest.raises(ValueError, match=r"c\.tif has 1 channel, but the network takes 2"):
        from_weights.preprocessing_of_images(tmp_path / "c.tif", 2)
