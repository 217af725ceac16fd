"""Averages of networks and orientations against means worked out one by one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

from jax_seg import fit_ensemble
from jax_seg.infer.ensemble import (
    UPRIGHT,
    Orientation,
    cross_entropy,
    fit_weights,
    mean_logits,
    normalised,
    orientations_of,
    turn,
    turn_back,
)

SHAPE = (3, 4, 5)
GENERATOR = np.random.default_rng(0)
VOLUME = GENERATOR.normal(size=SHAPE).astype(np.float32)


def constant(probability):
    return lambda volume: jnp.full(volume.shape, logit(probability), jnp.float32)


def test_mean_by_hand():
    logits = mean_logits([constant(0.2), constant(0.9)], VOLUME, weights=[3, 1])
    np.testing.assert_allclose(expit(logits), (3 * 0.2 + 0.9) / 4, rtol=1e-5)
    equal = mean_logits([constant(0.2), constant(0.9), constant(0.4)], VOLUME)
    np.testing.assert_allclose(expit(equal), 0.5, rtol=1e-5)


def test_the_mean_is_of_probabilities_not_of_logits():
    logits = mean_logits([constant(0.999), constant(0.4)], VOLUME)
    np.testing.assert_allclose(expit(logits), 0.6995, rtol=1e-4)


def test_one_member_is_untouched():
    stored = jnp.asarray(VOLUME)
    np.testing.assert_array_equal(mean_logits([lambda _: stored], VOLUME), stored)
    other = [lambda _: stored, constant(0.1)]
    np.testing.assert_array_equal(mean_logits(other, VOLUME, weights=[2, 0]), stored)


def test_certain_members_stay_certain():
    for logits in (200.0, -200.0):
        member = functools.partial(jnp.full_like, fill_value=logits)
        np.testing.assert_array_equal(mean_logits([member] * 3, VOLUME), np.inf * logits)


@pytest.mark.parametrize(
    ("flips", "rotations", "count"),
    [
        ((), False, 1),
        (("width",), False, 2),
        (("depth", "height", "width"), False, 8),
        ((), True, 4),
        (("height",), True, 8),  # the symmetries of a square
        (("height", "width"), True, 8),
        (("depth", "height", "width"), True, 16),
    ],
)
def test_every_orientation_once_and_back(flips, rotations, count):
    found = orientations_of(flips, rotations)
    assert found[0] == UPRIGHT and len(found) == count
    cube = np.arange(27).reshape(3, 3, 3)
    assert len({turn(cube, o).tobytes() for o in found}) == count
    for orientation in found:
        np.testing.assert_array_equal(turn_back(turn(VOLUME, orientation), orientation), VOLUME)


def test_turns_by_hand():
    volume = np.array([[[1, 2], [3, 4]]])
    assert turn(volume, Orientation((-1,), 0)).tolist() == [[[2, 1], [4, 3]]]
    assert turn(volume, Orientation((), 1)).tolist() == [[[2, 4], [1, 3]]]
    assert turn(volume, Orientation((-2,), 1)).tolist() == [[[4, 2], [3, 1]]]


def test_orientations_are_averaged_where_they_belong():
    """A network that sees the index along the width only: flipped, every voxel gets the mean."""

    def ramp(volume):
        p = jnp.linspace(0.1, 0.9, volume.shape[-1])
        return jnp.broadcast_to(jnp.log(p / (1 - p)), volume.shape)

    flipped = expit(mean_logits([ramp], VOLUME, orientations=orientations_of(("width",))))
    np.testing.assert_allclose(flipped, 0.5, rtol=1e-5)
    upright = expit(mean_logits([ramp], VOLUME, orientations=orientations_of(("depth",))))
    np.testing.assert_allclose(upright[0, 0], np.linspace(0.1, 0.9, 5), rtol=1e-5)

    square = np.zeros((2, 5, 5), np.float32)
    turned = expit(mean_logits([ramp], square, orientations=orientations_of((), True)))
    p = np.linspace(0.1, 0.9, 5)
    expected = (p[None, :] + p[::-1][:, None] + p[::-1][None, :] + p[:, None]) / 4
    np.testing.assert_allclose(turned[1], expected, rtol=1e-5)


def test_an_equivariant_network_gains_nothing_from_orientations():
    def local(volume):
        return 3 * jnp.asarray(volume)

    views = orientations_of(("depth", "height", "width"), True)
    np.testing.assert_allclose(mean_logits([local], VOLUME, orientations=views), 3 * VOLUME, 1e-4)


def test_memory_does_not_grow_with_the_members():
    """The largest sum of live arrays during a pass, with one large array per pass."""

    def peak(count):
        seen = []

        def member(volume):
            alike = (one for one in jax.live_arrays() if one.shape == large.shape)
            seen.append(sum(one.nbytes for one in alike))
            return jnp.asarray(volume) * 2

        mean_logits([member] * count, large, orientations=orientations_of(("width",)))
        return max(seen)

    large = np.ones((31, 32, 33), np.float32)  # of a shape that no other test leaves behind
    assert peak(2) == peak(8) <= 2 * large.nbytes


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "2 members but 1 weights"),
        ([1.0, -0.5], "weights are 1 -0.5; give numbers of at least 0"),
        ([0.0, 0.0], "not all 0"),
        ([1.0, np.nan], "at least 0"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        normalised(weights, 2)


def mixture(weights, members=3, voxels=4000, volumes=2):
    """Probabilities of members, and labels drawn from their mean with the given weights."""
    generator = np.random.default_rng(1)
    p = [expit(generator.normal(0, 2, (members, voxels))) for _ in range(volumes)]
    return p, [generator.random(voxels) < np.asarray(weights) @ one for one in p]


def test_fitted_weights_are_those_that_made_the_labels():
    found = fit_weights(*mixture([0.6, 0.1, 0.3], voxels=20_000))
    np.testing.assert_allclose(found, [0.6, 0.1, 0.3], atol=0.03)
    assert found.sum() == pytest.approx(1)


def test_no_weights_on_a_grid_are_better():
    probabilities, labels = mixture([0.7, 0.3, 0.0])
    found = fit_weights(probabilities, labels)

    def mean(weights):
        pairs = zip(probabilities, labels, strict=True)
        return np.mean([cross_entropy(weights, p, y) for p, y in pairs])

    grid = [(a, b, 20 - a - b) for a, b in itertools.product(range(21), repeat=2) if a + b <= 20]
    assert mean(found) <= min(mean(np.array(w) / 20) for w in grid) + 1e-9


def test_a_useless_member_gets_nothing():
    (p,), (y,) = mixture([1.0, 0.0], members=2, volumes=1)
    p = np.stack([p[0], 1 - p[0]])
    assert fit_weights([p], [y])[1] < 0.02
    perfect = np.stack([y.astype(float), p[0]])
    np.testing.assert_allclose(fit_weights([perfect], [y]), [1, 0], atol=1e-3)


def test_every_volume_counts_alike():
    """Two volumes that each want another member: ten times the voxels change nothing."""
    a, b = np.array([[0.9], [0.2]]), np.array([[0.2], [0.9]])
    one = fit_weights([a, b], [np.ones(1), np.ones(1)])
    many = fit_weights([np.repeat(a, 10, 1), b], [np.ones(10), np.ones(1)])
    np.testing.assert_allclose(one, 0.5, atol=1e-4)
    np.testing.assert_allclose(many, one, atol=1e-4)


def test_cross_entropy_by_hand():
    p = np.array([[0.2, 0.6], [0.4, 0.8]])
    expected = -(np.log(0.3) + np.log(1 - 0.7)) / 2
    assert cross_entropy([0.5, 0.5], p, [1, 0]) == pytest.approx(expected)


def sampled(*correct, voxels=1000):
    """(probabilities, labels) of volumes on which members of 0.2 and 0.8 are right that often."""
    generator = np.random.default_rng(1)
    labels = [generator.random(voxels) < 0.5 for _ in range(len(correct))]
    right = [np.array([generator.random(voxels) < share for share in c]) for c in correct]
    return [np.where(r == y, 0.8, 0.2) for r, y in zip(right, labels, strict=True)], labels


def test_weights_are_judged_on_volumes_left_out_of_the_fit():
    p, y = sampled((0.95, 0.5), (0.5, 0.95))
    judged = fit_ensemble.judge(p, y)
    # The member that is right on one volume guesses on the other.
    alone = [cross_entropy([0, 1], p[0], y[0]), cross_entropy([1, 0], p[1], y[1])]
    assert judged["best member"] == pytest.approx(np.mean(alone))
    equal = [cross_entropy([0.5, 0.5], *volume) for volume in zip(p, y, strict=True)]
    assert judged["equal"] == pytest.approx(np.mean(equal))
    assert min(judged, key=judged.get) == "equal"
    found = fit_ensemble.choices(*sampled((0.95, 0.5), (0.9, 0.6)))
    np.testing.assert_array_equal(found["best member"], [1, 0])
    np.testing.assert_array_equal(found["equal"], [0.5, 0.5])
