"""One volume scored: predictions as masks."""

import numpy as np
import tifffile

from jax_seg.tasks.score_volumes import read_prediction


def test_read_prediction_keeps_masks(tmp_path):
    mask = np.arange(24).reshape(2, 3, 4) % 3 == 0
    tifffile.imwrite(tmp_path / "p.tif", mask, photometric="minisblack")
    np.testing.assert_array_equal(read_prediction(tmp_path / "p.tif"), mask)


def test_read_prediction_cuts_probabilities_above_the_threshold(tmp_path):
    probability = np.array([0.25, 0.5, 0.75], np.float32).reshape(1, 1, 3)
    tifffile.imwrite(tmp_path / "p.tif", probability, photometric="minisblack")
    assert read_prediction(tmp_path / "p.tif").ravel().tolist() == [0, 0, 1]
    assert read_prediction(tmp_path / "p.tif", 0.2).ravel().tolist() == [1, 1, 1]
