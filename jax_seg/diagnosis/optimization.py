"""Does the optimizer move the weights: its rate, clipping and decay against the run's length?"""

import itertools
import math
from typing import NamedTuple

import jax
import numpy as np

from jax_seg.diagnosis.finding import Check, Finding
from jax_seg.diagnosis.schedules import epochs_so_far, planned_rates, planned_updates
from jax_seg.diagnosis.trials import STEPS, clearly_below, make_trials
from jax_seg.metrics.curves import CLIPPED

TENFOLD = 10.0
"""The step between the rates that are tried; within it optimizers differ as much as rates do."""
LEARNS = 1 / 2
"""A rate that lowers the loss by less than this share of what a better one does learns too little,
if it also does no better than a constant."""
DECAYS = 0.5
"""Decay that takes less than this share of the weights over a whole run cannot rule them."""


class Length(NamedTuple):
    """How far the rates of a run can carry its weights.

    Attributes:
      updates: of the run.
      sum: of the learning rates of all updates.
      peak: highest rate that is planned, without interventions.
      warmup: updates before the rate is first at its peak.
      reached: lowest training loss of an epoch; None before the run.
    """

    updates: float
    sum: float
    peak: float
    warmup: float
    reached: float | None


def length(evidence):
    """The `Length` of a run, as planned; of a finished run as it was."""
    settings, epochs = evidence.settings, epochs_so_far(evidence)
    planned = planned_rates(settings)
    if epochs and evidence.run.scores:
        rates = [one["train"]["learning_rate"] for one in epochs]
        steps = [0, *(one["train"]["step"] for one in epochs)]
        updates = [max(after - before, 0) for before, after in itertools.pairwise(steps)]
    else:
        rates, updates = planned, planned_updates(settings, len(evidence.task.train))
    total = sum(rate * count for rate, count in zip(rates, updates, strict=True))
    warmup = sum(updates[: int(np.argmax(planned))])
    reached = min((one["train"]["loss"] for one in epochs), default=None)
    return Length(sum(updates), total, max(planned), warmup, reached)


def moves_the_weights(evidence):
    """Short trainings at the rates of the run and at others, judged on batches held apart."""
    tried, run = make_trials(evidence), length(evidence)
    own = _all_at_once(evidence, tried, run)
    # What learns in few large updates learns in many small ones: rates up to these are not too high
    # either, and so large a sum is not too low.
    if not clearly_below(own.losses, tried.constant):
        found = _too_high(tried, run) or _too_low(evidence, tried, run, own)
        if found:
            return found
    return _decays(evidence, tried, run)


def _all_at_once(evidence, tried, run, factor=1.0, wider=1.0):
    """A trial whose rates add up to those of all updates of the run.

    Where rates are small, training depends on their sum alone: n updates at a rate are one at n
    times the rate. Momentum multiplies the rate of SGD by 1 / (1 - momentum) in the long run, which
    trials are too short for; here the rate is multiplied instead.
    """
    options = evidence.settings.programs["optimizer"]
    rate = run.sum / STEPS
    if options["name"] == "sgd":
        rate /= 1 - options["momentum"]
    return tried.trial([factor * rate] * STEPS, wider * options["clip_norm"], momentum=0.0)


def _rising_to(peak, warmup):
    """The rates of a trial that ends at a peak, after a warm-up of half of it at most."""
    ramp = max(min(warmup, STEPS // 2), 1)
    return [peak * min((number + 1) / ramp, 1.0) for number in range(STEPS)]


def _too_high(tried, run):
    """The highest rate of the run does not lower the loss, a tenth or a hundredth of it does."""
    high, start = tried.trial(_rising_to(run.peak, run.warmup)), tried.start
    if clearly_below(high.losses, start.losses):
        return []
    for factor in (TENFOLD, TENFOLD**2):
        rate = run.peak / factor
        lower = tried.trial(_rising_to(rate, run.warmup))
        better = clearly_below(lower.losses, start.losses)
        if better and clearly_below(lower.losses, high.losses):
            learned = run.reached is not None and run.reached < lower.loss
            return [] if learned else [_high(start, high, lower, run.peak, rate)]
    return []


def _high(start, high, lower, peak, rate):
    raises = clearly_below(start.losses, high.losses)
    return Finding(
        "optimizer.rate_too_high",
        "error" if raises else "warning",
        f"{STEPS} updates at the rate {peak:.2g} change the loss of batches held apart from "
        f"{start.loss:.4f} to {high.loss:.4f}, at {rate:.2g} to {lower.loss:.4f}; one changes the "
        f"kernels by {100 * high.ratio:.2g} %, against {100 * lower.ratio:.2g} %.",
        {
            "rate": peak,
            "loss": _finite(high.loss),
            "better_rate": rate,
            "better_loss": lower.loss,
            "loss_at_start": start.loss,
            "update_of_weight": _finite(high.ratio),
        },
        "schedule.learning_rate",
        f"Set schedule.learning_rate to {rate:.2g}.",
    )


def _too_low(evidence, tried, run, own):
    """All updates of the run together do no better than a constant, at higher rates they do."""
    if clearly_below(tried.start.losses, own.losses):
        return []  # so large that it cannot be tried in so few updates
    for factor in (TENFOLD, TENFOLD**2, TENFOLD**3):
        better = _all_at_once(evidence, tried, run, factor)
        if not _learns_more(tried, own, better):
            continue
        if run.reached is not None and run.reached < better.loss:
            return []  # the run has learned anyway
        options = evidence.settings.programs["optimizer"]
        if options["name"] == "sgd" and np.mean(_over(own.norms, options)) >= CLIPPED:
            wider = _all_at_once(evidence, tried, run, wider=factor)
            if _learns_more(tried, own, wider):
                return [_clipped(options["clip_norm"], tried.start, own, wider, factor, run)]
        return [_low(tried.start, own, better, factor, run)]
    return []


def _learns_more(tried, own, better):
    """Whether a trial beats both the constant and, by far, the run's own."""
    gain = tried.start.loss - better.loss
    return (
        clearly_below(better.losses, tried.constant)
        and clearly_below(better.losses, own.losses)
        and tried.start.loss - own.loss < LEARNS * gain
    )


def _over(norms, options):
    """Which gradients are clipped."""
    return (norms > options["clip_norm"]) & (options["clip_norm"] > 0)


def _low(start, own, better, factor, run):
    return Finding(
        "optimizer.rate_too_low",
        "error",
        f"The {run.updates:.0f} updates of the run, whose rates add up to {run.sum:.2g}, lower the "
        f"loss of batches held apart from {start.loss:.4f} to about {own.loss:.4f}; "
        f"{factor:.0f} times the rate lowers it to {better.loss:.4f} within {STEPS} updates.",
        {
            "rate": run.peak,
            "updates": run.updates,
            "sum_of_rates": run.sum,
            "loss_at_start": start.loss,
            "loss": own.loss,
            "factor": factor,
            "loss_at_higher_rate": better.loss,
            "update_of_weight": own.ratio * STEPS / run.updates,
        },
        "schedule.learning_rate",
        f"Set schedule.learning_rate to {factor * run.peak:.2g}, or train longer.",
    )


def _clipped(clip_norm, start, own, wider, factor, run):
    norm = float(np.median(own.norms))
    return Finding(
        "optimizer.clipped",
        "error",
        f"Gradients of norm {norm:.2g} are clipped to {clip_norm:.2g}, which makes every update "
        f"{norm / clip_norm:.0f} times smaller: the {run.updates:.0f} updates of the run lower the "
        f"loss of batches held apart from {start.loss:.4f} to about {own.loss:.4f}, and with "
        f"{factor:.0f} times the norm to {wider.loss:.4f}.",
        {
            "clip_norm": clip_norm,
            "gradient_norm": norm,
            "loss_at_start": start.loss,
            "loss": own.loss,
            "loss_with_wider": wider.loss,
            "updates": run.updates,
        },
        "optimizer.clip_norm",
        f"Set optimizer.clip_norm above {norm:.2g}, so that it stops rare explosions alone.",
    )


def _decays(evidence, tried, run):
    """The decay of the weights against what the gradients make of them, per kernel."""
    decay = evidence.settings.programs["optimizer"]["weight_decay"]
    shrinks = 1 - math.exp(-run.sum * decay)
    if shrinks < DECAYS:
        return []
    rates = _rising_to(run.peak, run.warmup)
    free = tried.trial(rates, decay=0.0)
    rate = sum(rates[STEPS // 2 :])
    sizes, stronger, ratios = [], [], []
    for before, after in zip(*map(jax.tree.leaves, free.params), strict=True):
        if before.ndim < 2:
            continue
        pull = rate * decay * float(np.linalg.norm(before))
        push = float(np.linalg.norm(np.asarray(after) - np.asarray(before)))
        sizes.append(before.size)
        stronger.append(pull > push)
        ratios.append(pull / max(push, 1e-12))
    share = float(np.average(stronger, weights=sizes))
    if share <= 0.5:
        return []
    return [
        Finding(
            "optimizer.decay",
            "error",
            f"The decay of {decay:g} would take {100 * shrinks:.0f} % of the weights over the run, "
            f"and moves them {np.median(ratios):.1f} times as far as the gradients of the first "
            f"{STEPS} updates do (in {100 * share:.0f} % of the kernels' weights further).",
            {
                "weight_decay": decay,
                "taken_over_the_run": shrinks,
                "decay_of_gradient": float(np.median(ratios)),
                "share_of_weights": share,
            },
            "optimizer.weight_decay",
            f"Set optimizer.weight_decay to {_one_digit(0.01 / run.sum)} or less, which takes 1 % "
            "of the weights over the run.",
        )
    ]


def _finite(value):
    """A number for JSON: a diverged trial has none."""
    return float(value) if math.isfinite(value) else None


def _one_digit(value):
    return f"{value:.0e}"


CHECKS = (
    Check(
        (
            "optimizer.rate_too_low",
            "optimizer.rate_too_high",
            "optimizer.clipped",
            "optimizer.decay",
        ),
        moves_the_weights,
        not_for={"image": "trying rates on a detector takes minutes"},
    ),
)
