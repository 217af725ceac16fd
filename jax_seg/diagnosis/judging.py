"""Checks of training.*: whether a run has learned, and whether it has ended where it should."""

import numpy as np

from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.diagnosis.predictions import WORTH, held_out
from jax_seg.metrics import balance, curves, segmentation, threshold
from jax_seg.metrics.curves import ANNEALED, FEWEST

ENDING = ("cosine", "polynomial")
"""Schedules that reach their lowest rate in the last epoch of the run."""
SWAPPED = 4  # volumes whose predictions are swapped


def curves_of(evidence):
    """`Curves` of a run's last stage; `Skipped` where it has fewer than FEWEST judged epochs."""
    train, validation = (
        {one["epoch"]: one[kind] for one in evidence.epochs if kind in one}
        for kind in ("train", "validation")
    )
    found = curves.collected(train, validation, evidence.stage.first)
    if len(found.epoch) < FEWEST:
        raise Skipped(f"{len(found.epoch)} epochs were judged, and a trend takes {FEWEST}")
    if not found.finite:
        raise Skipped("a loss is not finite")
    return found


def find_unfinished(evidence):
    """Whether the validation loss still fell at the end, at a rate that was still high."""
    if not evidence.run.scores:
        raise Skipped("the run has not ended")
    found = curves_of(evidence)
    planned = evidence.field("train.epochs")
    cut = found.epoch[-1] + 1 < planned
    stopped = any(d["kind"] == "early_stop" for one in evidence.epochs for d in one["decisions"])
    ended = evidence.field("schedule.name") in ENDING and not cut
    fall = curves.fall(found)
    if stopped or ended or fall.rate_share < ANNEALED or not fall.clear:
        return []
    length = f"after {found.epoch[-1] + 1:g} of {planned} epochs" if cut else "with its last epoch"
    return [
        Finding(
            "training.unfinished",
            "warning",
            f"The run ended {length} at {100 * fall.rate_share:.0f} % of its highest learning "
            f"rate, while the validation loss still fell: by {fall.gained:.3f} in the last "
            f"{fall.last} of {len(found.epoch)} epochs, of {fall.learned:.3f} in all.",
            {
                "fell_at_the_end": fall.gained,
                "fell_in_all": fall.learned,
                "noise": fall.noise,
                "rate_share": fall.rate_share,
                "epochs": len(found.epoch),
            },
            "train.minutes" if cut else "train.epochs",
            "Train for more epochs, with a schedule that lowers the learning rate to its end.",
        )
    ]


def find_overfits(evidence):
    """Whether the validation loss rose since its best epoch while the training loss fell."""
    if not evidence.holds_out:
        raise Skipped("nothing is held out")
    found = curves_of(evidence)
    rise = curves.rise(found)
    if not rise or not rise.overfits:
        return []
    best, lowest = found.epoch[rise.best], found.validation[rise.best]
    return [
        Finding(
            "training.overfits",
            "warning",
            f"Since epoch {best:g} the validation loss rose by {rise.rose:.3f}, from {lowest:.3f}, "
            f"while the training loss fell by {rise.fell:.3f}; their gap is {rise.gap:.3f} at the "
            "end.",
            {
                "validation_rose": rise.rose,
                "training_fell": rise.fell,
                "noise": rise.noise,
                "gap": rise.gap,
                "gap_at_best": float(lowest - found.train[rise.best]),
                "best_epoch": int(best),
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
            f"predictions of other volumes, or shifted ones, {blind:.3f}.",
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
