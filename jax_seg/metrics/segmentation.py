"""Overlap scores of a segmentation, from four counts of each class, summed and divided once."""

from dataclasses import asdict, dataclass

import numpy as np

from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED, members


@dataclass(frozen=True)
class Confusion:
    """Numbers of labelled voxels: add the volumes' counts, then call `scores` once.

    `sum` works on an iterable of them; `Confusion()` is zero.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    def __add__(self, other):
        return Confusion(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    def __radd__(self, zero):
        return self  # `sum` starts at 0

    @property
    def labelled(self):
        """Number of voxels counted."""
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative


@dataclass(frozen=True)
class ByClass:
    """The counts of several classes; like `Confusion` they are added, and scored once.

    Attributes:
      each: {name: Confusion}.
      together: Confusion of all classes against background.
    """

    each: dict
    together: Confusion

    def __add__(self, other):
        each = {name: one + other.each[name] for name, one in self.each.items()}
        return ByClass(each, self.together + other.together)

    def __radd__(self, zero):
        return self

    @property
    def labelled(self):
        """Number of voxels counted."""
        return self.together.labelled


def as_json(counts):
    """A `Confusion` or `ByClass` as JSON types, which `from_json` takes."""
    if isinstance(counts, ByClass):
        each = {name: as_json(one) for name, one in counts.each.items()}
        return {"each": each, "together": as_json(counts.together)}
    return {kind: int(number) for kind, number in asdict(counts).items()}


def from_json(content):
    """The `Confusion` or `ByClass` that `as_json` wrote."""
    if "each" in content:
        each = {name: Confusion(**one) for name, one in content["each"].items()}
        return ByClass(each, Confusion(**content["together"]))
    return Confusion(**content)


def together(counts):
    """The Confusion of foreground against background of a Confusion or ByClass."""
    return counts.together if isinstance(counts, ByClass) else counts


def count(masks, label, classes):
    """Count agreement of each class over the labelled voxels.

    Args:
      masks: bool [D, H, W], or [D, H, W, classes] of several, see `classes.masks_of`.
      label: uint8 [D, H, W] of codes.
      classes: Classes.

    Returns:
      Confusion, or ByClass of several.
    """
    if len(classes.names) == 1:
        return confusion(masks, label)
    masks, true = np.asarray(masks), members(np.asarray(label)[..., None], classes)

    def one(predicted, inside):
        return confusion(predicted, np.where(label == MASKED, MASKED, inside).astype(np.uint8))

    each = {
        name: one(masks[..., number], true[..., number])
        for number, name in enumerate(classes.names)
    }
    return ByClass(each, one(masks.any(-1), true.any(-1)))


def confusion(prediction, label):
    """Count agreement and disagreement over the labelled voxels.

    Args:
      prediction: array of any shape, bool or integer, 1 foreground and 0 background; it is
        ignored where the label is MASKED.
      label: array of that shape, encoded as in `ops.classes`.

    Returns:
      Confusion.

    Raises:
      ValueError: the shapes differ, or the label is not encoded.
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    require_comparable(prediction, label)
    predicted, foreground = prediction == 1, label == FOREGROUND
    labelled = label.size - np.count_nonzero(label == MASKED)
    true_positive = np.count_nonzero(predicted & foreground)
    false_negative = np.count_nonzero(foreground) - true_positive
    false_positive = np.count_nonzero(predicted & (label == BACKGROUND))
    true_negative = labelled - true_positive - false_negative - false_positive
    return Confusion(true_positive, false_positive, false_negative, true_negative)


def scores(counts):
    """Dice, IoU, precision, recall, accuracy and the two shares of foreground.

    Dice is 2TP / (2TP + FP + FN), IoU is TP / (TP + FP + FN), precision TP / (TP + FP), recall
    TP / (TP + FN). A score whose denominator is zero is 1 where prediction and label are both
    empty, which is a perfect prediction, and 0 otherwise, so no mistake is ever rewarded.

    Args:
      counts: Confusion or ByClass, of one volume or summed over many.

    Returns:
      dict of floats: dice, iou, precision, recall, accuracy, and foreground_predicted and
      foreground_label as shares of the labelled voxels. Of several classes the first five are means
      over them, and 'classes' is {name: dict of these floats}.

    Raises:
      ValueError: no voxel is labelled.
    """
    if not counts.labelled:
        raise ValueError("No voxel is labelled, so there is nothing to score; exclude the volume.")
    if isinstance(counts, ByClass):
        of_class = {name: scores(one) for name, one in counts.each.items()}
        found = scores(counts.together)
        means = {
            key: float(np.mean([one[key] for one in of_class.values()]))
            for key in found
            if not key.startswith("foreground")
        }
        return found | means | {"classes": of_class}
    both, predicted = counts.true_positive, counts.true_positive + counts.false_positive
    foreground = counts.true_positive + counts.false_negative
    empty_score = float(predicted == 0 and foreground == 0)

    def ratio(numerator, denominator):
        return numerator / denominator if denominator else empty_score

    return {
        "dice": ratio(2 * both, predicted + foreground),
        "iou": ratio(both, predicted + foreground - both),
        "precision": ratio(both, predicted),
        "recall": ratio(both, foreground),
        "accuracy": (both + counts.true_negative) / counts.labelled,
        "foreground_predicted": predicted / counts.labelled,
        "foreground_label": foreground / counts.labelled,
    }


def require_comparable(prediction, label):
    """Raise a ValueError where the shapes differ, or the label is not encoded as in `ops.classes`.

    A raw label would be scored silently, its unlabelled voxels as background.
    """
    require_same_shape(prediction, label)
    known = sum(np.count_nonzero(label == value) for value in (BACKGROUND, FOREGROUND, MASKED))
    if known < label.size:
        other = label[~np.isin(label, (BACKGROUND, FOREGROUND, MASKED))][0]
        raise ValueError(
            f"The label holds the value {other}, but an encoded one has {BACKGROUND} background, "
            f"{FOREGROUND} foreground and {MASKED} masked: encode it with data.labels.encode."
        )


def require_same_shape(prediction, label):
    """Raise a ValueError that names both shapes where they differ."""
    if prediction.shape != label.shape:
        raise ValueError(
            f"The prediction has shape {prediction.shape} and the label {label.shape}; "
            "predict at the label's full size."
        )


def counted(number, noun):
    """'1 volume', '0 volumes'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_words(scores):
    """'dice: 0.4845, focal: 0.1605' from {name: number}, and 'Dice of sheet 0.4' of its classes."""
    numbers = [f"{name}: {value:.4f}" for name, value in scores.items() if name != "classes"]
    of_class = [f"Dice of {n}: {one['dice']:.4f}" for n, one in scores.get("classes", {}).items()]
    return ", ".join(numbers + of_class)
