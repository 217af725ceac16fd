"""Averages against NumPy's mean and against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.training.averaging import ema_update, swa_update


def trees(number):
    keys = jax.random.split(jax.random.key(0), number)
    return [{"kernel": jax.random.normal(key, (2, 3)), "bias": key_data(key)} for key in keys]


def key_data(key):
    return jax.random.normal(jax.random.fold_in(key, 1), (3,), jnp.bfloat16)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_swa_is_the_mean_of_all_trees_in_float32(wrap):
    seen, update = trees(5), wrap(swa_update)
    average = jax.tree.map(lambda x: jnp.full_like(x, 7), seen[0])  # forgotten at count 0
    for count, params in enumerate(seen):
        average = update(average, params, jnp.int32(count))
    for name in ("kernel", "bias"):
        expected = np.mean([np.asarray(tree[name], np.float64) for tree in seen], axis=0)
        assert average[name].dtype == jnp.float32
        np.testing.assert_allclose(average[name], expected, atol=1e-6)


def test_ema_warms_up_by_hand():
    average = {"w": jnp.array([1.0])}
    average = ema_update(average, {"w": jnp.array([2.0])}, 0.999, 0)  # d = 1/10
    assert average["w"] == pytest.approx(1.9)
    average = ema_update(average, {"w": jnp.array([3.0])}, 0.999, 1)  # d = 2/11
    assert average["w"] == pytest.approx((2 * 1.9 + 9 * 3) / 11)


def test_ema_ends_at_its_decay_and_takes_arrays():
    average, params = {"w": jnp.array([1.0])}, {"w": jnp.array([2.0], jnp.bfloat16)}
    # (1 + 89)/(10 + 89) = 0.909: the decay of 0.9 holds from here on
    late = jax.jit(ema_update)(average, params, jnp.float32(0.9), jnp.int32(89))
    assert late["w"] == pytest.approx(1.1) and late["w"].dtype == jnp.float32
    early = jax.jit(ema_update)(average, params, jnp.float32(0.9), jnp.int32(70))  # d = 71/80
    assert early["w"] == pytest.approx(1 + 9 / 80)
