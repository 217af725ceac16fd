"""Convolution with 'same' padding: the platform's own form, or a blocked form on a CPU."""

from jax import lax


def conv(x, kernel):
    """Convolve with 'same' padding and stride 1.

    Args:
      x: [B, *spatial, C], two or three spatial axes.
      kernel: [*size, C, K], odd sizes, in the compute type of `x`.

    Returns:
      [B, *spatial, K] in the type of `x`.
    """
    spatial = "DHW"[-(x.ndim - 2) :]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(
        x, kernel, (1,) * (x.ndim - 2), "SAME", dimension_numbers=numbers
    )
