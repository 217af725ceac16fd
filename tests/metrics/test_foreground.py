"""Scores of thin structures, worked by hand on sheets."""

import numpy as np
import pytest

from jax_seg.metrics.foreground import (
    foreground_scores,
    medial_surface,
    share_statistics,
    surface_distances,
)
from jax_seg.ops.classes import MASKED


def sheet(*planes, shape=(12, 15, 15)):
    mask = np.zeros(shape, np.uint8)
    mask[list(planes)] = 1
    return mask


@pytest.mark.parametrize("axis", range(3))
def test_medial_surface_of_a_sheet_covers_it(axis):
    mask = np.moveaxis(sheet(4, 5, 6), 0, axis)
    medial = np.moveaxis(medial_surface(mask), axis, 0)
    assert medial[5, 2:-2, 2:-2].all()
    assert medial[[4, 6]].mean() < 0.1  # branches, and the skeleton of the plane itself


def test_medial_surface_of_a_tilted_sheet_has_no_gap():
    z, y, x = np.indices((20, 20, 20))
    height = np.abs(z - 0.5 * y - 0.3 * x - 2)
    medial, inside = medial_surface(height < 2), (slice(4, -4),) * 3
    assert (height[inside][medial[inside]] < 1.5).all()
    assert medial[:, 3:-3, 3:-3].any(axis=0).all()


def test_a_thinner_sheet_keeps_its_medial_surface():
    got = foreground_scores(sheet(5), sheet(4, 5, 6))
    assert got["skeleton_precision"] == 1
    assert got["skeleton_recall"] > 0.85  # branches end on the edges of the label
    assert (got["surface_mean"], got["surface_95"]) == (1, 1)
    assert foreground_scores(sheet(5), sheet(5))["cldice"] == 1


def test_a_hole_costs_skeleton_recall_and_makes_a_loop():
    label = sheet(4, 5, 6)
    torn = label.copy()
    torn[:, 5:10, 5:10] = 0
    got = foreground_scores(torn, label)
    medial = medial_surface(label == 1)
    missed = np.count_nonzero(medial[:, 5:10, 5:10]) / np.count_nonzero(medial)
    assert 0.1 < missed == pytest.approx(1 - got["skeleton_recall"])
    assert (got["loops_predicted"], got["loops_label"]) == (1, 0)
    assert (got["components_predicted"], got["components_label"]) == (1, 1)


def test_distances_by_hand():
    everywhere = np.ones((12, 15, 15), bool)
    near, far = sheet(3) == 1, sheet(5) == 1
    assert surface_distances(near, far, everywhere) == (2, 2)
    assert surface_distances(near, far, everywhere, (0.5, 1, 1)) == (1, 1)
    both = near | (sheet(9) == 1)  # from 3 and 9 to 5: 2 and 4; from 5 to 3: 2
    assert surface_distances(both, far, everywhere) == pytest.approx((8 / 3, 4))


def test_where_a_mask_meets_unlabeled_voxels_it_has_no_surface():
    label, prediction = sheet(4, 5, 6), sheet(4, 5, 6)
    label[6:] = MASKED
    assert foreground_scores(prediction, label)["surface_95"] == 0
    prediction[8:] = 1  # unlabelled there
    label[:4] = MASKED
    label[5, 7, 7] = 0
    got = foreground_scores(prediction, label)
    assert (got["cavities_label"], got["loops_label"], got["components_label"]) == (0, 0, 1)
    assert got["skeleton_recall"] == 1


def test_empty_masks():
    empty, full = sheet(), sheet(5)
    got = foreground_scores(empty, empty)
    assert (got["cldice"], got["surface_mean"], got["surface_95"]) == (1, 0, 0)
    for pair in ((empty, full), (full, empty)):
        got = foreground_scores(*pair)
        assert got["cldice"] == 0
        assert got["surface_mean"] == pytest.approx(np.sqrt(12**2 + 2 * 15**2))


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(2, 2, 2\).*\(2, 2, 3\)"):
        foreground_scores(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))


def test_share_statistics():
    got = share_statistics([0.1, 0.2, 0.6])
    assert got == pytest.approx(
        {"mean": 0.3, "median": 0.2, "std": np.sqrt(0.14 / 3), "min": 0.1, "max": 0.6}
    )
