"""Losses of several classes: softmax where they exclude each other, each for itself otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_seg.losses import combine, cross_entropy, dice, skeleton_recall
from jax_seg.ops.classes import against_rest

SHAPE = (2, 4, 6, 5)


@pytest.fixture
def batch():
    """Logits, one-hot labels of three classes, a mask of one channel."""
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 4, SHAPE)
    label = (codes[..., None] == np.arange(1, 4)).astype(np.float32)
    mask = (generator.random((*SHAPE, 1)) > 0.2).astype(np.float32)
    return generator.normal(0, 2, label.shape).astype(np.float32), codes, label, mask


def test_cross_entropy_is_that_of_a_softmax_over_classes_and_background(batch):
    logits, codes, label, mask = batch
    with_background = np.concatenate([np.zeros((*SHAPE, 1)), logits], -1)
    each = optax.softmax_cross_entropy_with_integer_labels(with_background, codes)
    expected = (each * mask[..., 0]).sum() / mask.sum()
    total, parts = combine(logits, label, mask, {"cross_entropy": 2.0}, exclusive=True)
    np.testing.assert_allclose(parts["cross_entropy"], expected, rtol=1e-5)
    np.testing.assert_allclose(total, 2 * expected, rtol=1e-5)


def test_of_one_class_softmax_and_sigmoid_are_one(batch):
    logits, _, label, mask = batch
    one = [array[..., :1] for array in (logits, label, mask)]
    softmax = cross_entropy(*one, exclusive=True)
    np.testing.assert_allclose(softmax, cross_entropy(*one), rtol=1e-6)


def test_other_terms_judge_each_class_against_the_rest(batch):
    logits, _, label, mask = batch
    _, parts = combine(logits, label, mask, {"dice": 1.0, "skeleton_recall": 1.0}, exclusive=True)
    rest = against_rest(jnp.asarray(logits))
    for name, term in (("dice", dice), ("skeleton_recall", skeleton_recall)):
        each = [term(rest[..., [k]], label[..., [k]], mask) for k in range(3)]
        np.testing.assert_allclose(parts[name], np.mean(each), rtol=1e-5)


def test_classes_that_share_voxels_are_judged_by_their_own_logits(batch):
    logits, _, label, mask = batch
    weights = {"dice": 1.0, "cross_entropy": 1.0}
    _, parts = combine(logits, label, mask, weights)
    for name, term in (("dice", dice), ("cross_entropy", cross_entropy)):
        each = [term(logits[..., [k]], label[..., [k]], mask) for k in range(3)]
        np.testing.assert_allclose(parts[name], np.mean(each), rtol=1e-5)


def test_unlabelled_voxels_have_no_gradient(batch):
    logits, _, label, mask = batch
    weights = {"dice": 1.0, "cross_entropy": 1.0}

    def loss(logits):
        return combine(logits, label, mask, weights, exclusive=True)[0]

    gradient = np.abs(jax.grad(loss)(logits))
    assert not gradient[mask[..., 0] == 0].any()
    assert (gradient[mask[..., 0] == 1] > 0).all()


def test_a_coarse_voxel_of_two_classes_is_shared_by_them():
    """A block that holds both: the best answer is half and half, and its loss is log 2."""
    label, mask = np.zeros((1, 2, 2, 2)), np.ones((1, 2, 2, 1))
    label[0, 0, 0, 0] = label[0, 1, 1, 1] = 1
    fine = np.zeros((1, 2, 2, 2), np.float32)
    coarse = np.full((1, 1, 1, 2), 30.0, np.float32)
    options = {"level_weights": (0, 1), "exclusive": True}
    total, _ = combine((fine, coarse), label, mask, {"cross_entropy": 1.0}, **options)
    np.testing.assert_allclose(total, np.log(2), rtol=1e-6)


def test_the_order_of_classes_does_not_matter_beside_unlabelled_voxels(batch):
    logits, _, label, _ = batch
    generator = np.random.default_rng(1)
    mask = generator.integers(0, 2, (*label.shape[:-1], 1))
    coarse = generator.normal(size=(*logits[:, ::2, ::2].shape,)).astype(np.float32)
    weights = {"cross_entropy": 1.0, "deep_cross_entropy": 1.0}

    def loss(order):
        levels = logits[..., order], coarse[..., order]
        return float(combine(levels, label[..., order], mask, weights, exclusive=True)[0])

    assert loss([2, 0, 1]) == pytest.approx(loss([0, 1, 2]), rel=1e-6)


def test_a_coarse_voxel_counts_where_any_class_is_known():
    """Of two voxels one is of the second class and one unlabelled: the loss is its own."""
    label, mask = np.zeros((1, 2, 2)), np.ones((1, 2, 1))
    label[0, 0, 1], mask[0, 1] = 1, 0
    coarse = np.float32([[[0.3, 0.7]]])
    options = {"level_weights": (0, 1), "exclusive": True}
    fine = np.zeros((1, 2, 2), np.float32)
    total, _ = combine((fine, coarse), label, mask, {"cross_entropy": 1.0}, **options)
    np.testing.assert_allclose(total, np.log(1 + np.exp(0.3) + np.exp(0.7)) - 0.7, rtol=1e-5)
