"""Repairs of sheets: holes plugged and patched, merged sheets cut, and nothing else changed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import morphology

from jax_seg.infer import postprocess
from jax_seg.infer.postprocess.sheets import patch_sheets, plug_holes, split_sheets
from jax_seg.metrics.betti_matching import betti_numbers
from tests.random_arrays import random_mask

MASKS = hnp.arrays(bool, st.tuples(*[st.integers(1, 6)] * 3))
FULL = np.ones((3, 3, 3))
FACES = ndimage.generate_binary_structure(3, 1)


def plane(direction, offset, shape=(11, 11, 11), thickness=1.0):
    """A sheet across `direction`, thick enough not to leak."""
    grid = np.indices(shape) - np.array(shape).reshape(3, 1, 1, 1) // 2
    height = np.tensordot(direction, grid, 1) - offset
    return (height >= 0) & (height < thickness)


@pytest.mark.parametrize("direction", list(itertools.product((0, 1), repeat=3))[1:])
@pytest.mark.parametrize("thickness", [1, 2])
def test_plug_holes_closes_a_hole_of_one_voxel_in_any_direction(direction, thickness):
    # Integer planes that faces join: as thick as the direction has ones.
    whole = plane(direction, 0, thickness=thickness * sum(direction))
    assert betti_numbers(whole) == (1, 0, 0)
    holed = whole.copy()
    for step in range(-3, 4):
        holed[tuple(5 + step * np.array(direction))] = False
    assert betti_numbers(holed)[1] == 1
    found = plug_holes(holed)
    assert betti_numbers(found) == (1, 0, 0)
    assert not (whole & ~found).any()
    # Across a corner the voxel over the hole would close it as well, and all are looked at once.
    assert np.count_nonzero(found & ~whole) == (sum(direction) == 3)


def test_plug_holes_leaves_larger_holes_gaps_and_notches():
    sheet = np.zeros((7, 9, 9), bool)
    sheet[3] = True
    sheet[3, 4, 4:6] = False  # two voxels
    sheet[3, 0, 4] = False  # a notch at the border
    np.testing.assert_array_equal(plug_holes(sheet), sheet)
    parallel = np.zeros((7, 9, 9), bool)
    parallel[[2, 4]] = True  # the voxels between are no holes
    np.testing.assert_array_equal(plug_holes(parallel), parallel)
    cavity = np.ones((3, 3, 3), bool)
    cavity[1, 1, 1] = False
    assert plug_holes(cavity).all()


def test_plug_holes_equals_the_two_topological_numbers():
    mask = random_mask(share=0.55, sigma=0.6)
    padded, found = np.pad(mask, 1), plug_holes(mask)
    eighteen = ndimage.generate_binary_structure(3, 2)
    expected = mask.copy()
    for z, y, x in np.argwhere(~mask):
        cube = padded[z : z + 3, y : y + 3, x : x + 3]
        joined, _ = ndimage.label(cube & eighteen, FACES)
        touching = set(joined[FACES & (joined > 0)])
        background = ~cube
        background[1, 1, 1] = False
        _, parts = ndimage.label(background, FULL)
        expected[z, y, x] = len(touching) == 1 and parts != 1
    np.testing.assert_array_equal(found, expected)
    assert found.sum() > mask.sum()
    for voxel in np.argwhere(found & ~mask)[:10]:
        one = mask.copy()
        one[tuple(voxel)] = True
        assert betti_numbers(one)[0] == betti_numbers(mask)[0]


def surface(height, thickness, shape):
    """Sheet of `thickness` voxels at `height` [rows, columns] of the first axis."""
    mask = np.zeros(shape, bool)
    low = np.floor(height - (thickness - 2) / 2).astype(int)
    rows, columns = np.indices(height.shape)
    for step in range(thickness):
        mask[low + step, rows, columns] = True
    return mask


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_patch_sheets_carries_a_slope_across_a_hole(axis, thickness):
    y, _ = np.indices((20, 22))
    whole = surface(2.0 + y, thickness, (24, 20, 22))
    holed = whole.copy()
    holed[:, 6:11, 8:13] = False
    whole, holed = np.moveaxis(whole, 0, axis), np.moveaxis(holed, 0, axis)
    np.testing.assert_array_equal(patch_sheets(holed, area=25), whole)
    # Along the slope's own axis the hole of a thick sheet looks smaller: here 5 by 3.
    np.testing.assert_array_equal(patch_sheets(holed, area=14), holed)


def test_patch_sheets_bends_with_the_sheet():
    y, x = np.indices((24, 24))
    whole = surface(8 + 0.03 * (y - 12.0) ** 2 + 0.2 * x, 3, (24, 24, 24))
    holed = whole.copy()
    holed[:, 9:15, 10:14] = False
    found = patch_sheets(holed)
    assert betti_numbers(holed) == (1, 1, 0) and betti_numbers(found) == (1, 0, 0)
    assert found[:, 9:15, 10:14].sum(0).tolist() == whole[:, 9:15, 10:14].sum(0).tolist()
    # The heights around are whole voxels, so that of a column inside may be one off.
    assert not (found & ~ndimage.binary_dilation(whole, FACES)).any()


def test_patch_sheets_leaves_open_what_would_merge_or_jump():
    two = np.zeros((12, 16, 16), bool)
    two[5:7] = two[8:10] = True
    two[5:7, 6:10, 6:10] = False
    merged = two.copy()
    merged[7, 7, 7] = merged[8:10, 7, 7] = True  # the other sheet reaches down into the hole
    assert patch_sheets(two)[5:7].all()
    np.testing.assert_array_equal(patch_sheets(merged), merged)
    border = np.zeros((12, 16, 16), bool)
    border[5:7] = True
    border[5:7, :4, 6:10] = False
    np.testing.assert_array_equal(patch_sheets(border), border)


@given(MASKS)
@settings(max_examples=50)
def test_sheet_repairs_only_add(mask):
    parts = ndimage.label(mask, FULL)[1]
    for repaired in (plug_holes(mask), patch_sheets(mask)):
        assert not (mask & ~repaired).any()
        assert ndimage.label(repaired, FULL)[1] <= parts


def merged_sheets():
    """Two sure sheets, and a less sure bridge between them."""
    probability = np.full((12, 16, 16), 0.02, np.float32)
    probability[2:4] = probability[8:10] = 0.97
    probability[4:8, 6:9, 6:9] = np.array([0.8, 0.7, 0.6, 0.8]).reshape(4, 1, 1)
    return probability


def test_split_sheets_cuts_a_bridge_where_it_is_least_sure():
    probability = merged_sheets()
    mask = probability > 0.5
    assert ndimage.label(mask, FULL)[1] == 1
    found = split_sheets(mask, probability)
    assert ndimage.label(found, FULL)[1] == 2
    removed = np.argwhere(mask & ~found)
    assert set(removed[:, 0]) <= {5, 6} and len(removed) <= 18
    # Small seeds, one seed, or sheets that are apart: nothing to cut.
    np.testing.assert_array_equal(split_sheets(mask, probability, voxels=600), mask)
    np.testing.assert_array_equal(split_sheets(mask, probability, seed=0.55), mask)
    apart = probability > 0.9
    np.testing.assert_array_equal(split_sheets(apart, probability), apart)


def test_split_sheets_stands_in_a_list_of_steps():
    found = postprocess.apply(merged_sheets(), None, ["threshold", "split_sheets:seed=0.9"])
    assert ndimage.label(found, FULL)[1] == 2
    assert morphology.label(found).max() == 2
