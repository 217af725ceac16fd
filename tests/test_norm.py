import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.ops.norm import instance_norm_leaky_relu


def plain(x, slope, epsilon):
    axes = tuple(range(1, x.ndim - 1))
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return jax.nn.leaky_relu((x - mean) / jnp.sqrt(variance + epsilon), slope)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 3), (2, 7, 6, 4)])
def test_value_and_gradient_equal_the_plain_formula(shape):
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(2, 3, shape), jnp.float32)
    weights = jnp.asarray(generator.normal(size=shape), jnp.float32)

    def pair(function):
        total = lambda x: (weights * function(x, 0.01, 1e-5)).sum()  # noqa: E731
        return jax.value_and_grad(total)(x)

    value, gradient = jax.jit(lambda: pair(instance_norm_leaky_relu))()
    expected, expected_gradient = pair(plain)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


def test_by_hand():
    x = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    result = instance_norm_leaky_relu(x, slope=0.5, epsilon=0.0)
    np.testing.assert_allclose(result.reshape(-1), [-0.5, 1.0], rtol=1e-6)


def test_a_large_mean_costs_no_digits():
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 8, 2)).astype(np.float32)
    shifted = instance_norm_leaky_relu(jnp.asarray(x + np.float32(1000)))
    np.testing.assert_allclose(shifted, instance_norm_leaky_relu(jnp.asarray(x)), atol=2e-3)


def test_constant_input_is_finite():
    x = jnp.full((1, 4, 4, 4, 2), 7.0)
    value, gradient = jax.value_and_grad(lambda x: instance_norm_leaky_relu(x).sum())(x)
    assert value == 0 and jnp.isfinite(gradient).all()


def test_bfloat16_statistics_are_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(100, 1, (1, 8, 8, 8, 1)), jnp.bfloat16)
    result = instance_norm_leaky_relu(x)
    assert result.dtype == jnp.bfloat16
    expected = plain(x.astype(jnp.float32), 0.01, 1e-5)
    np.testing.assert_allclose(result.astype(jnp.float32), expected, rtol=2**-7, atol=1e-3)


def test_slope_must_be_positive():
    with pytest.raises(ValueError, match="slope"):
        instance_norm_leaky_relu(jnp.ones((1, 2, 2, 1)), slope=0.0)
