"""Every threshold at once: sweeps, hysteresis and calibration, from counts taken in one pass.

Probabilities are saved as float16, of which there are 15361 from 0 to 1, in the order of their
bits. So a table of the number of voxels of each gives every threshold's counts exactly; tables
add up over volumes. Probabilities of float32 are rounded to float16 first, by 0.00025 at most.
"""

import numpy as np

from jax_seg.metrics.segmentation import Confusion, require_comparable, scores
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED
from jax_seg.ops.components import connected

VALUES = np.arange(0x3C01, dtype=np.uint16).view(np.float16).astype(np.float64)  # 0 to 1
DEFAULT = 0.5  # of a run whose configuration is lost
THRESHOLDS = tuple(k / 100 for k in range(1, 100))


def count(probability, label):
    """Count the labelled voxels of each probability.

    Args:
      probability: [D, H, W] floating point in [0, 1].
      label: [D, H, W], encoded as in `ops.classes`.

    Returns:
      int64 [2, 15361]: background and foreground voxels of each of `VALUES`.

    Raises:
      ValueError: the shapes differ, the label is not encoded, no voxel is labelled, or a value is
        not a probability.
    """
    probability, label = _checked(probability, label)
    table = np.zeros(2 * len(VALUES), np.int64)
    for section, kinds in zip(probability, label, strict=True):  # counting takes 8 bytes a voxel
        order = section.view(np.uint16)[kinds != MASKED].astype(np.int64)
        foreground = kinds[kinds != MASKED] == FOREGROUND
        table += np.bincount(order + len(VALUES) * foreground, minlength=len(table))
    return table.reshape(2, len(VALUES))


def sweep(counts, thresholds=THRESHOLDS):
    """`segmentation.scores` at each threshold; a voxel above it is foreground.

    Args:
      counts: of `count`, of one volume or summed over several.
      thresholds: numbers from 0 to 1.

    Returns:
      List of {'threshold': …, 'dice': …, 'iou': …, …}.
    """
    above = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    above = np.concatenate([above, np.zeros((2, 1), np.int64)], axis=1)
    background, foreground = above[:, 0]
    found = []
    for threshold in thresholds:
        false, true = above[:, np.searchsorted(VALUES, threshold, side="right")]
        found.append({"threshold": threshold} | _scores(true, false, foreground, background))
    return found


def hysteresis_counts(probability, label, lows, highs, connectivity=26):
    """Counts of every (low, high) setting of `postprocess.hysteresis`.

    The components above one low are found once; each is foreground for the highs below its
    largest probability.

    Args:
      probability, label: as `count` takes them; unlabelled voxels connect components.
      lows, highs: thresholds.
      connectivity: of the components.

    Returns:
      int64 [lows, highs, 4]: true positive, false positive, false negative, true negative; they
      add up over volumes.

    Raises:
      ValueError: as `count`.
    """
    probability, label = _checked(probability, label)
    background, foreground = (np.count_nonzero(label == kind) for kind in (BACKGROUND, FOREGROUND))
    found = np.zeros((len(lows), len(highs), 4), np.int64)
    order = probability.view(np.uint16)
    for row, low in enumerate(lows):
        above = order >= np.searchsorted(VALUES, low, side="right")
        component = connected(above, connectivity)
        inside, kind = component[above], label[above]
        largest = np.zeros(component.max(initial=0) + 1)
        np.maximum.at(largest, inside, VALUES[order[above]])
        sizes = [
            np.bincount(inside[kind == k], minlength=len(largest)) for k in (FOREGROUND, BACKGROUND)
        ]
        for column, high in enumerate(highs):
            true, false = (int(size[largest > high].sum()) for size in sizes)
            found[row, column] = true, false, foreground - true, background - false
    return found


def hysteresis_grid(counts, lows, highs):
    """`segmentation.scores` of each (low, high) of `hysteresis_counts` with low at most high."""
    return [
        {"low": low, "high": high} | scores(Confusion(*map(int, counts[row, column])))
        for row, low in enumerate(lows)
        for column, high in enumerate(highs)
        if low <= high
    ]


def calibration(counts, bins=15):
    """How often voxels of a probability are foreground, and the expected calibration error.

    The error is Σ n_b / N · |foreground share_b − mean probability_b| over bins of equal width,
    (b − 1) / B < p ≤ b / B (Guo et al. 2017, "On calibration of modern neural networks", eq. 3,
    with the probability of the foreground in place of the predicted class's).

    Args:
      counts: of `count`.
      bins: number of bins.

    Returns:
      {'bins': [{'low', 'high', 'voxels', 'probability', 'foreground'}], without the empty ones,
      'expected_calibration_error': …}.
    """
    bin_of = np.searchsorted(np.arange(1, bins) / bins, VALUES, side="left")
    voxels_of = counts.sum(0)
    voxels = np.bincount(bin_of, voxels_of, minlength=bins)
    probability = np.bincount(bin_of, voxels_of * VALUES, minlength=bins)
    foreground = np.bincount(bin_of, counts[1], minlength=bins)
    rows = [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "voxels": int(voxels[b]),
            "probability": float(probability[b] / voxels[b]),
            "foreground": float(foreground[b] / voxels[b]),
        }
        for b in np.flatnonzero(voxels).tolist()
    ]
    error = np.abs(foreground - probability).sum() / voxels.sum()
    return {"bins": rows, "expected_calibration_error": float(error)}


def require_probabilities(probability):
    """Raise a ValueError that names a value outside [0, 1], or NaN."""
    inside = (probability >= 0) & (probability <= 1)  # NaN is not
    if not inside.all():
        raise ValueError(
            f"The probabilities hold the value {probability[~inside][0]:g}: they must lie between "
            "0 and 1."
        )


def _scores(true, false, foreground, background):
    return scores(Confusion(*map(int, (true, false, foreground - true, background - false))))


def _checked(probability, label):
    """The probabilities in float16 without negative zero, and the label."""
    probability, label = np.asarray(probability), np.asarray(label)
    require_comparable(probability, label)
    require_probabilities(probability)
    if not (label != MASKED).any():
        raise ValueError("No voxel is labelled, so nothing can be scored: exclude the volume.")
    return np.abs(probability.astype(np.float16)), label
