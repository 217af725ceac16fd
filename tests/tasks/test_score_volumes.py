"""One volume scored: predictions as masks."""

import numpy as np
import pytest
import tifffile

from jax_seg.data.labels import label_table
from jax_seg.tasks.score_volumes import evaluate_volume, read_prediction


def test_read_prediction_keeps_masks(tmp_path):
    mask = np.arange(24).reshape(2, 3, 4) % 3 == 0
    tifffile.imwrite(tmp_path / "p.tif", mask, photometric="minisblack")
    np.testing.assert_array_equal(read_prediction(tmp_path / "p.tif"), mask)


def test_read_prediction_cuts_probabilities_above_the_threshold(tmp_path):
    probability = np.array([0.25, 0.5, 0.75], np.float32).reshape(1, 1, 3)
    tifffile.imwrite(tmp_path / "p.tif", probability, photometric="minisblack")
    assert read_prediction(tmp_path / "p.tif").ravel().tolist() == [0, 0, 1]
    assert read_prediction(tmp_path / "p.tif", 0.2).ravel().tolist() == [1, 1, 1]


def test_predictions_of_classes_hold_0_whatever_the_label_of_background(tmp_path):
    table = label_table(background=(1,), ignore=(), classes=("a=2", "b=3"))
    for name, values in (("label", [1, 1, 2, 3]), ("prediction", [0, 2, 2, 3])):
        voxels = np.array(values, np.uint8).reshape(1, 2, 2)
        tifffile.imwrite(tmp_path / f"{name}.tif", voxels, photometric="minisblack")
    files = tmp_path / "prediction.tif", tmp_path / "label.tif"
    _, found = evaluate_volume(*files, table, threshold=0.5)
    assert {name: one["dice"] for name, one in found["classes"].items()} == {
        "a": pytest.approx(2 / 3),
        "b": 1,
    }
