"""Checks of the figures that a run records for each epoch; `watch` runs them after each.

Each is (epochs, settings) -> list of Finding: `epochs` is of `evidence.by_epoch`, `settings` the
`Settings` of the run.
"""

import math

import numpy as np

from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.losses import variance_floor
from jax_seg.metrics import curves
from jax_seg.metrics.curves import LAST
from jax_seg.training import stages

RISEN = 4.0  # standard deviations between epochs by which a training loss has clearly risen
VANISHED = 1e-3
"""Share of its first size at which a gradient has vanished. Adam's second moment, at its usual
0.999, remembers a thousand updates: what is smaller by that no longer moves the weights."""
HALF = 0.5
"""Share of the first loss; a run that pays less has lost its gradient by learning."""
UNAVOIDABLE = 0.25  # share of the loss that no prediction avoids, beyond which it misleads


def clipped(epochs, settings):
    """Whether SGD's gradients are nearly all clipped, to a small share of their size."""
    options = settings.programs["optimizer"]
    if options["name"] != "sgd" or not options["clip_norm"]:
        raise Skipped("clipping does not change the size of the updates")
    if len(epochs) < LAST:
        raise Skipped(f"fewer than {LAST} epochs are done")
    train = [one["train"] for one in epochs]
    found = curves.clipping(train, name=options["name"], clip_norm=options["clip_norm"])
    if not found:
        return []
    return [
        Finding(
            "optimizer.clipped",
            "warning",
            f"In the last {LAST} epochs {100 * found.share:.0f} % of the gradients were clipped, "
            f"from a norm of {found.norm:.3g} to {options['clip_norm']:g}: every update is "
            f"{found.times:.0f} times smaller than the learning rate says.",
            {
                "clipped_share": found.share,
                "gradient_norm": found.norm,
                "clip_norm": options["clip_norm"],
            },
            "optimizer.clip_norm",
            f"Set optimizer.clip_norm above {found.norm:.2g}, so that it stops rare explosions "
            "alone.",
        )
    ]


def loss_rises(epochs, settings):
    """Whether the training loss has risen, clearly and for several epochs, under a higher rate."""
    del settings  # figures alone decide
    if any(decision["kind"] == "intervention" for one in epochs for decision in one["decisions"]):
        raise Skipped("interventions have scaled the rate")
    train = [one["train"] for one in epochs]
    train = [one for one in train if one.get("stage") == train[-1].get("stage")]
    if len(train) < 2 * LAST:
        raise Skipped(f"fewer than {2 * LAST} epochs are done")
    losses = np.array([one["loss"] for one in train])
    best = int(np.argmin(losses[:-LAST]))
    noise = np.std(np.diff(losses)) / math.sqrt(2)  # between epochs, without their trend
    late = losses[-LAST:]
    rates = [one["learning_rate"] for one in train]
    rate, before = max(rates[best + 1 :]), rates[best]
    if late.min() - losses[best] <= RISEN * noise or rate <= before:
        return []
    return [
        Finding(
            "optimizer.rate_too_high",
            "warning",
            f"The training loss has risen from {losses[best]:.4f}, at the rate {before:.2g}, to "
            f"{late.mean():.4f} over the last {LAST} epochs, after rates of up to {rate:.2g}; "
            f"epochs differ by {noise:.4f}.",
            {
                "lowest_loss": float(losses[best]),
                "loss": float(late.mean()),
                "noise": float(noise),
                "rate": rate,
                "rate_at_lowest": before,
            },
            "schedule.learning_rate",
            f"Set schedule.learning_rate to {before:.2g} or less.",
        )
    ]


def unavoidable_term(epochs, settings):
    """The share of the training loss that the floor of the variance term makes up.

    Of `watch` alone: `loss_answers` measures the floor of all terms.
    """
    last = epochs[-1]
    weights = stages.at(settings.plan, last["epoch"]).loss_weights
    if not weights.get("variance"):
        raise Skipped("no term of the loss has a floor above 0")
    floor = variance_floor(settings.programs["loss"]["variance_target_entropy"])
    weight, value, loss = (
        float(weights["variance"]),
        last["train"]["variance"],
        last["train"]["loss"],
    )
    share = weight * floor / loss
    if share < UNAVOIDABLE:
        return []
    return [
        Finding(
            "loss.floor",
            "error" if share > HALF else "warning",
            f"The variance term is {value:.3f}, and no prediction brings it below {floor:.3f}: "
            f"{100 * share:.0f} % of the training loss of {loss:.4f} cannot be learned away.",
            {"term": value, "floor": floor, "weight": weight, "loss": loss, "share": share},
            "loss.weights.variance",
            "Set loss.weights.variance to 0, or read the loss as its distance to the floor.",
        )
    ]


def vanished_gradient(epochs, settings):
    """Whether the gradient has gone although the loss has not."""
    del settings  # figures alone decide
    train = [one["train"] for one in epochs]
    train = [one for one in train if one.get("stage") == train[-1].get("stage")]
    if len(train) < 2 * LAST:
        raise Skipped(f"fewer than {2 * LAST} epochs are done")
    (first, last), (before, now) = (
        [float(np.mean([one[name] for one in part])) for part in (train[:LAST], train[-LAST:])]
        for name in ("gradient_norm", "loss")
    )
    if last > VANISHED * first or now < HALF * before:
        return []
    return [
        Finding(
            "model.saturated",
            "error",
            f"The gradient has fallen from a norm of {first:.2g} to {last:.2g}, but the training "
            f"loss only from {before:.4f} to {now:.4f}: the outputs are so large that no gradient "
            "is left.",
            {"norm_at_first": first, "norm": last, "loss_at_first": before, "loss": now},
            "schedule.learning_rate",
            "Return to a checkpoint from before, and lower the learning rate.",
        )
    ]


def on_epochs(find):
    """A check of a run's epochs as one of `Evidence`."""
    return lambda evidence: find(evidence.epochs, evidence.settings)


CHECKS = (
    Check(("optimizer.clipped",), on_epochs(clipped), needs="run", quick=True),
    Check(("optimizer.rate_too_high",), on_epochs(loss_rises), needs="run", quick=True),
    Check(("model.saturated",), on_epochs(vanished_gradient), needs="run", quick=True),
)
