"""Score masks or probabilities of volumes against their labels, for `jax_seg.evaluate`."""

from dataclasses import asdict

import numpy as np

from jax_seg.data.labels import encode, require_labelled
from jax_seg.data.readers import open_volume, read_volume
from jax_seg.metrics.competition import competition_score
from jax_seg.metrics.foreground import foreground_scores
from jax_seg.metrics.segmentation import confusion, scores

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
    voxels = read_volume(path)
    wrong = (voxels < 0) | (voxels > 1)
    if wrong.any():
        raise ValueError(
            f"{path} holds the value {voxels[wrong][0]}: save 0 and 1, or floating-point "
            "probabilities between them."
        )
    return (voxels > threshold).astype(np.uint8)


def evaluate_volume(prediction_path, label_path, table, *, threshold=0.5, **options):
    """Score one volume on disk.

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
    prediction = read_prediction(prediction_path, threshold)
    label = encode(read_volume(label_path), table, label_path, prefix="--")
    require_labelled(label, label_path)
    return score_volume(prediction, label, **options)


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
