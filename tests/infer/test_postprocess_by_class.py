"""Post-processing of several classes by hand."""

import numpy as np

from jax_seg.infer.postprocess import by_class
from jax_seg.ops.classes import Classes

IMAGE = np.ones((5, 7, 7), np.uint8)


def logits_of(*masks):
    return np.stack([np.where(mask, 5.0, -5.0) for mask in masks], -1).astype(np.float32)


def test_small_pieces_of_each_class_go_and_holes_are_filled():
    """A ring whose hole another class fills keeps it; a hole of background is filled."""
    ring, core, dust = (np.zeros(IMAGE.shape, bool) for _ in range(3))
    ring[:, 1:6, 1:6] = True
    core[2, 3, 3] = dust[0, 0, 0] = True
    hole = np.zeros_like(ring)
    hole[2, 2, 4] = True
    logits = logits_of(ring & ~core & ~hole, core | dust)
    exclusive = Classes(("ring", "core"), ((1,), (2,)), (1, 2))
    found = by_class.apply(logits, IMAGE, ("threshold", "fill_holes"), exclusive)
    np.testing.assert_array_equal(found[..., 0], ring & ~core)
    np.testing.assert_array_equal(found[..., 1], core | dust)
    found = by_class.apply(logits, IMAGE, ("threshold", "remove_small:voxels=2"), exclusive)
    assert not found[..., 1].any()
    shared = Classes(("ring", "core"), ((1, 2), (2,)), (1, 2))
    found = by_class.apply(logits, IMAGE, ("threshold", "fill_holes"), shared)
    np.testing.assert_array_equal(found[..., 0], ring)  # each for itself


def test_a_threshold_is_of_independent_classes():
    logits = np.full((*IMAGE.shape, 2), np.log(0.7 / 0.3), np.float32)
    shared = Classes(("a", "b"), ((1, 2), (2,)), (1, 2))
    assert by_class.apply(logits, IMAGE, ("threshold:value=0.69",), shared).all()
    assert not by_class.apply(logits, IMAGE, ("threshold:value=0.71",), shared).any()
    exclusive = shared._replace(codes=((1,), (2,)))
    found = by_class.apply(logits, IMAGE, ("hysteresis:low=0.3,high=0.35",), exclusive)
    assert found[..., 0].all()  # each has 7/17 = 0.41 of the softmax
