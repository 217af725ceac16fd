"""A part of a volume, computed alone, equals the same part of the whole: bit for bit."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.data.preprocess import PerVolume, preprocess
from jax_seg.infer import as_nnunet, ensemble
from jax_seg.infer.logits import BACKGROUND
from jax_seg.infer.part import box, cropped, whole
from jax_seg.infer.sliding_window import count_windows, predict_volume
from jax_seg.infer.volume import segment_volume


@jax.jit
def network(patches):
    """3³ filters, so that a voxel depends on its window, and no logit is exact."""
    kernel = np.random.default_rng(1).normal(0, 0.05, (3, 3, 3, 1, 1)).astype(np.float32)
    return jax.lax.conv_general_dilated(
        patches.astype(np.float32),
        kernel,
        (1,) * 3,
        "SAME",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def cuts_of(shape, size):
    return tuple(
        tuple((a, min(a + n, length)) for a in range(0, length, n))
        for length, n in zip(shape, size, strict=True)
    )


def parts_of(volume, size):
    cuts = cuts_of(volume.shape, size)
    for spans in itertools.product(*cuts):
        start = tuple(a for a, _ in spans)
        yield whole(volume)._replace(start=start, size=tuple(b - a for a, b in spans), cuts=cuts)


VOLUME = np.random.default_rng(0).integers(1, 256, (21, 29, 34)).astype(np.uint8)
VOLUME[:, :, 20:] = 0  # windows without input


@pytest.mark.parametrize("shape", [(21, 29, 34), (5, 29, 9)])
@pytest.mark.parametrize("size", [(9, 11, 17), (40, 4, 40)])
@pytest.mark.parametrize("batch", [1, 3])
def test_parts_equal_the_whole(shape, size, batch):
    volume = VOLUME[tuple(slice(n) for n in shape)]
    segment = functools.partial(predict_volume, network, patch=(8, 8, 8), batch=batch)
    expected = np.asarray(segment(volume))
    assert len(np.unique(expected)) > 100
    for part in parts_of(volume, size):
        result = np.asarray(segment(part))
        # Background that no input touches is a constant instead of a sum of weights.
        wanted = expected[box(part.start, part.size)]
        if part.tally["windows"] == part.tally["empty"]:
            np.testing.assert_allclose(result, wanted, rtol=1e-6)
        else:
            np.testing.assert_array_equal(result, wanted)


def test_members_flips_and_turns_of_parts_equal_those_of_the_whole():
    members = [
        functools.partial(predict_volume, network, patch=(8, 8, 8), batch=2),
        functools.partial(predict_volume, network, patch=(6, 8, 8), overlap=0.3),
    ]
    orientations = ensemble.orientations_of(("depth", "height"), rotations=True)
    assert len(orientations) == 16
    volume = VOLUME[:12, :19, :14]
    segment = functools.partial(ensemble.mean_logits, members, orientations=orientations)
    expected = np.asarray(segment(volume))
    for part in parts_of(volume, (12, 10, 9)):
        np.testing.assert_array_equal(segment(part), expected[box(part.start, part.size)])


def test_windows_that_touch_a_part_by_hand():
    """Windows of 8 from 0, 4, 8 and 12 along 20 voxels; the voxels 8 to 11 are in two of them."""
    assert count_windows(20, 8, 0.5, 8, 4) == 2
    assert count_windows(20, 8, 0.5, 8, 5) == 3
    assert count_windows(20, 8, 0.5, 0, 4) == 1
    assert count_windows(5, 8, 0.5, 2, 1) == 1


def test_the_windows_of_parts_are_read_and_nothing_else():
    asked = []
    part = next(iter(parts_of(VOLUME, (8, 8, 8))))

    def read(start, size):
        asked.append((start, size))
        return VOLUME[box(start, size)]

    predict_volume(network, part._replace(read=read), patch=(8, 8, 8))
    ((start, size),) = asked
    # Windows of 8 along 21 voxels start at 0, 3, 6, 10 and 13: three of them before voxel 8.
    assert start == (0, 0, 0) and size[0] == 14


@pytest.mark.parametrize(
    "rule",
    [
        PerVolume("percentile", 0.5, 99.5, "all"),
        PerVolume("zscore", 0.0, 100.0, "box"),
        PerVolume("zscore", 1.0, 99.0, "nonzero"),
    ],
)
@pytest.mark.parametrize("orientation", [ensemble.UPRIGHT, ensemble.Orientation((0, 2), 1)])
def test_parts_of_a_volume_that_is_normalised_by_itself(rule, orientation):
    """Every part takes the numbers of the whole volume, and the windows lie within its box."""
    volume = np.pad(VOLUME, ((4, 0), (0, 3), (9, 2)))
    model = jax.jit(lambda x, own: network(preprocess(x, rule, own)))

    def segment(part):
        turned = ensemble.turn(part, orientation)
        logits = segment_volume(model, turned, rule, patch=(8, 8, 8), overlap=0.5)
        return np.asarray(ensemble.turn_back(logits, orientation))

    expected = segment(volume)
    assert len(np.unique(expected)) > 100
    outside = expected[:4], expected[:, 29:], expected[..., :9], expected[..., 29:]
    for border in outside:
        assert (border == BACKGROUND).all() == (rule.region != "all")
    parts = list(parts_of(volume, (9, 11, 9)))
    assert len({float(segment(part).max()) for part in parts}) > 4
    for part in parts:
        np.testing.assert_allclose(segment(part), expected[box(part.start, part.size)], rtol=1e-6)


def test_a_part_is_cropped_by_hand():
    volume = np.arange(10 * 4 * 4).reshape(10, 4, 4)
    part = whole(volume)._replace(
        start=(4, 0, 0), size=(4, 4, 4), cuts=cuts_of((10, 4, 4), (4,) * 3)
    )
    inside = cropped(part, (slice(3, 7), slice(1, None), slice(None)))
    assert inside.whole == (4, 3, 4) and inside.start == (1, 0, 0) and inside.size == (3, 3, 4)
    assert inside.cuts == (((0, 1), (1, 4)), ((0, 3),), ((0, 4),))
    np.testing.assert_array_equal(inside.read((1, 0, 0), (3, 3, 4)), volume[4:7, 1:])
    assert cropped(part, (slice(0, 4), slice(None), slice(None))) is None


@pytest.mark.parametrize("shape", [(21, 29, 34), (5, 29, 9)])
@pytest.mark.parametrize("region", ["nonzero", "all"])
def test_parts_equal_the_whole_as_nnunet_segments(shape, region):
    volume = np.pad(VOLUME[tuple(slice(n) for n in shape)], ((1, 0), (0, 2), (3, 0)))
    rule = PerVolume("zscore", 0.0, 100.0, region)

    def two_logits(x, own):
        logits = network(preprocess(x, rule, own))
        return jnp.concatenate([-logits, logits], -1)

    segment = functools.partial(
        as_nnunet.segment_volume,
        jax.jit(two_logits),
        preprocessing=rule,
        patch=(8, 8, 8),
        overlap=0.5,
        orientations=ensemble.orientations_of(["height"]),
    )
    expected = np.asarray(segment(volume))
    assert len(np.unique(expected)) > 50
    for part in parts_of(volume, (9, 11, 17)):
        np.testing.assert_array_equal(segment(part), expected[box(part.start, part.size)])
