"""The weighted sum of losses, and what coarser levels of deep supervision are compared with."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.losses import LOSSES, coarsen, combine
from tests.random_arrays import random_patch

SHAPE = (2, 9, 10, 1)
FOCAL = {"alpha": 0.3, "gamma": 2.0}


def test_combine_reports_unweighted_components():
    logits, label = random_patch(SHAPE)
    mask = np.ones_like(label)
    weights = {"focal": 0.5, "dice": 2.0, "cldice": 0.0}
    options = {"focal": FOCAL | {"foreground_weight": 3.0}}
    total, components = combine(logits, label, mask, weights, options=options)
    assert set(components) == {"dice", "focal"}
    dice = LOSSES["dice"](logits, label, mask)
    focal = LOSSES["focal"](logits, label, mask, alpha=0.3, gamma=2.0, foreground_weight=3.0)
    np.testing.assert_allclose([components["dice"], components["focal"]], [dice, focal])
    np.testing.assert_allclose(total, 2 * dice + 0.5 * focal, rtol=1e-6)


def test_a_term_of_weight_zero_is_not_in_the_program():
    logits, label = random_patch(SHAPE)

    def program(weights, **options):
        def loss(logits):
            return combine(logits, label, label, weights, **options)[0]

        return str(jax.make_jaxpr(jax.grad(loss))(logits))

    alone = program({"dice": 1.0})
    zeros = dict.fromkeys(LOSSES, 0.0)
    assert program(zeros | {"dice": 1.0}) == alone
    assert program({"dice": 1.0, "boundary": 0.1}) != alone

    @partial(jax.jit, static_argnames="terms")
    def loss(logits, weights, terms):
        return combine(logits, label, label, weights, terms=terms, options={"focal": FOCAL})[0]

    weights = {name: jnp.float32(0) for name in LOSSES}
    few, all_of_them = (
        loss.lower(logits, weights, terms).as_text(debug_info=True)
        for terms in (("dice", "focal"), tuple(LOSSES))
    )
    scope = '"{}"'.format
    assert all(scope(name) in all_of_them for name in LOSSES)
    assert [name for name in LOSSES if scope(name) in few] == ["dice", "focal"]


def test_new_weights_need_no_new_program():
    logits, label = random_patch(SHAPE)

    @jax.jit
    def loss(weights):
        return combine(logits, label, label, weights, terms=("dice", "boundary"))

    first, components = loss({"dice": jnp.float32(1), "boundary": jnp.float32(0)})
    second, _ = loss({"dice": jnp.float32(0), "boundary": jnp.float32(3)})
    assert loss._cache_size() == 1
    np.testing.assert_allclose([first, second], [components["dice"], 3 * components["boundary"]])


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({"dise": 1.0}, {}, "Unknown loss term 'dise'"),
        ({"dice": 1.0}, {"terms": ("dice", "dise")}, "Unknown loss term 'dise'"),
        ({"dice": 1.0}, {"terms": ("dice", "entropy")}, "'entropy' .* has no weight"),
        ({"dice": 1.0, "entropy": 0.5}, {"terms": ("dice",)}, "'entropy' has weight 0.5"),
        ({"focal": 1.0}, {}, "'focal' needs the option alpha"),
        ({"focal": 1.0}, {"options": {"focal": {"gamma": 2.0}}}, "'focal' needs the option alpha"),
        (
            {"dice": 1.0},
            {"options": {"cldice": {"iteration": 3}}},
            "'cldice' has no option 'iteration': it takes iterations, smooth",
        ),
        ({"dice": 1.0}, {"options": {"dise": {}}}, "Unknown loss term 'dise' in options"),
        ({"edge": 1.0}, {"options": {"edge": {"smooth": 1.0}}}, "'edge' has no .* it takes none"),
        ({"dice": 0.0}, {}, "Every loss weight is 0"),
        (
            {"dice": 1.0},
            {"level_weights": (1, 2)},
            r"loss\.level_weights has 2 numbers for 1 levels",
        ),
        ({"dice": 1.0}, {"level_weights": (0.0,)}, r"loss\.level_weights is \(0\.0,\); give"),
        ({"dice": 1.0}, {"level_weights": (-1.0,)}, r"loss\.level_weights is \(-1\.0,\); give"),
    ],
)
def test_combine_names_what_is_wrong(weights, options, message):
    logits, label = random_patch(SHAPE)
    with pytest.raises(ValueError, match=message):
        combine(logits, label, label, weights, **options)


def test_coarsen_by_hand():
    label = np.array([[0, 0, 1, 0, 0, 0, 2, 1], [0, 0, 0, 0, 0, 2, 2, 2]])[None, ..., None]
    foreground, known = coarsen(label, label != 2, (1, 1, 4, 1))
    np.testing.assert_array_equal(foreground[0, 0, :, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(known[0, 0, :, 0], [1, 1, 0, 1])
    with pytest.raises(ValueError, match="do not divide"):
        coarsen(label, label != 2, (1, 1, 3, 1))


def test_coarsen_keeps_thin_sheets_whole():
    label = np.zeros((1, 16, 16, 16, 1), np.uint8)
    label[:, 6:8] = 1
    foreground, _ = coarsen(label, np.ones_like(label), (1, 2, 2, 2, 1))
    np.testing.assert_array_equal(foreground[0, :, :, :, 0], [[[1, 1]] * 2, [[0, 0]] * 2])


def test_deep_supervision_is_the_weighted_mean_over_levels():
    logits, label = random_patch((2, 8, 12, 1))
    levels = (logits, logits[:, ::2, ::2], logits[:, ::4, ::4])
    mask = (np.random.default_rng(6).random(label.shape) < 0.9).astype(np.uint8)
    weights = {"dice": 1.0, "cross_entropy": 0.5}
    by_level = [combine(level, *coarsen(label, mask, level.shape), weights)[0] for level in levels]
    total, components = combine(levels, label, mask, weights)
    np.testing.assert_allclose(total, np.dot([4, 2, 1], by_level) / 7, rtol=1e-6)
    np.testing.assert_allclose(components["dice"], LOSSES["dice"](logits, label, mask))
    total, _ = combine(levels, label, mask, weights, level_weights=(0, 0, 3))
    np.testing.assert_allclose(total, by_level[2], rtol=1e-6)
    with pytest.raises(ValueError, match="must have one shape"):
        combine(levels[1], label, mask, weights)
