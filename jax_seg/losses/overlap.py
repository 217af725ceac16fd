"""Soft Dice: how far prediction and label overlap."""

import jax

from jax_seg.losses.masking import labelled, mean_over_samples, spatial_sum


def dice(logits, label, mask, *, smooth=1e-5):
    """1 - (2 Σpy + s) / (Σp + Σy + s), sums over space, mean over samples (Milletari et al. 2016).

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`.
      smooth: s; makes an empty prediction of an empty label perfect.

    Returns:
      Scalar float32 in [0, 1].
    """
    logits, label, mask = labelled(logits, label, mask)
    probability = jax.nn.sigmoid(logits) * mask
    overlap = 2 * spatial_sum(probability * label) + smooth
    size = spatial_sum(probability) + spatial_sum(label) + smooth
    return mean_over_samples(1 - overlap / size, mask)
