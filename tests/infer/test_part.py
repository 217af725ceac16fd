"""A part of a volume, computed alone, equals the same part of the whole: bit for bit."""

import functools
import itertools

import jax
import numpy as np
import pytest

from jax_seg.infer import ensemble
from jax_seg.infer.part import box, whole
from jax_seg.infer.sliding_window import count_windows, predict_volume


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
