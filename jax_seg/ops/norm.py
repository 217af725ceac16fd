"""Instance normalisation and leaky ReLU as one operation, computed in float32.

Without scale and bias of its own, or with them (`affine_norm`).
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _normalise(x, slope, epsilon, stored):
    return _forward(x, slope, epsilon, stored)[0]


def instance_norm_leaky_relu(x, slope=0.01, epsilon=1e-5, stored=False):
    """leaky_relu((x - mean) / sqrt(variance + epsilon)), mean and variance over the spatial axes.

    No affine parameters (Ulyanov et al. 2016, eq. 2); biased variance, of the deviations from the
    mean, so that a large mean costs no precision. Statistics are float32. The backward pass needs
    the output alone, which the next layer keeps anyway, and not `x`: the function is inverted.

    Args:
      x: [B, *spatial, C].
      slope: slope of the negative part, positive.
      epsilon: added to the variance.
      stored: whether the result is written to memory anyway, as the input of a convolution is. On a
        GPU XLA would compute it from `x` again in the backward pass and keep both for that; so the
        gradient reads the result, and `x` is dropped. Where all that follows is computed together
        with the norm, as pooling is, the result is never written, and `x` is kept.

    Returns:
      As `x`, in its type.

    Raises:
      ValueError: for a slope that is not positive.
    """
    if slope <= 0:
        raise ValueError(
            f"instance_norm_leaky_relu got slope {slope}; give a positive one, because the "
            "gradient is computed from the output."
        )
    return _normalise(x, slope, epsilon, stored)


def _forward(x, slope, epsilon, stored):
    x32 = x.astype(jnp.float32)
    axes = _spatial_axes(x)
    mean, variance = _statistics(x32, axes)
    scale = jax.lax.rsqrt(variance + epsilon)
    y = jax.nn.leaky_relu((x32 - mean) * scale, slope).astype(x.dtype)
    return y, (y, scale)


def _statistics(x32, axes):
    """(mean, biased variance) over `axes`, kept as axes of 1, in one pass over memory.

    Of the distances from a rough mean, that of every 8th voxel along each axis, so that little
    cancels in E(d²) - E(d)² (Chan et al. 1983, "Algorithms for computing the sample variance", §3).
    """
    some = x32[
        tuple(slice(None, None, 8) if axis in axes else slice(None) for axis in range(x32.ndim))
    ]
    rough = some.mean(axes, keepdims=True)
    distance = x32 - rough
    mean = distance.mean(axes, keepdims=True)
    squares = jnp.square(distance).mean(axes, keepdims=True)
    return rough + mean, jnp.maximum(squares - jnp.square(mean), 0.0)


def _backward(slope, epsilon, stored, saved, gradient):
    """With n the normalised x and g its gradient: scale · (g - mean(g) - n · mean(g · n))."""
    y, scale = saved
    if stored:
        y = jax.lax.platform_dependent(y, cpu=lambda y: y, default=jax.lax.optimization_barrier)
    y32 = y.astype(jnp.float32)
    g = gradient.astype(jnp.float32) * jnp.where(y32 >= 0, 1.0, slope)
    n = y32 * jnp.where(y32 >= 0, 1.0, 1 / slope)
    return (_of_input(n, scale, g, _spatial_axes(y)).astype(y.dtype),)


def _of_input(n, scale, g, axes):
    along = (g * n).mean(axes, keepdims=True)
    return scale * (g - g.mean(axes, keepdims=True) - n * along)


def _spatial_axes(x):
    return tuple(range(1, x.ndim - 1))


_normalise.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def affine_norm(x, gain, offset, slope=1.0, epsilon=1e-5):
    """leaky_relu(gain · (x - mean) / sqrt(variance + epsilon) + offset).

    As `instance_norm_leaky_relu`, with a gain and an offset per channel; a slope of 1 is no
    activation. The backward pass keeps the normalised x in the type of `x`: with a gain the
    function cannot be inverted, since a gain may be 0.

    Args:
      x: [B, *spatial, C].
      gain, offset: [C] float32.
      slope, epsilon: see `instance_norm_leaky_relu`; any slope.

    Returns:
      As `x`, in its type.
    """
    return _affine_forward(x, gain, offset, slope, epsilon)[0]


def _affine_forward(x, gain, offset, slope, epsilon):
    x32 = x.astype(jnp.float32)
    mean, variance = _statistics(x32, _spatial_axes(x))
    scale = jax.lax.rsqrt(variance + epsilon)
    n = (x32 - mean) * scale
    y = jax.nn.leaky_relu(gain * n + offset, slope).astype(x.dtype)
    return y, (n.astype(x.dtype), scale, gain, offset)


def _affine_backward(slope, epsilon, saved, gradient):
    n, scale, gain, offset = saved
    axes, n32 = _spatial_axes(n), n.astype(jnp.float32)
    g = gradient.astype(jnp.float32) * jnp.where(gain * n32 + offset >= 0, 1.0, slope)
    return (
        _of_input(n32, scale, gain * g, axes).astype(n.dtype),
        (g * n32).sum((0, *axes)),
        g.sum((0, *axes)),
    )


affine_norm.defvjp(_affine_forward, _affine_backward)
