"""Instance normalisation and leaky ReLU as one operation, computed in float32."""

import jax
import jax.numpy as jnp


def instance_norm_leaky_relu(x, slope=0.01, epsilon=1e-5):
    """leaky_relu((x - mean) / sqrt(variance + epsilon)), mean and variance over the spatial axes.

    No affine parameters (Ulyanov et al. 2016, eq. 2); biased variance. Statistics are float32.

    Args:
      x: [B, *spatial, C].
      slope: slope of the negative part.
      epsilon: added to the variance.

    Returns:
      As `x`, in its type.
    """
    x32 = x.astype(jnp.float32)
    axes = tuple(range(1, x.ndim - 1))
    mean = x32.mean(axes, keepdims=True)
    variance = jnp.square(x32 - mean).mean(axes, keepdims=True)
    return jax.nn.leaky_relu((x32 - mean) * jax.lax.rsqrt(variance + epsilon), slope).astype(
        x.dtype
    )
