"""Structure loss and its companions against plain NumPy, and what a mask means to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jax_seg.losses import combine
from jax_seg.losses.structure import border_weight, edge, soft_iou, structure

LOSSES = {
    "structure": structure,
    "soft_iou": soft_iou,
    "edge": edge,
}


@pytest.fixture
def case():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (2, 40, 36, 1)).astype(np.float32)
    label = np.zeros_like(logits)
    label[0, 5:20, 8:30] = 1
    label[1, 30:, :9] = 1  # touches the border
    return logits, label, np.ones_like(logits)


def entropy(logits, label):
    return np.logaddexp(0, logits) - label * logits


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_structure_loss_written_out(case):
    logits, label, _ = case
    total = []
    for l, y in zip(logits[..., 0].astype(float), label[..., 0].astype(float), strict=True):
        mean = ndimage.uniform_filter(y, 31, mode="constant", cval=0)
        w, p = 1 + 5 * np.abs(mean - y), sigmoid(l)
        both, either = (w * p * y).sum(), (w * (p + y)).sum()
        total.append((w * entropy(l, y)).sum() / w.sum() + 1 - (both + 1) / (either - both + 1))
    assert float(structure(*case)) == pytest.approx(np.mean(total), rel=1e-5)


def test_border_weight_by_hand():
    label = jnp.zeros((1, 64, 64, 1)).at[0, 32, 32].set(1)
    weight = border_weight(label)[0, ..., 0]
    assert float(weight[32, 32]) == pytest.approx(1 + 5 * (1 - 1 / 961))
    assert float(weight[32 + 15, 32 - 15]) == pytest.approx(1 + 5 / 961)
    assert float(weight[32 + 16, 32]) == 1
    # A mean over the window that counts outside as background: 1/4 of it is inside at a corner.
    full = border_weight(jnp.ones((1, 64, 64, 1)))[0, ..., 0]
    assert float(full[0, 0]) == pytest.approx(1 + 5 * (1 - (16 / 31) ** 2), rel=1e-5)
    assert float(full[32, 32]) == pytest.approx(1, abs=1e-5)


def test_soft_iou_by_hand():
    logits = jnp.zeros((1, 2, 2, 1))  # p = 1/2 everywhere
    label = jnp.array([1.0, 1, 1, 0]).reshape(1, 2, 2, 1)
    # Σ p·l = 1.5, Σ p + l - p·l = 2 + 3 - 1.5 = 3.5
    assert float(soft_iou(logits, label, jnp.ones_like(label))) == pytest.approx(1 - 2.5 / 4.5)


def test_edge_agrees_with_scipy(case):
    logits, label, _ = case

    def magnitude(x):
        both = (ndimage.sobel(x, axis, mode="constant", cval=0) for axis in (0, 1))
        return np.sqrt(sum(g**2 for g in both) + 1e-6)

    expected = np.mean(
        [
            (magnitude(sigmoid(l)) - magnitude(y)) ** 2
            for l, y in zip(logits[..., 0].astype(float), label[..., 0], strict=True)
        ]
    )
    assert float(edge(*case)) == pytest.approx(expected, rel=1e-4)


def test_combination_is_the_weighted_sum(case):
    logits, label, mask = case
    coarser = [logits * factor for factor in (0.5, 0.1, -1)]
    weights = {"cross_entropy": 5.0, "soft_iou": 3.0, "edge": 2.0}
    options = {"level_weights": (1, 0, 0, 0)}
    deep_weights = weights | {"deep_cross_entropy": 0.4}
    total, parts = combine((logits, *coarser), label, mask, deep_weights, **options)
    deep = np.mean([entropy(level, label).mean() for level in coarser])
    assert float(parts["deep_cross_entropy"]) == pytest.approx(deep, rel=1e-5)
    assert float(parts["cross_entropy"]) == pytest.approx(entropy(logits, label).mean(), rel=1e-5)
    expected = (
        5 * parts["cross_entropy"]
        + 3 * float(soft_iou(logits, label, mask))
        + 2 * float(edge(logits, label, mask))
        + 0.4 * deep
    )
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    alone, parts = combine(logits, label, mask, weights)
    assert "deep_cross_entropy" not in parts
    assert float(total - alone) == pytest.approx(0.4 * deep, rel=1e-3)
    with pytest.raises(ValueError, match="'deep_cross_entropy' needs coarser logits"):
        combine(logits, label, mask, deep_weights)


@pytest.mark.parametrize("name", LOSSES)
def test_unlabelled_pixels_lie_outside_of_the_image(case, name):
    logits, label, mask = case
    box = np.zeros_like(mask)
    box[:, 3:30, 5:] = 1
    cut = tuple(array[:, 3:30, 5:] for array in case)
    loss = jax.jit(jax.value_and_grad(LOSSES[name]))
    masked, gradient = loss(logits, label, box)
    cropped, cut_gradient = loss(*cut)
    assert float(masked) == pytest.approx(float(cropped), rel=1e-5)
    np.testing.assert_allclose(gradient[:, 3:30, 5:], cut_gradient, atol=1e-7)
    assert not np.asarray(gradient)[box == 0].any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["empty", "full", "unlabelled"])
def test_gradients_are_finite_on_extreme_labels(name, kind):
    logits = jnp.array([-90.0, 0, 90, 3] * 4).reshape(1, 4, 4, 1)
    label = jnp.full_like(logits, kind == "full")
    mask = jnp.full_like(logits, kind != "unlabelled")
    value, gradient = jax.value_and_grad(LOSSES[name])(logits, label, mask)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    if kind == "unlabelled":
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize("name", LOSSES)
def test_descent_finds_the_label(case, name):
    _, label, mask = case
    right, wrong = (LOSSES[name](sign * 20 * (2 * label - 1), label, mask) for sign in (1, -1))
    assert float(right) < 0.01 < float(wrong)


def test_bfloat16_logits_give_a_float32_loss(case):
    logits, label, mask = case
    assert structure(jnp.asarray(logits, jnp.bfloat16), label, mask).dtype == jnp.float32
