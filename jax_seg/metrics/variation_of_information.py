"""Variation of information between the components of two masks."""

import numpy as np
from scipy import sparse

from jax_seg.metrics.segmentation import require_same_shape
from jax_seg.ops.components import connected


def variation_of_information(prediction, label):
    """Conditional entropies of two masks' 26-connected components over the union of the masks.

    Meilă 2007, "Comparing clusterings", eq. 15, in bits. Each union voxel carries the number of
    its component in either mask, 0 where it lies in the other mask only.

    Args:
      prediction: [D, H, W], non-zero where predicted.
      label: [D, H, W], non-zero where foreground.

    Returns:
      (split, merge): H(prediction | label), which grows as components are cut, and
      H(label | prediction), which grows as components run together; (0, 0) for empty masks.

    Raises:
      ValueError: the shapes differ.
    """
    prediction, label = np.asarray(prediction) != 0, np.asarray(label) != 0
    require_same_shape(prediction, label)
    union = prediction | label
    voxels = np.count_nonzero(union)
    if voxels == 0:
        return 0.0, 0.0
    numbers = [connected(m)[union] for m in (label, prediction)]
    table = sparse.coo_array((np.ones(voxels, np.int64), numbers)).tocsr()
    joint = _entropy(table.data / voxels)
    label_entropy, predicted_entropy = (_entropy(table.sum(axis=a) / voxels) for a in (1, 0))
    # Rounding may bring an entropy of zero below it.
    return max(joint - label_entropy, 0.0), max(joint - predicted_entropy, 0.0)


def _entropy(probabilities):
    """Entropy of a distribution in bits, 0 log 0 = 0."""
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log2(positive)).sum())
