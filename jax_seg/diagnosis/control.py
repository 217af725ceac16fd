"""Decisions after bad epochs: do they answer noise, and how far do they scale the learning rate?"""

import math

import numpy as np
from scipy.special import logit

from jax_seg.diagnosis.figures import on_epochs
from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.diagnosis.schedules import epochs_so_far
from jax_seg.diagnosis.trials import constant_losses
from jax_seg.metrics.segmentation import counted
from jax_seg.ops.classes import FOREGROUND, MASKED
from jax_seg.training import plateau

LARGEST = plateau.RULES["capped"][2]
"""The largest factor on the rate of the only rule with a limit, the one that ended the runaway of
the notes: 5."""
PATCHES = 64  # validation patches whose losses are compared
ENOUGH = 2  # decisions on noise in a run; a single one may be an accident
REMEDY = "Set plateau.noise_factor to 2 or more, and validate on more volumes or patches."
BOUND = (
    "Set plateau.rule to 'capped' or plateau.worse_epochs to 0, and look for the cause elsewhere."
)


def decided_on_noise(epochs, settings):
    """Returns to earlier weights that answer a rise of the loss within its standard error.

    What counts is the mean rise above the best loss over the epochs in a row that a decision
    answers: one for a catastrophic loss, `plateau.worse_epochs` for a plateau. A stop is no such
    decision: a loss that no longer differs from the best is what it waits for.

    Args:
      epochs: of `evidence.by_epoch`.
      settings: `Settings`.
    """
    judged = [one for one in epochs if "validation" in one]
    acted = [
        _answered(judged, number, decision, settings.control)
        for number, one in enumerate(judged)
        for decision in one["decisions"]
        if decision["kind"] == "rollback" and math.isfinite(decision["val_loss"])
    ]
    if not acted:
        raise Skipped("no decision was made")
    noisy = [answer for answer in acted if answer["rise"] < answer["standard_error"]]
    if len(noisy) < ENOUGH or 2 * len(noisy) < len(acted):
        return []
    worst = max(noisy, key=lambda answer: answer["standard_error"] - answer["rise"])
    return [
        Finding(
            "control.acts_on_noise",
            "warning",
            f"{len(noisy)} of {len(acted)} returns to earlier weights answer a rise of the "
            f"validation loss within its standard error; after epoch {worst['epoch']} it was "
            f"{worst['rise']:.4f} above the best, with a standard error of "
            f"{worst['standard_error']:.4f}.",
            {"on_noise": len(noisy), "decisions": len(acted), **worst},
            "plateau.noise_factor",
            REMEDY,
        )
    ]


def _answered(judged, number, decision, options):
    """{'epoch', 'rise', 'standard_error'}: means over the epochs that a decision answers."""
    length = options.worse_epochs if decision["reason"] == "plateau" else 1
    row = judged[max(number - max(length, 1) + 1, 0) : number + 1]
    loss, error = (
        float(np.mean([one["validation"][name] for one in row]))
        for name in ("loss", "standard_error")
    )
    rise = loss - decision["best_loss"]
    return {"epoch": judged[number]["epoch"], "rise": rise, "standard_error": error}


def would_act_on_noise(evidence):
    """The smallest rise that counts, against the standard error of the validation loss.

    Before a run that error is the one of a constant answer, the share of foreground, on the
    validation patches: a network's losses differ between volumes for that reason and others.
    """
    options = evidence.settings.control
    waits = options.worse_epochs > 0
    if not waits and not options.rollback_fraction:
        raise Skipped("no decision rests on the validation loss")
    if _made(evidence, "rollback"):
        raise Skipped("the decisions of the run are judged instead")
    loss, error, volumes = _validation_noise(evidence)
    counts = max(options.threshold, options.noise_factor * error * (volumes > 1))
    if not waits:  # one bad epoch is enough, so its rise alone has to be clear
        counts = max(counts, options.rollback_fraction * loss)
    if counts >= error:
        return []
    rows = options.worse_epochs if waits else 1
    return [
        Finding(
            "control.acts_on_noise",
            "warning",
            f"{_rise(counts)}, but the standard error of the validation loss on "
            f"{counted(volumes, 'volume')} is {error:.4f}: after {counted(rows, 'worse epoch')} "
            "the run returns to earlier weights, although the rise may be noise.",
            {"counts": counts, "standard_error": error, "validation_volumes": volumes},
            "plateau.noise_factor",
            REMEDY,
        )
    ]


def _rise(counts):
    if not counts:
        return "Any rise of the validation loss counts"
    return f"A rise of the validation loss by {counts:.2g} counts"


def _validation_noise(evidence):
    """(loss, its standard error, volumes) of the validation part: as the run stored it, or of a
    constant answer; between patches where there is one volume."""
    found = [one["validation"] for one in epochs_so_far(evidence) if "validation" in one]
    if errors := [one["standard_error"] for one in found if one["standard_error"] > 0]:
        loss = float(np.median([one["loss"] for one in found]))
        return loss, float(np.median(errors)), len(evidence.task.validation_ids)
    losses, volumes = _losses_of_a_constant(evidence)
    units = np.unique(volumes)
    each = [losses[volumes == number].mean() for number in units] if len(units) > 1 else losses
    if len(each) < 2:
        raise Skipped("a single validation patch has no noise")
    return float(np.mean(each)), plateau.standard_error(each), len(units)


def _losses_of_a_constant(evidence):
    """(losses [N], number of its volume [N]) of the share of foreground, on validation patches."""
    sampler = evidence.task.validation
    drawn = [sampler[number] for number in range(min(len(sampler), PATCHES))]
    label = np.stack([one["label"] for one in drawn])
    mask = (label != MASKED).astype(np.float32)
    label = (label == FOREGROUND).astype(np.float32)
    share = np.clip((label * mask).sum() / max(mask.sum(), 1), 1e-3, 1 - 1e-3)
    batches = [{"label": a[None], "mask": b[None]} for a, b in zip(label, mask, strict=True)]
    losses = constant_losses(evidence, batches, [logit(share)])[0]
    return losses, np.array([int(one["volume"]) for one in drawn])


def scaled_without_limit(epochs, settings):
    """Interventions that have scaled the rate beyond what a limited rule allows.

    Args:
      epochs: of `evidence.by_epoch`.
      settings: `Settings`.
    """
    del settings  # what was done counts, whatever rule did it
    done = [
        (one["epoch"], decision)
        for one in epochs
        for decision in one["decisions"]
        if decision["kind"] == "intervention"
    ]
    if not done:
        raise Skipped("no intervention was made")
    epoch, largest = max(done, key=lambda each: each[1]["scale"])
    if largest["scale"] <= LARGEST:
        return []
    rate = max(one["train"]["learning_rate"] for one in epochs)
    return [
        Finding(
            "control.runaway",
            "error" if _helped_nothing(epochs, done[0][0]) else "warning",
            f"{len(done)} interventions scaled the learning rate, after epoch {epoch} by "
            f"{largest['scale']:.3g}; the rule with a limit ends at {LARGEST:g}. The highest rate "
            f"was {rate:.2g}.",
            {
                "interventions": len(done),
                "scale": largest["scale"],
                "limit": LARGEST,
                "highest_rate": rate,
            },
            "plateau.maximum_scale",
            BOUND,
        )
    ]


def _helped_nothing(epochs, first):
    """Whether no validation loss after the first intervention is below the best before it."""
    losses = {one["epoch"]: one["validation"]["loss"] for one in epochs if "validation" in one}
    before = [loss for epoch, loss in losses.items() if epoch <= first]
    after = [loss for epoch, loss in losses.items() if epoch > first]
    return bool(before and after) and min(after) >= min(before)


def would_scale_without_limit(evidence):
    """How far interventions may scale the rate within the epochs of the run."""
    options, epochs = evidence.settings.control, evidence.settings.train["epochs"]
    if not options.worse_epochs:
        raise Skipped("the run makes no interventions")
    if _made(evidence, "intervention"):
        raise Skipped("the interventions of the run are judged instead")
    base_of, multiplier_of, limit = plateau.RULES[options.rule]
    limit = min(limit, options.maximum_scale or math.inf)
    most = max(epochs // (options.worse_epochs + 1), 1)  # each follows a best and a row of worse
    scales = [min(base_of(0.0, n) * multiplier_of(n), limit) for n in (1, most)]
    if max(scales) <= LARGEST:
        return []
    at_once = min(base_of(math.inf, 1) * multiplier_of(1), limit)
    return [
        Finding(
            "control.runaway",
            "warning",
            f"Interventions scale the learning rate by {at_once:.3g} to {scales[0]:.3g} at the "
            f"first plateau and by up to {max(scales):.3g} in {epochs} epochs; the rule "
            f"with a limit ends at {LARGEST:g}.",
            {"first": scales[0], "largest": max(scales), "limit": LARGEST, "plateaus": most},
            "plateau.maximum_scale",
            BOUND,
        )
    ]


def _made(evidence, kind):
    """Whether the run so far holds a decision of this kind."""
    epochs = epochs_so_far(evidence)
    return any(decision["kind"] == kind for one in epochs for decision in one["decisions"])


CHECKS = (
    Check(("control.acts_on_noise",), would_act_on_noise, quick=True),
    Check(("control.runaway",), would_scale_without_limit, quick=True),
    Check(("control.acts_on_noise",), on_epochs(decided_on_noise), needs="run", quick=True),
    Check(("control.runaway",), on_epochs(scaled_without_limit), needs="run", quick=True),
)
