"""Classes that exclude each other or share voxels: probabilities, decisions, label values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from jax_seg.ops import classes as told_apart
from jax_seg.ops.classes import MASKED, ONE, Classes

EXCLUSIVE = Classes(("sheet", "ink", "sand"), ((1,), (2,), (3,)), (1, 300, 7))
NESTED = Classes(("whole", "core"), ((1, 2), (2,)), (1, 2))


def test_numbers_of_codes_keep_the_masked_and_take_the_last_class():
    codes = np.array([[0, 1, 2, MASKED]], np.uint8)
    assert told_apart.numbers_of(codes, EXCLUSIVE).tolist() == [[0, 1, 2, MASKED]]
    nested = told_apart.numbers_of(codes, NESTED)  # code 2 is of both classes
    assert nested.tolist() == [[0, 1, 2, MASKED]]
    both = Classes(("a", "b"), ((1, 3), (2, 3)), (1, 2))
    assert told_apart.numbers_of(np.array([3, 1, 2], np.uint8), both).tolist() == [2, 1, 2]


def test_which_classes_exclude_each_other():
    assert EXCLUSIVE.exclusive
    assert not NESTED.exclusive and not ONE.exclusive
    assert NESTED.all_codes == (1, 2)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_members_of_a_label(array):
    label = array(np.array([0, 1, 2, MASKED], np.uint8)[:, None])
    assert told_apart.members(label, ONE).tolist() == [[False], [True], [False], [False]]
    nested = [[False, False], [True, False], [True, True], [False, False]]
    assert told_apart.members(label, NESTED).tolist() == nested


def test_probabilities_are_a_softmax_with_a_background_of_zero():
    logits = np.random.default_rng(0).normal(0, 3, (4, 5, 3)).astype(np.float32)
    expected = softmax(np.concatenate([np.zeros((4, 5, 1)), logits], -1), -1)[..., 1:]
    found = told_apart.probabilities_of(logits, EXCLUSIVE)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    one = told_apart.against_rest(logits[..., :1])  # the softmax of one class is its sigmoid
    np.testing.assert_allclose(one, logits[..., :1], rtol=1e-6)
    independent = told_apart.probabilities_of(logits[..., :2], NESTED)
    np.testing.assert_allclose(independent, 1 / (1 + np.exp(-logits[..., :2])), rtol=1e-5)


def test_a_class_that_is_certainly_wrong_keeps_its_gradient():
    """Where the softmax rounds to 0 or 1, a probability's logarithm would have none."""
    logits = jnp.array([200.0, -200.0, 0.0])
    gradient = jax.jacobian(told_apart.against_rest)(logits)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(np.diag(gradient), 1)


def test_the_most_probable_class_is_taken_background_included():
    logits = np.array([[1.0, 2.0, -1.0], [-1.0, -2.0, -3.0], [0.5, 0.4, 0.3]], np.float32)
    found = told_apart.masks_of(logits, EXCLUSIVE, 0.5)
    # In the third no probability reaches one half: 0.28, 0.26, 0.23 and a background of 0.17.
    assert found.tolist() == [[False, True, False], [False] * 3, [True, False, False]]
    assert told_apart.masks_of(logits[:, :2], NESTED, 0.6).tolist() == [
        [True, True],
        [False, False],
        [True, False],
    ]


def test_thresholds_of_nothing_and_of_everything():
    logits = np.array([[-50.0, 50.0]], np.float32)
    assert told_apart.masks_of(logits, NESTED, 0.0).tolist() == [[True, True]]
    assert told_apart.masks_of(logits, NESTED, 1.0).tolist() == [[False, False]]


def test_predictions_hold_label_values():
    masks = np.array([[1, 1], [1, 0], [0, 0]], bool)
    assert told_apart.painted(masks, NESTED.values).tolist() == [2, 1, 0]
    large = told_apart.painted(np.eye(3, dtype=bool), EXCLUSIVE.values)
    assert large.tolist() == [1, 300, 7] and large.dtype == np.uint16
    negative = told_apart.painted(np.eye(2, dtype=bool), (-1, 200))
    assert negative.tolist() == [-1, 200] and negative.dtype == np.int16
