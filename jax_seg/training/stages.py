"""Stages: spans of epochs that change what is trained, on what, and how.

A run without stages is one stage. A curriculum of losses, progressive unfreezing and a growing
batch are stages; a field that a stage does not set keeps the run's value.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jax_seg.losses import TERMS
from jax_seg.runs.clocks import Clock, clocks
from jax_seg.training.schedule import ReduceOnPlateau, make_schedule

FIELDS = ("epochs", "loss_weights", "batch", "accumulate", "rates", "schedule")


class Stage(NamedTuple):
    """One stage, with every value filled in.

    Attributes:
      name: as in the configuration.
      first, last: its epochs, both included.
      loss_weights: {term: weight}, the same terms in every stage of a run.
      batches: sizes of a batch; each epoch draws one.
      accumulate: batches whose gradients make one update.
      rates: {part of the network: factor on the learning rate, 0 freezes it}.
      learning_rate: epoch -> rate, epochs counted over the whole run.
      clock: of the schedule that runs in it.
    """

    name: str
    first: int
    last: int
    loss_weights: dict
    batches: tuple
    accumulate: int
    rates: dict
    learning_rate: Callable
    clock: Clock

    @property
    def warm(self):
        """The first epoch after the warm-up."""
        return self.clock.warm

    @property
    def reducing(self):
        """Whether the schedule is 'plateau', which reduces the rate on top of it."""
        return self.clock.fields["name"] == "plateau"

    @property
    def own_schedule(self):
        """Whether the schedule's clock starts with this stage."""
        return self.clock.first == self.first

    def batch(self, seed, epoch):
        """The batch size of an epoch, a function of the seed and the epoch."""
        draw = np.random.default_rng((seed, epoch)).integers(len(self.batches))
        return self.batches[draw]


def plan(stages, *, epochs, loss_weights, batches, accumulate, rates, schedule):
    """The stages of a run, in order.

    Args:
      stages: {name: {field of FIELDS: value}}, possibly empty. epochs is (first, last), both
        included; loss_weights, rates and schedule replace single entries of the run's; batch and
        accumulate replace the run's unless 0. A stage whose schedule has an entry restarts
        the schedule's clock, until the next such stage; otherwise the schedule continues.
      epochs: of the run.
      loss_weights: {term: weight} of the run; terms with weight 0 in every stage are omitted.
      batches: sizes from which an epoch's batch is drawn.
      accumulate: batches whose gradients make one update.
      rates: {part: factor}.
      schedule: arguments of `make_schedule` except epochs.

    Returns:
      List of Stage.

    Raises:
      ValueError: an unknown field, term or part, or epochs that leave a gap, overlap or do not
        end with the run, naming stages.<name>.
    """
    given = stages or {"run": {"epochs": (0, epochs - 1)}}
    ordered = sorted(given.items(), key=lambda item: item[1]["epochs"])
    _check_epochs(ordered, epochs)
    weights = {
        name: _replaced(loss_weights, stage.get("loss_weights"), TERMS, f"{name}.loss_weights")
        for name, stage in ordered
    }
    terms = [t for t in loss_weights if any(w[t] for w in weights.values())]
    if not terms:
        raise ValueError("Every loss weight is 0; give one of loss.weights a number.")

    result, found = [], clocks(given, epochs, schedule)
    for name, stage in ordered:
        if unknown := sorted(set(stage) - set(FIELDS)):
            raise ValueError(f"stages.{name} has no field '{unknown[0]}'; use {', '.join(FIELDS)}.")
        first, last = stage["epochs"]
        _replaced(schedule, stage.get("schedule"), schedule, f"{name}.schedule")
        clock = next(clock for clock in found if first < clock.end)
        follow = make_schedule(epochs=clock.end - clock.first, **clock.fields)
        accumulates = stage.get("accumulate") or accumulate
        if accumulates < 1:
            raise ValueError(
                f"The updates of stage '{name}' accumulate {accumulates} batches; set "
                "train.accumulate, or the stage's, to 1 or more."
            )
        parts = _replaced(rates, stage.get("rates"), rates, f"{name}.rates")
        if not any(parts.values()):
            raise ValueError(
                f"Stage '{name}' freezes every part of the network; give one of parts, or of "
                f"stages.{name}.rates, a rate above 0."
            )
        result.append(
            Stage(
                name=name,
                first=first,
                last=last,
                loss_weights={t: np.float32(weights[name][t]) for t in terms},
                batches=(stage["batch"],) if stage.get("batch") else tuple(batches),
                accumulate=accumulates,
                rates=parts,
                learning_rate=_from(clock.first, follow),
                clock=clock,
            )
        )
    return result


def at(plan, epoch):
    """The stage of an epoch; past the end, the last one."""
    return next((stage for stage in plan if epoch <= stage.last), plan[-1])


def cross(stage, following, controller, reduction):
    """The states of plateau and reduction at the change from one stage to the next.

    Losses with different weights are not comparable, so the best is forgotten; a restarted schedule
    starts without reductions and interventions.

    Args:
      stage, following: Stage.
      controller: `plateau.State`.
      reduction: `schedule.ReduceOnPlateau`.

    Returns:
      (plateau.State, ReduceOnPlateau).
    """
    if following.loss_weights != stage.loss_weights:
        controller = controller._replace(best_loss=None, worse_in_a_row=0)
        reduction = reduction._replace(best=None, bad_epochs=0)
    if following.own_schedule:
        controller = controller._replace(scale=1.0, best_scale=1.0, interventions=0)
        reduction = ReduceOnPlateau()
    return controller, reduction


def _from(start, schedule):
    return lambda epoch: schedule(epoch - start)


def _check_epochs(ordered, epochs):
    expected, before = 0, "the run's start"
    for name, stage in ordered:
        first, last = stage["epochs"]
        if first != expected or last < first:
            what = "overlap" if first < expected else "leave a gap"
            what = what if last >= first else "end before they begin"
            raise ValueError(
                f"stages.{name}.epochs is ({first}, {last}), which {what} after {before}; begin "
                f"with epoch {expected}."
            )
        expected, before = last + 1, f"stage '{name}'"
    if expected != epochs:
        raise ValueError(
            f"The stages end with epoch {expected - 1}, but train.epochs is {epochs}; let the last "
            f"stage end with epoch {epochs - 1}."
        )


def _replaced(values, changes, known, where):
    for key in changes or {}:
        if key not in known:
            raise ValueError(f"stages.{where} has no '{key}'; use {', '.join(known)}.")
    return {**values, **(changes or {})}
