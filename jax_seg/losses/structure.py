"""Losses of object detection in images: the structure loss, soft IoU and edges.

All take logits [B, *spatial, C]; pixels under mask 0 count as outside the image (`masking`).
"""

import jax
import jax.numpy as jnp
from jax import lax
from optax.losses import sigmoid_binary_cross_entropy

from jax_seg.losses.masking import labelled, mean_over_samples, mean_over_voxels, spatial_sum

WINDOW = 31
"""Side in pixels of the window that separates an object's border from its inside."""


def structure(logits, label, mask):
    """Weighted cross entropy + weighted IoU, mean over images (Wei et al. 2020, "F³Net", eq. 3-8).

    w = 1 + 5 |mean of the label over a window of 31² - label| is large where the label's
    surroundings differ from it: at borders, in holes and in thin parts. Then, over an image,

        Σ w·CE / Σ w   +   1 - (Σ w·p·l + 1) / (Σ w·(p + l - p·l) + 1)

    The window counts pixels outside the image as background, as the field's programs do.

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`.

    Returns:
      Scalar float32, 0 when no pixel is labelled.
    """
    logits, label, mask = labelled(logits, label, mask)
    weight = mask * border_weight(label)
    entropy = spatial_sum(weight * sigmoid_binary_cross_entropy(logits, label))
    entropy /= jnp.maximum(spatial_sum(weight), 1)
    probability = jax.nn.sigmoid(logits)
    both = spatial_sum(weight * probability * label)
    either = spatial_sum(weight * (probability + label - probability * label))
    return mean_over_samples(entropy + 1 - (both + 1) / (either + 1), mask)


def border_weight(label):
    """1 + 5 |mean over the window - label| for label [B, *spatial, C] float32, see `structure`."""
    half = WINDOW // 2
    mean = label
    for axis in range(1, label.ndim - 1):
        window, padding = [1] * label.ndim, [(0, 0)] * label.ndim
        window[axis], padding[axis] = WINDOW, (half, half)
        mean = lax.reduce_window(mean, 0.0, lax.add, window, [1] * label.ndim, padding) / WINDOW
    return 1 + 5 * jnp.abs(mean - label)


def soft_iou(logits, label, mask):
    """1 - (Σ p·l + 1) / (Σ (p + l - p·l) + 1), mean over images (Rahman & Wang 2016, eq. 3).

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`.

    Returns:
      Scalar float32, 0 when no pixel is labelled.
    """
    logits, label, mask = labelled(logits, label, mask)
    probability = mask * jax.nn.sigmoid(logits)
    both = spatial_sum(probability * label)
    either = spatial_sum(probability + label) - both
    return mean_over_samples(1 - (both + 1) / (either + 1), mask)


def edge(logits, label, mask):
    """Mean squared difference of the Sobel magnitudes of probability and label.

    Outside of the image both are background.

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`.

    Returns:
      Scalar float32, 0 when no pixel is labelled.
    """
    logits, label, mask = labelled(logits, label, mask)
    difference = _sobel_magnitude(mask * jax.nn.sigmoid(logits)) - _sobel_magnitude(label)
    return mean_over_voxels(jnp.square(difference), mask)


def _sobel_magnitude(x):
    squares, axes = [], range(1, x.ndim - 1)
    for axis in axes:
        before, _, after = _neighbours(x, axis)
        slope = after - before
        for other in axes:
            if other != axis:
                low, middle, high = _neighbours(slope, other)
                slope = low + 2 * middle + high
        squares.append(jnp.square(slope))
    # The constant keeps the gradient finite where the image is flat.
    return jnp.sqrt(sum(squares) + 1e-6)


def _neighbours(x, axis):
    """x one pixel before, here, and one pixel after along an axis; zero outside."""
    length = x.shape[axis]
    padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)])
    return [lax.slice_in_dim(padded, s, s + length, axis=axis) for s in range(3)]
