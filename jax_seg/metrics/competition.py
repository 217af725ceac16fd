"""The competition's score of one volume, identical to the official program's to the last digit."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np

from jax_seg.metrics.betti_matching import feature_counts
from jax_seg.metrics.segmentation import require_comparable
from jax_seg.metrics.surface_distance import surface_dice
from jax_seg.metrics.variation_of_information import variation_of_information
from jax_seg.ops.classes import BACKGROUND, MASKED

TOLERANCE = 2.0  # voxels
VOI_SCALE = 0.3  # per bit
TOPOLOGY_WEIGHTS = (0.34, 0.33, 0.33)  # components, loops, cavities


@dataclass(frozen=True)
class CompetitionScore:
    """The score and its parts.

    Attributes:
      score: 0.30 toposcore + 0.35 surface_dice + 0.35 voi_score.
      toposcore: weighted mean of the features' F1 over the dimensions that have any.
      surface_dice: at a tolerance of 2 voxels.
      voi_score: 1 / (1 + 0.3 (voi_split + voi_merge)).
      voi_split, voi_merge: H(prediction | label) and H(label | prediction), bits.
      counts: for components, loops and cavities (matched, of the prediction, of the label).
    """

    score: float
    toposcore: float
    surface_dice: float
    voi_score: float
    voi_split: float
    voi_merge: float
    counts: tuple


def competition_score(prediction, label):
    """Score one volume; the competition takes the mean over volumes.

    Both masks are background where the label is MASKED; elsewhere every value of the prediction but
    0 is foreground.

    Args:
      prediction: [D, H, W] uint8.
      label: [D, H, W] uint8, encoded as in `ops.classes`.

    Returns:
      CompetitionScore; two empty masks score 1.

    Raises:
      ValueError: the shapes differ or are not three-dimensional, or the label is not encoded.
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    require_comparable(prediction, label)
    if label.ndim != 3:
        raise ValueError(f"The label has shape {label.shape}; give one volume [D, H, W].")
    labelled = label != MASKED
    prediction, label = ((mask != BACKGROUND) & labelled for mask in (prediction, label))
    with ThreadPoolExecutor(max_workers=2) as pool:
        surface = pool.submit(surface_dice, prediction, label, TOLERANCE)
        voi = pool.submit(variation_of_information, prediction, label)
        blocks = pool.map(feature_counts, _octants(prediction), _octants(label))
        counts = sum(blocks, np.zeros((3, 3), np.int64))
    split, merge = voi.result()
    voi_score = 1 / (1 + VOI_SCALE * (split + merge))
    topology = toposcore(counts)
    score = 0.30 * topology + 0.35 * (surface.result() + voi_score)
    return CompetitionScore(
        score=min(max(score, 0.0), 1.0),
        toposcore=topology,
        surface_dice=surface.result(),
        voi_score=voi_score,
        voi_split=split,
        voi_merge=merge,
        counts=tuple(map(tuple, counts.tolist())),
    )


def toposcore(counts):
    """Weighted mean over the dimensions of F1 = 2 matched / (predicted + labelled).

    Where the label has no feature F1 is 0.5 / (predicted + 0.5), and a dimension without any
    feature in either mask is skipped; 1 if all are.

    Args:
      counts: [3, 3] matched, predicted and labelled features of each dimension.
    """
    total = weights = 0.0
    for (matched, predicted, labelled), weight in zip(counts, TOPOLOGY_WEIGHTS, strict=True):
        if predicted + labelled == 0:
            continue
        f1 = 2 * matched / (predicted + labelled) if labelled else 0.5 / (predicted + 0.5)
        total, weights = total + weight * f1, weights + weight
    return float(total / weights) if weights else 1.0


def _octants(mask):
    """The blocks of a volume cut in two along each axis, the first part one longer when odd."""
    cuts = [[slice(0, (n + 1) // 2), slice((n + 1) // 2, n)] for n in mask.shape]
    return [mask[block] for block in product(*cuts) if mask[block].size]
