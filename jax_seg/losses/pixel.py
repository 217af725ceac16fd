"""Losses of single voxels: cross entropy, focal, and two that use the prediction alone.

All logarithms are taken of logits, never of probabilities: a voxel that is confidently wrong keeps
its gradient, where a probability clamped to [1e-7, 1 - 1e-7] loses it beyond logits of ±16.1.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from optax.losses import sigmoid_binary_cross_entropy

from jax_seg.losses.masking import labelled, mean_over_samples, mean_over_voxels, spatial_sum

VARIANCE_FLOOR = 0.82778
"""The least value of `variance` on a large patch; read the loss as its distance to this.

Its first part alone could fall to (1 - 1/4)² = 0.5625, for a probability never varies by more than
1/4; but that needs every p at 0 or 1, where the entropy is 0 and the second part costs 0.5. The
best of both is p = 0.2 or 0.8, half and half: entropy 0.5, v = 0.09, (1 - 0.09)² = 0.828.
"""


def variance_floor(target_entropy=0.5, voxels=math.inf):
    """The least value of `variance` that any prediction reaches, to 1e-5.

    With n voxels the unbiased variance is at most n / (n - 1) times the mean of (p - 1/2)², which
    for a given entropy is largest where every voxel is at p or 1 - p, half and half. One
    number p remains. On 128³ voxels the floor is that of a large patch, `VARIANCE_FLOOR`; on two
    voxels it is 0.637.

    Args:
      target_entropy: of `variance`, nats.
      voxels: labelled voxels of a sample, 2 or more; with an odd number the floor is not reached.
    """
    p = np.linspace(0, 0.5, 100_001)[1:]
    spread = np.square(p - 0.5) * (1 if math.isinf(voxels) else voxels / (voxels - 1))
    entropy = -p * np.log(p) - (1 - p) * np.log1p(-p)
    doubt = np.maximum(target_entropy - entropy, 0)
    return float((np.square(1 - spread) + doubt).min())


def cross_entropy(logits, label, mask, exclusive=False):
    """Cross entropy in nats, mean over the labelled voxels; 0 when there is none.

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`.
      exclusive: whether the C classes exclude each other: that of a softmax over them and a
        background of logit 0, else the mean of C binary ones. With one class both are equal. A
        coarsened voxel that holds several classes is shared by them; one in which any is known
        counts.

    Returns:
      Scalar float32.
    """
    if exclusive:
        mask = jnp.broadcast_to((mask != 0).any(-1, keepdims=True), mask.shape)
    logits, label, mask = labelled(logits, label, mask)
    if not exclusive:
        return mean_over_voxels(sigmoid_binary_cross_entropy(logits, label), mask)
    share = label / jnp.maximum(label.sum(-1, keepdims=True), 1)
    total = jax.nn.logsumexp(jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, 1)]), -1)
    return mean_over_voxels(total - (share * logits).sum(-1), mask[..., 0])


def focal(logits, label, mask, *, alpha, gamma=2.0, foreground_weight=1.0, background_weight=1.0):
    """Mean of w_t α_t (1 - p_t)^γ (-log p_t) over the labelled voxels (Lin et al. 2017, eq. 5).

    The mean divides by the number of voxels, not by the sum of weights: α and the class weights
    also scale the loss.

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`.
      alpha: α of the foreground; the background has 1 - α.
      gamma: γ >= 0, how much a voxel that is already right counts less.
      foreground_weight, background_weight: w of either class.

    Returns:
      Scalar float32, 0 when no voxel is labelled.
    """
    logits, label, mask = labelled(logits, label, mask)
    cross_entropy = sigmoid_binary_cross_entropy(logits, label)
    modulation = jnp.exp(-gamma * sigmoid_binary_cross_entropy(logits, 1 - label))
    class_weight = jnp.where(
        label > 0.5, alpha * foreground_weight, (1 - alpha) * background_weight
    )
    return mean_over_voxels(class_weight * modulation * cross_entropy, mask)


def variance(logits, label, mask, *, target_entropy=0.5):
    """(1 - v)² + max(0, target - H): pushes apart the probabilities of one patch, not to 0 and 1.

    v is the unbiased variance of p over space, mean over the samples with at least two labelled
    voxels; H is the binary entropy in nats, mean over the labelled voxels. Never below
    `variance_floor`.

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`; the label's values are unused.
      target_entropy: entropy in nats below which the second part applies, at most log 2.

    Returns:
      Scalar float32, 0 when no sample has two labelled voxels.
    """
    logits, _, mask = labelled(logits, label, mask)
    spatial = tuple(range(1, logits.ndim - 1))
    count = mask.sum(spatial, keepdims=True)
    probability = jax.nn.sigmoid(logits) * mask
    mean = probability.sum(spatial, keepdims=True) / jnp.maximum(count, 1)
    squares = spatial_sum(jnp.square(probability - mean) * mask)
    per_sample = squares / jnp.maximum(spatial_sum(mask) - 1, 1)
    spread = jnp.square(1 - mean_over_samples(per_sample, mask, at_least=2))
    doubt = jax.nn.relu(target_entropy - _entropy(logits, mask))
    return jnp.where((count >= 2).any(), spread + doubt, 0)


def entropy(logits, label, mask, *, target_entropy=0.3):
    """max(0, target - H): a penalty on certainty beyond a target (Pereyra et al. 2017).

    H is the binary entropy in nats, mean over the labelled voxels.

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`; the label's values are unused.
      target_entropy: entropy in nats below which the penalty applies, at most log 2.

    Returns:
      Scalar float32, 0 when no voxel is labelled.
    """
    logits, _, mask = labelled(logits, label, mask)
    return jnp.where(mask.any(), jax.nn.relu(target_entropy - _entropy(logits, mask)), 0)


def _entropy(logits, mask):
    return mean_over_voxels(sigmoid_binary_cross_entropy(logits, jax.nn.sigmoid(logits)), mask)
