"""Score masks or probabilities of volumes against their labels, for `jax_seg.evaluate`."""

import itertools
import math
from dataclasses import asdict

import numpy as np

from jax_seg.data.labels import encode, require_labelled
from jax_seg.data.readers import open_volume, read_volume
from jax_seg.metrics.competition import competition_score
from jax_seg.metrics.foreground import foreground_scores
from jax_seg.metrics.segmentation import confusion, count, scores
from jax_seg.ops.classes import MASKED, members

LARGEST = 640**3  # voxels that are scored as a whole
PART = 320  # voxels along each axis of a part: the size of the competition's volumes

OVERLAP = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
    "foreground_predicted": "predicted",
    "foreground_label": "labelled",
}
"""Scores of every volume, and their headings; THIN and COMPETITION are added on request."""
THIN = {
    "cldice": "clDice",
    "skeleton_recall": "skeleton",
    "surface_mean": "distance",
    "surface_95": "95 %",
}
COMPETITION = {
    "score": "score",
    "toposcore": "topology",
    "surface_dice": "surface",
    "voi_score": "VOI",
}


def read_prediction(path, threshold=0.5):
    """A prediction as a mask.

    Args:
      path: a volume of integers 0 and 1, or of floating-point probabilities.
      threshold: probabilities above it are foreground.

    Returns:
      [D, H, W] uint8 of 0 and 1.

    Raises:
      FileNotFoundError: nothing at `path`.
      ValueError: not a volume, or a value is neither a probability nor 0 or 1.
    """
    return as_mask(read_volume(path), path, threshold)


def as_mask(voxels, path, threshold):
    """The mask of a prediction's voxels, as `read_prediction`."""
    wrong = (voxels < 0) | (voxels > 1)
    if wrong.any():
        raise ValueError(
            f"{path} holds the value {voxels[wrong][0]}: save 0 and 1, or floating-point "
            "probabilities between them; label values of several classes are named by --classes."
        )
    return (voxels > threshold).astype(np.uint8)


def evaluate_volume(prediction_path, label_path, table, *, threshold=0.5, **options):
    """Score one volume on disk; one of more than LARGEST voxels part by part.

    What is counted is then added up. The competition's scores are means over the parts, as its own
    score is the mean over volumes, which have the size of a part. A part counts by its labelled
    voxels: in a thin one at the edge a single piece decides, and one without foreground scores 1.

    Args:
      prediction_path: of `read_prediction`.
      label_path: a volume of label values.
      table: of `label_table`, which gives their meaning.
      threshold: on probabilities.
      **options: of `score_volume`.

    Returns:
      (Confusion, dict), as `score_volume`.

    Raises:
      FileNotFoundError, ValueError: bad input, naming the file.
    """
    reader, predicted_shape = open_volume(label_path), open_volume(prediction_path).shape
    if predicted_shape != reader.shape:
        raise ValueError(
            f"{prediction_path} has shape {predicted_shape} but {label_path} has {reader.shape}: "
            "predict the whole volume that was labelled."
        )
    if math.prod(reader.shape) > LARGEST:
        return _in_parts(prediction_path, label_path, table, threshold, **options)
    label = encode(read_volume(label_path), table, label_path, prefix="--")
    require_labelled(label, label_path)
    if len(table.classes.names) > 1:
        counts = _of_classes(read_volume(prediction_path), label, table, prediction_path)
        return counts, scores(counts)
    return score_volume(read_prediction(prediction_path, threshold), label, **options)


def _of_classes(prediction, label, table, path):
    """The `ByClass` of a prediction that holds label values, and 0 for background."""
    codes = np.zeros(prediction.shape, np.uint8)
    named = prediction != 0
    codes[named] = encode(prediction[named], table, path, prefix="--")
    return count(members(codes[..., None], table.classes), label, table.classes)


def _in_parts(prediction_path, label_path, table, threshold, *, thin, **options):
    """As `evaluate_volume`, of a volume that memory may not hold."""
    if thin:
        raise ValueError(
            f"{label_path} has more than {LARGEST:,} voxels, and the scores of --thin need the "
            "whole volume in memory: leave out --thin, or cut the volume."
        )
    volumes = open_volume(prediction_path), open_volume(label_path)
    starts = (range(0, n, PART) for n in volumes[1].shape)
    counts, parts = [], []
    for start in itertools.product(*starts):
        size = tuple(min(PART, n - a) for a, n in zip(start, volumes[1].shape, strict=True))
        voxels, label = (volume.read(start, size) for volume in volumes)
        label = encode(label, table, label_path, prefix="--")
        if (label == MASKED).all():
            continue
        if len(table.classes.names) > 1:
            counted = _of_classes(voxels, label, table, prediction_path)
            found = scores(counted)
        else:
            prediction = as_mask(voxels, prediction_path, threshold)
            counted, found = score_volume(prediction, label, **options)
        counts, parts = [*counts, counted], [*parts, found]
    if not parts:
        require_labelled(np.full((1, 1, 1), MASKED, np.uint8), label_path)
    total = sum(counts)
    summed = scores(total)
    weights = [counted.labelled for counted in counts]
    means = {
        name: float(np.average([part[name] for part in parts], weights=weights))
        for name, value in parts[0].items()
        if name not in summed and isinstance(value, float)
    }
    return total, summed | means | {"parts": len(parts)}


def score_volume(prediction, label, *, thin=False, competition=False, constants=False):
    """Score one volume.

    Args:
      prediction: [D, H, W], 1 foreground and 0 background.
      label: [D, H, W], encoded as in `ops.classes`.
      thin: add `foreground_scores`, distances in voxels.
      competition: add the fields of CompetitionScore.
      constants: add the competition score of foreground and of background everywhere, as
        score_all_foreground and score_all_background.

    Returns:
      (Confusion, dict): the counts of the labelled voxels, and the scores by name.

    Raises:
      ValueError: the shapes differ, or no voxel is labelled.
    """
    counts = confusion(prediction, label)
    found = scores(counts)
    if thin:
        found |= foreground_scores(prediction, label)
    if competition:
        found |= asdict(competition_score(prediction, label))
    if constants:
        for name, value in (("all_foreground", 1), ("all_background", 0)):
            constant = np.full_like(prediction, value)
            found[f"score_{name}"] = competition_score(constant, label).score
    return counts, found
