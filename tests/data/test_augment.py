"""Augmentation against numpy, scipy and numbers worked out by hand."""

import itertools
from functools import partial

import jax
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from jax_seg.data import warp
from jax_seg.data.augment import PROBABILITIES, augment

EVERYTHING = dict.fromkeys(("flip", *PROBABILITIES), 1.0)
INTENSITY = dict.fromkeys(PROBABILITIES[3:], 1.0)


def random_batch(shape, samples=1, channels=1, label_type=np.uint8):
    """White noise; the label is where it is positive, and every seventh voxel is unlabelled."""
    noise = np.random.default_rng(0).normal(size=(samples, *shape, channels)).astype(np.float32)
    mask = (np.arange(noise[..., :1].size).reshape(noise[..., :1].shape) % 7 > 0).astype(label_type)
    return {"image": noise, "label": (noise[..., :1] > 0).astype(label_type) * mask, "mask": mask}


def compiled(**fields):
    """Without optimisation, because compiling is nearly all that these tests do."""
    return jax.jit(
        partial(augment, **fields), compiler_options={"xla_backend_optimization_level": 0}
    )


def run(batch, key=0, **fields):
    return jax.tree.map(np.asarray, compiled(**fields)(jax.random.key(key), batch))


def assert_same(actual, expected):
    for name in ("image", "label", "mask"):
        np.testing.assert_array_equal(actual[name], expected[name])


def conditionals(batch, **fields):
    jaxpr = jax.make_jaxpr(partial(augment, **fields))(jax.random.key(0), batch)
    return str(jaxpr).count("cond[")


def test_what_is_off_is_not_in_the_program():
    batch = random_batch((4, 4, 4))
    key = jax.random.key(0)
    assert augment(key, batch) is batch
    assert not jax.make_jaxpr(augment)(key, batch).eqns
    assert conditionals(batch, flip=0.5) == 3
    assert conditionals(batch, flip=(0.0, 0.0, 0.5)) == 1
    assert [conditionals(batch, **{name: 0.5}) for name in PROBABILITIES if name != "rotate90"] == (
        [1] * (len(PROBABILITIES) - 1)
    )


@pytest.mark.parametrize("flip", [(1.0, 0.0, 1.0), (0.0, 1.0)])
def test_flips_are_those_of_numpy(flip):
    batch = random_batch((3, 4, 5)[-len(flip) :], channels=2)
    axes = [1 + axis for axis, probability in enumerate(flip) if probability]
    assert_same(run(batch, flip=flip), {name: np.flip(x, axes) for name, x in batch.items()})


@pytest.mark.parametrize(
    "shape, planes, options",
    [
        ((3, 3, 3), [(0, 1), (0, 2), (1, 2)], {}),
        ((3, 3, 3), [(1, 2)], {"in_plane_only": True}),
        ((2, 3, 3), [(1, 2)], {}),
        ((3, 3), [(0, 1)], {}),
    ],
)
def test_quarter_turns_are_those_of_numpy(shape, planes, options):
    single = random_batch(shape)
    samples = 200
    batch = {name: np.repeat(x, samples, axis=0) for name, x in single.items()}
    result = run(batch, rotate90=1.0, **options)
    turns = {(plane, k) for plane in planes for k in (1, 2, 3)} | {(planes[0], 0)}
    counts = dict.fromkeys(turns, 0)
    for i in range(samples):
        sample = {name: x[i] for name, x in result.items()}
        (turn,) = [
            (plane, k)
            for plane, k in turns
            if np.array_equal(sample["image"], np.rot90(single["image"][0], k, plane))
        ]
        assert_same(sample, {n: np.rot90(x[0], turn[1], turn[0]) for n, x in single.items()})
        counts[turn] += 1
    assert 0.15 < counts.pop((planes[0], 0)) / samples < 0.35
    for count in counts.values():
        assert abs(count / samples - 0.25 / len(planes)) < 0.1


def test_the_identity_returns_the_input():
    batch = random_batch((4, 5, 6), channels=2, label_type=np.float32)
    fields = {"rotate": 1.0, "scale": 1.0, "rotate_degrees": (0, 0), "scale_range": (1, 1)}
    assert_same(run(batch, **fields), batch)


@pytest.mark.parametrize("case", ["volume", "in plane", "image"])
def test_rotation_and_scaling_agree_with_scipy(case):
    angle, step = 20.0, 1.3
    if case == "volume":
        shape, scale = (9, 12, 14), np.array([step] * 3)
        matrix = Rotation.from_euler("ZYX", [angle, -angle, angle], degrees=True).as_matrix()
    elif case == "in plane":
        shape, scale = (4, 12, 15), np.array([1, step, step])
        matrix = Rotation.from_euler("X", angle, degrees=True).as_matrix()
    else:
        shape, scale = (13, 16), np.array([step] * 2)
        matrix = Rotation.from_euler("Z", angle, degrees=True).as_matrix()[:2, :2]
    matrix = matrix * scale
    batch = random_batch(shape)
    result = run(
        batch,
        rotate=1.0,
        scale=1.0,
        rotate_degrees=(angle, angle),
        scale_range=(step, step),
        in_plane_only=case == "in plane",
    )
    centre = (np.array(shape) - 1) / 2

    def transform(x):
        offset = centre - matrix @ centre
        return ndimage.affine_transform(x.astype(float), matrix, offset, order=1, mode="reflect")

    image, label, mask = (batch[name][0, ..., 0] for name in ("image", "label", "mask"))
    np.testing.assert_allclose(result["image"][0, ..., 0], transform(image), atol=2e-3)

    grid = np.moveaxis(np.indices(shape), 0, -1) - centre
    inside = (np.abs(grid @ matrix.T) <= np.array(shape) / 2).all(-1)
    assert 0 < inside.sum() < inside.size
    foreground, labelled = transform(label * mask), transform(mask)
    clear = (np.abs(foreground - labelled / 2) > 2e-3) & (np.abs(labelled - 0.5) > 2e-3)
    assert clear.mean() > 0.9
    expected_label, expected_mask = inside & (foreground > labelled / 2), inside & (labelled > 0.5)
    np.testing.assert_array_equal(result["label"][0, ..., 0][clear], expected_label[clear])
    np.testing.assert_array_equal(result["mask"][0, ..., 0][clear], expected_mask[clear])


def test_outside_the_patch_nothing_is_labelled():
    """At step 2 the voxels of 8 lie at 3.5 + 2(i - 3.5): 0.5 to 6.5 for i = 2 to 5."""
    batch = {name: np.ones((1, 8, 8, 8, 1), np.float32) for name in ("image", "label", "mask")}
    result = run(batch, scale=1.0, scale_range=(2, 2))
    expected = np.zeros((1, 8, 8, 8, 1), np.float32)
    expected[:, 2:6, 2:6, 2:6] = 1
    np.testing.assert_array_equal(result["label"], expected)
    np.testing.assert_array_equal(result["mask"], expected)
    np.testing.assert_array_equal(result["image"], batch["image"])


def test_unlabelled_voxels_do_not_vote_on_a_label():
    """Voxel (1, 1) reads (1.25, 1.4): columns from 2 on are unlabelled, row 1 is foreground.

    Labelled neighbours weigh 0.6, foreground ones 0.75 · 0.6 = 0.45: less than half of all, more
    than half of the labelled. Whatever the unlabelled columns hold, 0.4 of the weight, is ignored.
    """
    label, mask = np.zeros((2, 4, 4, 1), np.uint8)
    label[1], mask[:, :2] = 1, 1
    for unlabelled in (0, 1):
        label[:, 2:] = unlabelled
        sample = {"image": np.zeros((4, 4, 1), np.float32), "label": label, "mask": mask}
        result = warp.resample(sample, np.diag([0.5, 0.2]).astype(np.float32))
        np.testing.assert_array_equal(result["mask"][..., 0], [[1, 1, 0, 0]] * 4)
        np.testing.assert_array_equal(result["label"][:, 1, 0], [1, 1, 0, 0])


def test_where_three_classes_meet_the_largest_is_taken():
    """At step 0.4 voxels 1 and 2 of four read 1.3 and 1.7, rows 0 and 3 read 0.9 and 2.1.

    Voxel (1, 1) reads (1.3, 1.3): of its neighbours (1, 1), (1, 2), (2, 1) and (2, 2) the first
    weighs 0.49, the second and the third 0.21 each, the last 0.09.
    """
    label = np.zeros((4, 4, 3), np.uint8)
    label[:2, :2, 0], label[:2, 2:, 1], label[2:, :, 2] = 1, 1, 1
    mask = np.ones((4, 4, 1), np.uint8)
    sample = {"image": np.zeros((4, 4, 1), np.float32), "label": label, "mask": mask}
    matrix = np.diag([0.4, 0.4]).astype(np.float32)
    apart = warp.resample(sample, matrix)["label"]
    assert apart[1, 1].tolist() == [0, 0, 0]  # none holds half of the weight
    result = warp.resample(sample, matrix, exclusive=True)["label"]
    np.testing.assert_array_equal(result, label)  # no voxel crosses a border
    label[1, 2, 1] = label[2, 1, 2] = label[2, 2, 2] = 0  # background holds 0.51 of voxel (1, 1)
    assert warp.resample(sample, matrix, exclusive=True)["label"][1, 1].tolist() == [0, 0, 0]


def test_exclusive_classes_turn_as_one_class_and_stay_apart():
    batch = random_batch((6, 7, 8), samples=4)
    kind = np.random.default_rng(1).integers(0, 3, batch["label"].shape[:-1])
    apart = batch["label"] * (kind[..., None] == np.arange(3))
    fields = {"rotate": 0.9, "scale": 0.5}
    one = run(batch, key=3, **fields)
    several = run(batch | {"label": apart}, key=3, exclusive=True, **fields)
    np.testing.assert_array_equal(several["label"].sum(-1), one["label"][..., 0])
    assert not np.array_equal(one["label"], batch["label"]) and one["label"].any()


def test_one_class_is_resampled_the_same_way_whether_or_not_it_is_called_exclusive():
    sample = jax.tree.map(lambda array: array[0], random_batch((5, 6, 7)))
    matrix = warp.rotation_matrix(np.array([20.0, -10.0, 5.0]), [(0, 1), (0, 2), (1, 2)], 3)
    pair = (warp.resample(sample, matrix, exclusive)["label"] for exclusive in (False, True))
    np.testing.assert_array_equal(*pair)


def test_image_label_and_mask_move_together():
    """An asymmetric marker: the label is the image above one half, wherever both have gone."""
    marker = np.zeros((8, 12, 12, 12, 1), np.float32)
    marker[:, :6, 2:5, 3:10] = 1
    marker[:, :6, 4:9, 3:5] = 1
    batch = {"image": marker, "label": marker.astype(np.uint8), "mask": np.ones_like(marker)}
    fields = {"flip": 0.5, "rotate90": 0.5, "rotate": 0.5, "scale": 0.5}
    program = compiled(**fields)
    for key in range(4):
        result = jax.tree.map(np.asarray, program(jax.random.key(key), batch))
        assert result["label"].sum() > 0
        clear = np.abs(result["image"] - 0.5) > 1e-5
        expected = (result["image"] > 0.5) & (result["mask"] > 0)
        np.testing.assert_array_equal(result["label"][clear], expected[clear])


@pytest.mark.parametrize("shape", [(6, 11, 12), (11, 14)])
def test_blur_is_that_of_scipy(shape):
    batch = random_batch(shape, channels=2)
    result = run(batch, blur=1.0, blur_range=(0.8, 0.8))["image"][0]
    for channel in range(2):
        expected = ndimage.gaussian_filter(batch["image"][0, ..., channel], 0.8, truncate=8)
        np.testing.assert_allclose(result[..., channel], expected, atol=1e-5)


@pytest.mark.parametrize("zoom, in_plane_only", [(0.5, False), (0.7, True), (1.0, False)])
def test_low_resolution_is_nearest_down_and_linear_up(zoom, in_plane_only):
    batch = random_batch((5, 8, 10))
    result = run(
        batch,
        low_resolution=1.0,
        low_resolution_range=(zoom, zoom),
        in_plane_only=in_plane_only,
    )

    def down_and_up(line):
        size, coarse = len(line), round(len(line) * zoom)
        kept = [line[int((i + 0.5) * size / coarse)] for i in range(coarse)]
        return np.interp((np.arange(size) + 0.5) * coarse / size - 0.5, np.arange(coarse), kept)

    expected = batch["image"][0, ..., 0]
    for axis in range(int(in_plane_only), 3):
        expected = np.apply_along_axis(down_and_up, axis, expected)
    np.testing.assert_allclose(result["image"][0, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("name, sign", [("gamma", 1), ("gamma_inverted", -1)])
def test_gamma_keeps_mean_and_deviation(name, sign):
    batch = random_batch((6, 7, 8), channels=2)
    batch["image"] = batch["image"] * 3 + 5
    result = run(batch, **{name: 1.0}, gamma_range=(1.5, 1.5))["image"]
    for channel in range(2):
        image = sign * batch["image"][..., channel].astype(float)
        curved = ((image - image.min()) / np.ptp(image)) ** 1.5
        expected = (curved - curved.mean()) / curved.std() * image.std() + image.mean()
        np.testing.assert_allclose(result[..., channel], sign * expected, atol=1e-4)
    np.testing.assert_allclose(result.mean((0, 1, 2, 3)), batch["image"].mean((0, 1, 2, 3)), 1e-4)
    np.testing.assert_allclose(result.std((0, 1, 2, 3)), batch["image"].std((0, 1, 2, 3)), 1e-4)


def test_contrast_stretches_about_the_mean_within_the_extremes():
    image = np.array([0.0, 4.0, 8.0, 8.0], np.float32).reshape(1, 2, 2, 1)
    batch = random_batch((2, 2)) | {"image": image}
    result = run(batch, contrast=1.0, contrast_range=(1.2, 1.2))["image"]
    np.testing.assert_allclose(result.ravel(), [0, 3.8, 8, 8], rtol=1e-6)  # unclipped -1, 3.8, 8.6


def test_brightness_multiplies_by_factors_on_both_sides_of_one():
    batch = {name: np.ones((400, 2, 2, 1), np.float32) for name in ("image", "label", "mask")}
    factors = run(batch, brightness=1.0, brightness_range=(0.5, 3.0))["image"]
    assert np.ptp(factors, axis=(1, 2, 3)).max() == 0
    factors = factors[:, 0, 0, 0]
    assert 0.5 <= factors.min() < 0.55 and 2.9 < factors.max() <= 3
    assert abs((factors < 1).mean() - 0.5) < 0.1


def test_noise_is_a_share_of_the_deviation_of_the_image():
    batch = random_batch((16, 16, 16), channels=2)
    batch["image"] = batch["image"] * np.float32([1, 100])
    added = run(batch, noise=1.0, noise_range=(0.1, 0.1))["image"] - batch["image"]
    share = added.std((0, 1, 2, 3)) / batch["image"].std((0, 1, 2, 3))
    np.testing.assert_allclose(share, [0.1, 0.1], rtol=0.05)
    assert abs(np.corrcoef(added[..., 0].ravel(), added[..., 1].ravel())[0, 1]) < 0.1


def test_everything_at_once_keeps_shapes_and_types():
    batch = random_batch((3, 8, 8), samples=2, channels=2)
    result = run(batch, **EVERYTHING)
    for name, x in batch.items():
        assert result[name].shape == x.shape and result[name].dtype == x.dtype
    assert np.isfinite(result["image"]).all()
    assert set(np.unique(result["label"])) == set(np.unique(result["mask"])) == {0, 1}


def test_intensity_transforms_touch_the_image_alone():
    batch = random_batch((6, 6), samples=2)
    result = run(batch, **INTENSITY)
    assert not np.allclose(result["image"], batch["image"])
    assert_same(result | {"image": batch["image"]}, batch)


def test_a_constant_image_stays_constant():
    batch = random_batch((4, 4)) | {"image": np.full((1, 4, 4, 1), 2.0, np.float32)}
    result = run(batch, noise=1.0, contrast=1.0, gamma=1.0)
    np.testing.assert_allclose(result["image"], batch["image"], rtol=1e-6)


def test_jit_equals_eager():
    batch = random_batch((6, 6), samples=2)
    fields = dict.fromkeys(("flip", "rotate", "gamma"), 0.7)
    eager, jitted = augment(jax.random.key(5), batch, **fields), run(batch, key=5, **fields)
    np.testing.assert_allclose(eager["image"], jitted["image"], atol=1e-5)
    np.testing.assert_array_equal(eager["label"], jitted["label"])
    np.testing.assert_array_equal(eager["mask"], jitted["mask"])


def test_axes_are_flipped_independently():
    batch = {name: np.repeat(x, 64, axis=0) for name, x in random_batch((2, 2, 2)).items()}
    assert len(np.unique(run(batch, flip=0.5)["image"], axis=0)) == 8


def test_draws_depend_on_the_key_and_the_sample_only():
    fields = {"flip": 0.5, "rotate90": 0.5, "brightness": 0.9}
    program = compiled(**fields)
    first, second = jax.random.split(jax.random.key(0))
    single = random_batch((4, 4, 4))
    batch = {name: np.repeat(x, 6, axis=0) for name, x in single.items()}
    result = program(first, batch)
    assert_same(program(first, batch), result)
    assert not np.array_equal(program(second, batch)["image"], result["image"])
    for i, j in itertools.combinations(range(6), 2):
        assert not np.array_equal(result["image"][i], result["image"][j])

    other = {name: x.copy() for name, x in batch.items()}
    other["image"][1:] = 0
    np.testing.assert_array_equal(program(first, other)["image"][0], result["image"][0])

    flips = {name: fields[name] for name in ("flip", "rotate90")}
    np.testing.assert_array_equal(compiled(**flips)(first, batch)["label"], result["label"])


@pytest.mark.parametrize("name", ["flip", "rotate90", "rotate", "gamma"])
def test_a_transform_is_applied_as_often_as_asked(name):
    """One of four quarter turns changes nothing; rotation and scaling may be drawn together."""
    samples, probability = 500, 0.3
    batch = random_batch((4, 4), samples=samples)
    fields = {"flip": (probability, 0.0)} if name == "flip" else {name: probability}
    expected = {"rotate90": 0.75 * probability}.get(name, probability)
    if name == "rotate":
        fields, expected = {"rotate": 0.3, "scale": 0.3}, 1 - 0.7 * 0.7
    changed = (run(batch, **fields)["image"] != batch["image"]).any((1, 2, 3))
    assert abs(changed.mean() - expected) < 4 * np.sqrt(0.25 / samples)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"gama": 0.3}, r"augment\.gama is not known; did you mean augment\.gamma\?"),
        ({"noise": 1.5}, r"augment\.noise is 1\.5, but"),
        ({"flip": (0.5, -0.1, 0.5)}, r"augment\.flip is -0\.1, but"),
        ({"flip": (0.5, 0.5)}, r"augment\.flip .* 3 axes"),
        ({"blur": float("nan")}, r"augment\.blur is nan"),
        ({"rotate90": 0.5}, r"augment\.rotate90 .* \(2, 3, 4\)"),
        ({"scale_range": (1.4, 0.7)}, r"augment\.scale_range is \(1\.4, 0\.7\)"),
        ({"blur_range": (0, 1)}, r"augment\.blur_range is \(0, 1\)"),
        ({"low_resolution_range": (0.5, 2)}, r"augment\.low_resolution_range"),
        ({"noise_range": ()}, r"augment\.noise_range is \(\), but a range is two increasing"),
        ({"gamma_range": (0.7, 1.0, 1.5)}, r"augment\.gamma_range is \(0\.7, 1\.0, 1\.5\)"),
    ],
)
def test_arguments_that_cannot_be_meant_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        augment(jax.random.key(0), random_batch((2, 3, 4)), **fields)


def test_a_batch_of_other_arrays_is_refused():
    batch = random_batch((2, 3, 4))
    with pytest.raises(ValueError, match="distance"):
        augment(jax.random.key(0), batch | {"distance": batch["image"]}, flip=0.5)
    with pytest.raises(ValueError, match=r"float16 \(1, 2, 3, 4, 1\)"):
        augment(jax.random.key(0), batch | {"image": batch["image"].astype(np.float16)})


def test_channels_change_together_or_apart():
    """Brightness multiplies both channels by one factor, or each by its own within the range."""
    batch = random_batch((4, 4, 4), samples=3, channels=2)
    one, two = (run(batch, apart=apart, brightness=1.0) for apart in (False, True))
    factors = [result["image"] / batch["image"] for result in (one, two)]
    for found in factors:
        first = np.broadcast_to(found[:, :1, :1, :1], found.shape)
        np.testing.assert_allclose(found, first, rtol=1e-5)
        assert found.min() >= 0.75 - 1e-5 and found.max() <= 1.25 + 1e-5
    together, apart = (found[:, 0, 0, 0] for found in factors)
    np.testing.assert_allclose(together[:, 0], together[:, 1], rtol=1e-5)
    assert (np.abs(apart[:, 0] - apart[:, 1]) > 1e-3).all()


def test_a_single_channel_does_not_know_of_others():
    batch = random_batch((4, 4, 4))
    assert_same(run(batch, apart=True, **INTENSITY), run(batch, **INTENSITY))


def test_where_channels_lie_does_not_differ():
    """Spatial transforms move every channel alike: of two equal channels, both stay equal."""
    batch = random_batch((4, 4, 4))
    batch["image"] = np.concatenate([batch["image"]] * 2, -1)
    moved = run(batch, apart=True, flip=0.5, rotate90=1.0, rotate=1.0, scale=1.0)["image"]
    np.testing.assert_array_equal(moved[..., 0], moved[..., 1])
