"""Checks of training.*: whether a run has learned, and whether it has ended where it should."""

from typing import NamedTuple

import numpy as np

from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.diagnosis.predictions import WORTH, held_out
from jax_seg.metrics import balance, segmentation, threshold

CLEAR = 2.0  # standard errors
FEWEST = 4  # epochs from which a trend can be told
LAST_PART = 0.25  # of the epochs; a run that still improves in it may need more
STILL = 0.1  # share of all that was learned; as much in the last part is not yet a plateau
ANNEALED = 0.1  # share of the highest learning rate; below, a run settles rather than learns
ENDING = ("cosine", "polynomial")
"""Schedules that reach their lowest rate in the last epoch of the run."""
SWAPPED = 4  # volumes whose predictions are swapped


class Curves(NamedTuple):
    """Figures of the epochs of the last stage, [N] each; losses of other stages do not compare.

    Attributes:
      epoch: numbers.
      train: loss on augmented training patches.
      validation: loss on fixed validation patches.
      error: standard error of it over volumes; 0 where it is unknown.
      rate: highest learning rate of the parts.
    """

    epoch: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    error: np.ndarray
    rate: np.ndarray


def curves(evidence):
    """`Curves` of a run; `Skipped` where it has fewer than FEWEST judged epochs."""
    rows = [
        (
            one["epoch"],
            one["train"]["loss"],
            one["validation"]["loss"],
            one["validation"].get("standard_error", 0.0),
            one["train"].get("learning_rate", 0.0),
        )
        for one in evidence.epochs
        if "validation" in one and one["epoch"] >= evidence.stage.first
    ]
    if len(rows) < FEWEST:
        raise Skipped(f"{len(rows)} epochs were judged, and a trend takes {FEWEST}")
    found = Curves(*(np.array(column, np.float64) for column in zip(*rows, strict=True)))
    if not (np.isfinite(found.train).all() and np.isfinite(found.validation).all()):
        raise Skipped("a loss is not finite")
    return found


def scatter(values):
    """Standard deviation of a curve about its trend, from second differences.

    Of white noise they have variance 6 σ² (Gasser, Sroka and Jennen-Steinmetz 1986, "Residual
    variance and residual pattern in nonlinear regression").
    """
    return float(np.sqrt(np.mean(np.diff(values, 2) ** 2) / 6))


def find_unfinished(evidence):
    """Whether the validation loss still fell at the end, at a rate that was still high."""
    if not evidence.run.scores:
        raise Skipped("the run has not ended")
    found = curves(evidence)
    planned = evidence.field("train.epochs")
    cut = found.epoch[-1] + 1 < planned
    stopped = any(d["kind"] == "early_stop" for one in evidence.epochs for d in one["decisions"])
    ended = evidence.field("schedule.name") in ENDING and not cut
    share = float(found.rate[-1] / max(found.rate.max(), 1e-30))
    if stopped or ended or share < ANNEALED:
        return []
    last = max(int(LAST_PART * len(found.validation)), 2)  # one epoch may be lucky
    gained = float(found.validation[:-last].min() - found.validation[-last:].min())
    learned = float(found.validation[0] - found.validation.min())
    noise = max(found.error[-1], scatter(found.validation))
    if gained < CLEAR * noise or gained < STILL * learned:
        return []
    length = f"after {found.epoch[-1] + 1:g} of {planned} epochs" if cut else "with its last epoch"
    return [
        Finding(
            "training.unfinished",
            "warning",
            f"The run ended {length} at {100 * share:.0f} % of its highest learning rate, while "
            f"the validation loss still fell: by {gained:.3f} in the last {last} of "
            f"{len(found.epoch)} epochs, of {learned:.3f} in all.",
            {
                "fell_at_the_end": gained,
                "fell_in_all": learned,
                "noise": float(noise),
                "rate_share": share,
                "epochs": len(found.epoch),
            },
            "train.minutes" if cut else "train.epochs",
            "Train for more epochs, with a schedule that lowers the learning rate to its end.",
        )
    ]


def find_overfits(evidence):
    """Whether the validation loss rose since its best epoch while the training loss fell.

    The training loss is that of augmented patches, which is no lower than without, so the gap is
    not overstated.
    """
    if not evidence.holds_out:
        raise Skipped("nothing is held out")
    found = curves(evidence)
    best = int(found.validation.argmin())
    after = len(found.validation) - 1 - best
    if after < FEWEST:
        return []
    late = slice(-(after // 2), None)
    rose = float(found.validation[late].mean() - found.validation[best])
    train_before = float(found.train[max(best - 1, 0) : best + 2].mean())
    fell = train_before - float(found.train[late].mean())
    noise = max(found.error[late].mean(), scatter(found.validation))
    if rose < CLEAR * noise or fell < scatter(found.train):
        return []
    gap = float((found.validation - found.train)[late].mean())
    return [
        Finding(
            "training.overfits",
            "warning",
            f"Since epoch {found.epoch[best]:g} the validation loss rose by {rose:.3f}, from "
            f"{found.validation[best]:.3f}, while the training loss fell by {fell:.3f}; their "
            f"gap is {gap:.3f} at the end.",
            {
                "validation_rose": rose,
                "training_fell": fell,
                "noise": float(noise),
                "gap": gap,
                "gap_at_best": float((found.validation - found.train)[best]),
                "best_epoch": int(found.epoch[best]),
            },
            "train.epochs",
            "Augment more, add volumes, or train for fewer epochs.",
        )
    ]


def find_no_better(evidence):
    """Whether the best model knows more than a constant and than the prediction of another volume.

    Each is cut at the threshold that is best for it, so that a threshold cannot be to blame, nor
    can knowing how much foreground there is or where in a volume it mostly lies.
    """
    predictions = held_out(evidence)[:SWAPPED]
    model, blind, constant = [], [], []
    for number, (_, probability, label, _) in enumerate(predictions):
        others = [p for other, (_, p, *_) in enumerate(predictions) if other != number]
        moved = [_fitted(other, label.shape) for other in others] or _rolled(probability)
        model.append(_best_dice(probability, label))
        blind.append(max(_best_dice(one, label) for one in moved))
        constant.append(_constant(label))
    reference = np.maximum(blind, constant)
    gain = float(np.mean(model) - np.mean(reference))
    if gain >= WORTH:
        return []
    model, blind, constant = (float(np.mean(values)) for values in (model, blind, constant))
    return [
        Finding(
            "training.no_better_than_constant",
            "error",
            f"At its best threshold the model reaches a Dice of {model:.3f} on "
            f"{len(predictions)} held-out volumes, foreground everywhere {constant:.3f}, and "
            f"predictions of other places {blind:.3f}.",
            {
                "dice": model,
                "dice_of_foreground_everywhere": constant,
                "dice_of_other_places": blind,
                "gain": gain,
                "volumes": len(predictions),
            },
            "checkpoints",
            "Look for the cause in labels, loss and learning rate before training for longer.",
        )
    ]


def _constant(label):
    """The higher Dice of the two constant predictors."""
    counts = segmentation.confusion(np.zeros(label.shape, np.uint8), label)
    compared = balance.constant_scores([counts])["pooled"]
    return max(compared[name]["dice"] for name in balance.CONSTANTS)


def _best_dice(probability, label):
    return max(row["dice"] for row in threshold.sweep(threshold.count(probability, label)))


def _fitted(array, shape):
    """An array [D, H, W] stretched to another shape, by the nearest voxels."""
    places = (np.arange(n) * size // n for n, size in zip(shape, array.shape, strict=True))
    return array[np.ix_(*places)]


def _rolled(probability):
    """The prediction, moved by half of the volume along each axis that is longer than a voxel."""
    return [np.roll(probability, n // 2, a) for a, n in enumerate(probability.shape) if n > 1]


CHECKS = (
    Check(("training.unfinished",), find_unfinished, needs="run"),
    Check(("training.overfits",), find_overfits, needs="run"),
    Check(("training.no_better_than_constant",), find_no_better, needs="run"),
)
