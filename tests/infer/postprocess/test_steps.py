"""Post-processing steps: cases by hand, other programs, and what a step must never do."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import filters

from jax_seg.infer import postprocess
from jax_seg.infer.postprocess import components
from jax_seg.infer.postprocess.morphology import closing, opening, smooth
from tests.random_arrays import random_mask

MASKS = hnp.arrays(bool, st.tuples(*[st.integers(1, 6)] * 3))


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
        ("", "Unknown post-processing step ''"),
        ("hysterisis", "Unknown post-processing step 'hysterisis'; did you mean 'hysteresis'?"),
        ("close:radius=2", "no parameter 'radius': it takes depth, height, width"),
        ("plug_holes:voxels=1", "no parameter 'voxels': it takes none"),
        ("threshold:0.5", "has '0.5': write it as PARAMETER=VALUE"),
        ("threshold:value=0.5,", "has ''"),
        ("threshold:value=1.5", "sets value to '1.5': give a number from 0 to 1"),
        ("threshold:value=nan", "sets value to 'nan'"),
        ("remove_small:voxels=1.5", "sets voxels to '1.5': give an integer"),
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
    assert sentence.endswith((".", "?")) and "\n" not in sentence


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
    path.write_text("{")
    with pytest.raises(ValueError, match=r"postprocess\.json is not valid JSON"):
        postprocess.read_steps(tmp_path)
    for broken in ("{}", '{"steps": ["fil_holes"]}', '{"steps": 3}', '{"steps": "close"}'):
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


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_remove_small_equals_the_definition(share, connectivity):
    mask = np.random.default_rng(1).random((9, 10, 11)) < share
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    labels, _ = ndimage.label(mask, structure)
    sizes = np.bincount(labels.ravel())
    for voxels in (0, 1, 2, 5, 2000):
        kept = mask & (sizes >= voxels)[labels]
        for order in "CF":
            given, before = np.asarray(mask, order=order), mask.copy()
            found = components.remove_small(given, voxels=voxels, connectivity=connectivity)
            np.testing.assert_array_equal(found, kept)
            assert found.dtype == bool
            np.testing.assert_array_equal(given, before)


def test_remove_small_where_every_other_voxel_is_one():
    mask = np.indices((3, 3, 3)).sum(0) % 2 == 0
    assert not components.remove_small(mask, voxels=2, connectivity=6).any()
    np.testing.assert_array_equal(components.remove_small(mask, voxels=1, connectivity=6), mask)


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
@settings(max_examples=50)
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


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 1, 3), (3, 3, 3), (9, 9, 9)])
def test_every_other_voxel_may_be_a_component(shape):
    mask = np.zeros(shape, bool)
    mask[::2, ::2, ::2] = True
    expected, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    np.testing.assert_array_equal(components.connected(mask), expected)
