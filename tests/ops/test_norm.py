"""Instance norm and leaky ReLU against hand-worked numbers and the plain formula's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.ops.norm import affine_norm, instance_norm_leaky_relu
from tests.closeness import assert_close


def plain(x, slope, epsilon):
    """The formula as it is written, differentiated by JAX."""
    axes = tuple(range(1, x.ndim - 1))
    mean = x.mean(axes, keepdims=True)
    variance = jnp.square(x - mean).mean(axes, keepdims=True)
    return jax.nn.leaky_relu((x - mean) / jnp.sqrt(variance + epsilon), slope)


def random(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_hand_worked():
    x = jnp.array([1.0, 3.0, 5.0, 7.0]).reshape(1, 2, 2, 1)  # mean 4, variance 5
    y = instance_norm_leaky_relu(x, slope=0.1, epsilon=4.0).ravel()
    np.testing.assert_allclose(y, [-0.1, -0.1 / 3, 1 / 3, 1.0], rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4, 3), (3, 5, 4, 2), (1, 1, 1, 1, 2)])
@pytest.mark.parametrize("slope", [0.01, 0.3])
def test_equals_the_plain_formula(shape, slope):
    x, gradient = 3 * random(shape) + 2, random(shape, 1)
    y, pull = jax.vjp(lambda x: instance_norm_leaky_relu(x, slope, 1e-3), x)
    expected, expected_pull = jax.vjp(lambda x: plain(x, slope, 1e-3), x)
    assert_close(y, expected)
    assert_close(pull(gradient), expected_pull(gradient))


def test_under_jit_and_remat():
    x, gradient = random((1, 4, 4, 4, 3)), random((1, 4, 4, 4, 3), 1)

    def objective(x):
        return (jax.checkpoint(instance_norm_leaky_relu)(jnp.sin(x)) * gradient).sum()

    def expected(x):
        return (plain(jnp.sin(x), 0.01, 1e-5) * gradient).sum()

    assert_close(jax.jit(jax.grad(objective))(x), jax.grad(expected)(x))


def test_a_large_mean_costs_no_digits():
    x = np.asarray(
        random((1, 8, 8, 8, 2)) + 1000.0
    )  # the mean of the squares minus its square: noise
    exact = x.astype(np.float64)
    exact = (exact - exact.mean((1, 2, 3))) / np.sqrt(exact.var((1, 2, 3)) + 1e-5)
    y = instance_norm_leaky_relu(jnp.asarray(x), slope=1.0)
    np.testing.assert_allclose(y, exact, atol=1e-3)


def test_constant_input_is_finite():
    x = jnp.full((1, 4, 4, 4, 2), 7.0)
    y, pull = jax.vjp(instance_norm_leaky_relu, x)
    np.testing.assert_array_equal(y, 0.0)
    assert np.isfinite(pull(random(x.shape))[0]).all()


def test_bfloat16_keeps_float32_statistics():
    x = (random((2, 6, 6, 6, 3)) + 8).astype(jnp.bfloat16)
    gradient = random(x.shape, 1).astype(jnp.bfloat16)
    y, pull = jax.vjp(instance_norm_leaky_relu, x)
    (actual,) = pull(gradient)
    assert y.dtype == actual.dtype == jnp.bfloat16
    exact, exact_pull = jax.vjp(lambda x: plain(x, 0.01, 1e-5), x.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2**-7, atol=1e-6)
    (expected,) = exact_pull(gradient.astype(jnp.float32))
    assert np.abs(actual.astype(jnp.float32) - expected).max() < 2**-6 * np.abs(expected).max()


def test_shifting_and_scaling_the_input_has_no_gradient():
    x, gradient = random((1, 5, 5, 5, 2)), random((1, 5, 5, 5, 2), 1)
    (pulled,) = jax.vjp(lambda x: instance_norm_leaky_relu(x, epsilon=0.0), x)[1](gradient)
    np.testing.assert_allclose(pulled.sum((1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose((pulled * x).sum((1, 2, 3)), 0, atol=1e-4)


def test_slope_must_be_positive():
    with pytest.raises(ValueError, match="slope"):
        instance_norm_leaky_relu(jnp.zeros((1, 2, 2, 1)), slope=0.0)


def test_affine_hand_worked():
    x = jnp.array([1.0, 3.0, 5.0, 7.0]).reshape(1, 2, 2, 1)  # mean 4, variance 5
    y = affine_norm(x, jnp.array([2.0]), jnp.array([-1.0]), 0.1, 4.0).ravel()
    np.testing.assert_allclose(y, [-0.3, -1 / 6, -1 / 30, 1.0], rtol=1e-6)


@pytest.mark.parametrize("slope", [0.01, 1.0])
def test_affine_equals_the_plain_formula(slope):
    """Values and all three gradients, a gain of zero included."""
    shape = (2, 3, 4, 5, 3)
    x, gradient = 3 * random(shape) + 2, random(shape, 1)
    gain, offset = jnp.array([0.0, -1.5, 0.7]), jnp.array([0.3, 0.2, -1.0])

    def written(x, gain, offset):
        return jax.nn.leaky_relu(gain * plain(x, 1.0, 1e-3) + offset, slope)

    y, pull = jax.vjp(lambda *of: affine_norm(*of, slope, 1e-3), x, gain, offset)
    expected, expected_pull = jax.vjp(written, x, gain, offset)
    assert_close(y, expected)
    assert_close(pull(gradient), expected_pull(gradient))
