"""Post-processing steps: cases by hand, other programs, and what a step must never do."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import filters, morphology

from jax_seg.infer import components, postprocess
from jax_seg.infer.morphology import closing, opening, smooth
from jax_seg.infer.sheets import patch_sheets, plug_holes, split_sheets
from jax_seg.metrics.betti_matching import betti_numbers

MASKS = hnp.arrays(bool, st.tuples(*[st.integers(1, 6)] * 3))
FULL = np.ones((3, 3, 3))
FACES = ndimage.generate_binary_structure(3, 1)


def random_mask(seed=0, shape=(12, 13, 14), share=0.5, sigma=0.8):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return field > np.quantile(field, 1 - share)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fill_holes", ("fill_holes", {})),
        ("hysteresis:low=0.3,high=0.85", ("hysteresis", {"low": 0.3, "high": 0.85})),
        ("remove_small: voxels = 7", ("remove_small", {"voxels": 7})),
        ("threshold:value=1e-2", ("threshold", {"value": 0.01})),
    ],
)
def test_parse(text, expected):
    name, parameters = postprocess.parse(text)
    assert (name, parameters) == expected
    kinds = {key: type(value) for key, value in postprocess.defaults(name).items()}
    assert all(type(value) is kinds[key] for key, value in parameters.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no post-processing step ''"),
        ("hysterisis", "no post-processing step 'hysterisis', but 'hysteresis'"),
        ("close:radius=2", "no parameter 'radius': it takes depth, height, width"),
        ("plug_holes:voxels=1", "no parameter 'voxels': it takes none"),
        ("threshold:0.5", "has '0.5': write PARAMETER=VALUE"),
        ("threshold:value=0.5,", "has ''"),
        ("threshold:value=1.5", "sets value to '1.5': give a number from 0 to 1"),
        ("threshold:value=nan", "sets value to 'nan'"),
        ("remove_small:voxels=1.5", "sets voxels to '1.5': give a whole number"),
        ("remove_small:voxels=-1", "sets voxels to '-1'"),
        ("remove_small:connectivity=8", "give 6, 18 or 26"),
        ("smooth:sigma=0", "a number above 0"),
        ("smooth:sigma=inf", "a number above 0"),
        ("fill_holes_per_slice:axis=3", "give 0, 1 or 2"),
        ("threshold:value=0.1,value=0.2", "sets value twice"),
        ("hysteresis:low=0.9", "low=0.9 above high=0.85"),
    ],
)
def test_parse_refuses(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        postprocess.parse(text)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence


@pytest.mark.parametrize("name", postprocess.STEPS)
def test_every_default_can_be_written_as_text(name):
    defaults = postprocess.defaults(name)
    text = name + ":" * bool(defaults) + ",".join(f"{k}={v}" for k, v in defaults.items())
    assert postprocess.parse(text) == (name, defaults)


@pytest.mark.parametrize("name", postprocess.STEPS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_step_gives_a_mask_of_the_same_shape(name, share):
    probability = (np.random.default_rng(0).random((5, 6, 7)) < share).astype(np.float16)
    before = probability.copy()
    mask = postprocess.apply(probability, np.ones((5, 6, 7), np.uint8), [name])
    assert mask.dtype == np.uint8 and mask.shape == (5, 6, 7) and mask.max() <= 1
    np.testing.assert_array_equal(probability, before)
    if not share:
        assert not mask.any()
    if share == 1 and name not in ("remove_small",):
        assert mask.all() or name == "open"


def test_apply_carries_the_steps_out_in_order():
    probability = np.zeros((1, 1, 9), np.float32)
    probability[0, 0] = [0.6, 0.4, 0.6, 0, 0, 0.4, 0.4, 0, 0.9]
    closing_first = ["close:depth=0,height=0", "remove_small:voxels=3"]
    np.testing.assert_array_equal(
        postprocess.apply(probability, None, closing_first)[0, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0]
    )
    assert not postprocess.apply(probability, None, closing_first[::-1]).any()
    # Without a first step the threshold is 0.5, and above it means above.
    np.testing.assert_array_equal(
        postprocess.apply(probability, None, [])[0, 0], [1, 0, 1, 0, 0, 0, 0, 0, 1]
    )
    low = ["threshold:value=0.4"]
    np.testing.assert_array_equal(
        postprocess.apply(probability, None, low), postprocess.apply(probability, None, [])
    )


@pytest.mark.parametrize(
    ("probability", "image", "steps", "message"),
    [
        (np.full((2, 2, 2), 1.5), None, [], "hold the value 1.5"),
        (np.full((2, 2, 2), -0.1), None, [], "hold the value -0.1"),
        (np.full((2, 2, 2), np.nan), None, [], "hold the value nan"),
        (np.zeros((2, 2)), None, [], r"shape \(2, 2\)"),
        (np.zeros((2, 2, 2)), None, ["mask_empty"], "needs the image"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), ["mask_empty"], r"\(2, 2, 3\)"),
        (np.zeros((2, 2, 2)), None, ["fill_holes", "threshold"], "'threshold' comes after"),
        (np.zeros((2, 2, 2)), None, "fill_holes", "give a list"),
    ],
)
def test_apply_refuses(probability, image, steps, message):
    with pytest.raises(ValueError, match=message):
        postprocess.apply(probability, image, steps)


def test_read_steps(tmp_path):
    assert postprocess.read_steps(tmp_path) is None
    path = tmp_path / "postprocess.json"
    path.write_text(json.dumps({"steps": ["threshold:value=0.4", "fill_holes"]}))
    assert postprocess.read_steps(tmp_path) == ("threshold:value=0.4", "fill_holes")
    for broken in ("{", "{}", '{"steps": ["fil_holes"]}', '{"steps": 3}', '{"steps": "close"}'):
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"postprocess\.json holds no list of steps"):
            postprocess.read_steps(tmp_path)


def test_hysteresis_equals_scikit_image():
    probability = np.random.default_rng(0).random((9, 10, 11)).astype(np.float32)
    np.testing.assert_array_equal(
        components.hysteresis(probability, low=0.7, high=0.9, connectivity=6),
        filters.apply_hysteresis_threshold(probability, 0.7, 0.9),
    )


@pytest.mark.parametrize(("connectivity", "left"), [(6, 0), (18, 2), (26, 4)])
def test_connectivity_decides_what_is_small(connectivity, left):
    mask = np.zeros((4, 8, 4), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True  # joined along an edge
    mask[0, 5, 0] = mask[1, 6, 1] = True  # at a corner
    mask[3, 3, 3] = True
    found = components.remove_small(mask, voxels=2, connectivity=connectivity)
    assert np.count_nonzero(found) == left and not found[3, 3, 3]


def test_sizes_are_counted_block_by_block(monkeypatch):
    monkeypatch.setattr(components, "BLOCK", 7)
    component = np.random.default_rng(0).integers(0, 9, (5, 4, 3)).astype(np.uint16)
    for order in "CF":
        found = components.sizes_of(np.asarray(component, order=order))
        np.testing.assert_array_equal(found, np.bincount(component.ravel()))


def test_keep_largest():
    mask = np.zeros((1, 1, 12), bool)
    mask[0, 0, [0, 2, 3, 5, 6, 8, 9, 10]] = True
    sizes = [np.flatnonzero(components.keep_largest(mask, components=k)) for k in range(5)]
    assert [list(s) for s in sizes] == [
        [],
        [8, 9, 10],
        [2, 3, 8, 9, 10],  # the first of two equal ones
        [2, 3, 5, 6, 8, 9, 10],
        [0, 2, 3, 5, 6, 8, 9, 10],
    ]


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_fill_holes_equals_scipy(axis):
    mask = random_mask(share=0.75, sigma=0.5)
    if axis is None:
        found, expected = components.fill_holes(mask), ndimage.binary_fill_holes(mask)
    else:
        found = components.fill_holes_per_slice(mask, axis=axis)
        sections = [ndimage.binary_fill_holes(s) for s in np.moveaxis(mask, axis, 0)]
        expected = np.stack(sections, axis)
    assert found.sum() > mask.sum()
    np.testing.assert_array_equal(found, expected)


def test_fill_holes_by_size_and_connectivity():
    mask = np.ones((7, 7, 9), bool)
    mask[3, 3, 2] = False
    mask[3, 3, 5:7] = False
    assert components.fill_holes(mask).all()
    np.testing.assert_array_equal(np.argwhere(~components.fill_holes(mask, voxels=1))[:, 2], [5, 6])
    mask = np.ones((3, 3, 3), bool)
    mask[1, 1, 1] = mask[0, 0, 0] = False  # reaches the border over a corner
    assert components.fill_holes(mask)[1, 1, 1]
    assert not components.fill_holes(mask, connectivity=26)[1, 1, 1]


def test_mask_empty_takes_regions_and_leaves_dark_voxels():
    image = np.full((4, 10, 10), 7, np.uint8)
    image[:, :5] = 0
    image[2, 8, 8] = 0
    found = components.mask_empty(np.ones(image.shape, bool), image, voxels=50)
    assert not found[:, :5].any() and found[:, 5:].all()
    assert not components.mask_empty(found, image, level=7, voxels=50).any()


def ellipsoid(depth, height, width):
    axes = np.ogrid[-depth : depth + 1, -height : height + 1, -width : width + 1]
    radii = depth, height, width
    scaled = [(x / r) ** 2 if r else x * 0.0 for x, r in zip(axes, radii, strict=True)]
    return sum(scaled) <= 1 + 1e-9


@pytest.mark.parametrize("radii", [(1, 1, 1), (0, 1, 2), (2, 0, 0), (3, 2, 1), (3, 3, 3)])
def test_closing_and_opening_equal_scipy_with_an_ellipsoid(radii):
    names = dict(zip(("depth", "height", "width"), radii, strict=True))
    shape = ellipsoid(*radii)
    for seed in range(3):
        mask = random_mask(seed, share=0.3)
        grown = ndimage.binary_dilation(mask, shape)
        expected = ndimage.binary_erosion(grown, shape, border_value=1)
        np.testing.assert_array_equal(closing(mask, **names), expected)
        shrunk = ndimage.binary_erosion(mask, shape, border_value=1)
        np.testing.assert_array_equal(
            opening(mask, **names), ndimage.binary_dilation(shrunk, shape)
        )


@given(MASKS, st.tuples(*[st.integers(0, 2)] * 3))
@settings(deadline=None, max_examples=50)
def test_closing_grows_opening_shrinks_and_twice_is_once(mask, radii):
    names = dict(zip(("depth", "height", "width"), radii, strict=True))
    closed, opened = closing(mask, **names), opening(mask, **names)
    assert not (mask & ~closed).any() and not (opened & ~mask).any()
    np.testing.assert_array_equal(closing(closed, **names), closed)
    np.testing.assert_array_equal(opening(opened, **names), opened)
    if not any(radii):
        np.testing.assert_array_equal(closed, mask)
        np.testing.assert_array_equal(opened, mask)


def test_opening_erases_a_sheet_of_two_voxels():
    mask = np.zeros((9, 9, 9), bool)
    mask[4:6] = True
    assert not opening(mask).any()
    mask[6] = True
    np.testing.assert_array_equal(opening(mask), mask)


def test_smooth_keeps_a_flat_sheet_and_takes_a_spike():
    sheet = np.zeros((15, 15, 15), bool)
    sheet[6:8] = True
    np.testing.assert_array_equal(smooth(sheet), sheet)
    spiked = sheet.copy()
    spiked[8:11, 7, 7] = True
    found = smooth(spiked)
    assert not found[9:, 7, 7].any()
    assert abs(np.count_nonzero(found) - np.count_nonzero(spiked)) <= 4  # equal distances


def test_smooth_leaves_thick_slices_apart():
    mask = random_mask(share=0.4)
    thick = postprocess.apply(mask, None, ["threshold", "smooth:anisotropy=100"])
    # The depth of a slice counts for nothing, then: any order of the slices gives the same.
    order = np.random.default_rng(0).permutation(len(mask))
    np.testing.assert_array_equal(smooth(mask[order], anisotropy=100), thick[order])
    assert not np.array_equal(smooth(mask[order]), smooth(mask)[order])


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
@settings(deadline=None, max_examples=50)
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
