"""The meaning of a mask in a loss: an unlabelled voxel counts as outside the patch.

Every loss keeps two promises, so a partly labelled patch trains exactly as its labelled part alone:
a patch whose mask is a box gives the value of the patch cropped to that box, and a sample without
labelled voxels changes nothing in its batch.
"""

import jax.numpy as jnp


def labelled(logits, label, mask):
    """Cast to float32 and zero everything under mask 0, so that no gradient reaches it.

    Args:
      logits: [B, *spatial, C], any floating type.
      label: same shape, any type; 1 foreground, 0 background, anything where `mask` is 0.
      mask: same shape, any type; nonzero where the voxel is labelled.

    Returns:
      (logits, label, mask) in float32, logits and label 0 where the voxel is unlabelled.

    Raises:
      ValueError: the three shapes differ.
    """
    if not jnp.shape(logits) == jnp.shape(label) == jnp.shape(mask):
        raise ValueError(
            f"Logits {jnp.shape(logits)}, label {jnp.shape(label)} and mask {jnp.shape(mask)} "
            "must have one shape [B, *spatial, C]: reshape or crop them before the loss."
        )
    known = jnp.asarray(mask) != 0
    logits = jnp.where(known, logits, 0).astype(jnp.float32)
    label = jnp.where(known, label, 0).astype(jnp.float32)
    return logits, label, known.astype(jnp.float32)


def spatial_sum(x):
    """[B, *spatial, C] -> [B, C]."""
    return x.sum(tuple(range(1, x.ndim - 1)))


def mean_over_voxels(x, mask):
    """Mean of [B, *spatial, C] over the labelled voxels of the batch, 0 when there is none."""
    return (x * mask).sum() / jnp.maximum(mask.sum(), 1)


def mean_over_samples(values, mask, at_least=1):
    """Mean of [B, C] over the samples with `at_least` labelled voxels, 0 when there is none."""
    kept = (spatial_sum(mask) >= at_least).astype(jnp.float32)
    return (values * kept).sum() / jnp.maximum(kept.sum(), 1)
