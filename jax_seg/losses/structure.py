"""Losses of object detection in images: the structure loss, and the second system's combination.

All look at logits [B, *spatial, C]; what lies under mask 0 counts as lying outside the image
(`masking`).
"""

import jax
import jax.numpy as jnp
from jax import lax
from optax.losses import sigmoid_binary_cross_entropy

from jax_seg.losses.masking import labelled, mean_over_samples, mean_over_voxels, spatial_sum
from jax_seg.losses.pixel import cross_entropy

WINDOW = 31
"""Side in pixels of the window that tells an object's border from its inside."""


def structure(logits, label, mask):
    """Weighted cross entropy + weighted IoU, mean over images (Wei et al. 2020, "F³Net", eq. 3-8).

    w = 1 + 5 |mean of the label over a window of 31² - label| is large where the label's
    surroundings differ from it: at borders, in holes and in thin parts. Then, over an image,

        Σ w·CE / Σ w   +   1 - (Σ w·p·l + 1) / (Σ w·(p + l - p·l) + 1)

    The window counts what lies outside the image as background, as the field's programs do.

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

    Two spatial axes. Outside of the image both are background.

    Args:
      logits, label, mask: [B, H, W, C], see `masking.labelled`.

    Returns:
      Scalar float32, 0 when no pixel is labelled.
    """
    logits, label, mask = labelled(logits, label, mask)
    difference = _sobel_magnitude(mask * jax.nn.sigmoid(logits)) - _sobel_magnitude(label)
    return mean_over_voxels(jnp.square(difference), mask)


def _sobel_magnitude(x_BHWC):
    squares = []
    for axis, other in ((1, 2), (2, 1)):
        before, _, after = _neighbours(x_BHWC, axis)
        low, middle, high = _neighbours(after - before, other)
        squares.append(jnp.square(low + 2 * middle + high))
    # The constant keeps the gradient finite where the image is flat.
    return jnp.sqrt(sum(squares) + 1e-6)


def _neighbours(x, axis):
    """x one pixel before, here, and one pixel after along an axis; zero outside."""
    length = x.shape[axis]
    padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)])
    return [lax.slice_in_dim(padded, s, s + length, axis=axis) for s in range(3)]


def detection(
    logits,
    label,
    mask,
    *,
    cross_entropy_weight=5.0,
    iou_weight=3.0,
    edge_weight=2.0,
    deep_weight=0.4,
):
    """The second system's loss: 5·CE + 3·soft IoU + 2·edge, + 0.4·mean CE of the coarser levels.

    The gate's load balance is not in it: the model returns it, and the step adds it.

    Args:
      logits: [B, H, W, C], or a tuple of them, finest first, all of the label's shape.
      label, mask: see `masking.labelled`.

    Returns:
      (total, components): scalar float32, and the unweighted value of each term by name.
    """
    finest, *coarser = logits if isinstance(logits, (tuple, list)) else (logits,)
    weights = {"cross_entropy": cross_entropy_weight, "soft_iou": iou_weight, "edge": edge_weight}
    components = {
        "cross_entropy": cross_entropy(finest, label, mask),
        "soft_iou": soft_iou(finest, label, mask),
        "edge": edge(finest, label, mask),
    }
    if coarser:
        weights["deep"] = deep_weight
        deep = [cross_entropy(level, label, mask) for level in coarser]
        components["deep"] = sum(deep) / len(deep)
    total = sum(weights[name] * value for name, value in components.items())
    return total, components
