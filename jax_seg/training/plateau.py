"""What to do after an epoch's validation: a pure state machine on the host.

`step` takes a state and one epoch's numbers and returns the next state and a list of decisions, for
the training loop to carry out and to log. It only decides: it changes no weights, files or rates.
"""

import dataclasses
import itertools
import math
from typing import NamedTuple

import numpy as np


def _scale_by_gradient(norm, _interventions):
    """Small gradients ask for a larger rate."""
    return 35.0 if norm < 0.01 else 25.0 if norm < 0.1 else 20.0 if norm <= 0.5 else 12.0


def _scale_by_count(_norm, interventions):
    return (2.0, 1.5, 1.2)[min(interventions, 3) - 1]


# rule: (base scale of the gradient norm and n, multiplier of p, largest product)
RULES = {
    "aggressive": (_scale_by_gradient, lambda p: 1 + 0.3 * (p - 1), math.inf),
    "escape": (_scale_by_gradient, lambda p: 1.5 + 0.85 * (p - 1), math.inf),
    "conservative": (_scale_by_gradient, lambda p: 1 + 0.15 * (p - 1), math.inf),
    "capped": (_scale_by_count, lambda p: 1 + 0.1 * min(p - 1, 3), 5.0),
}
ADVICE = "lower schedule.learning_rate (the notes fall back to 1.5e-4) before it explodes"
"""At the `warning_sign`; the rate is that of a second stage."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The rules of one run; ValueError, naming plateau.<field>, for an invalid value.

    A difference between two validation losses counts when it exceeds the margin
    max(threshold, noise_factor · noise).

    Attributes:
      rule: how an intervention scales the learning rate. 'aggressive', 'escape', 'conservative': by
        the mean gradient norm (35 below 0.01, 25 below 0.1, 20 up to 0.5, 12 above) times
        1 + 0.3(p − 1), 1.5 + 0.85(p − 1), 1 + 0.15(p − 1). 'capped': by 2.0, 1.5, then 1.2 at
        n = 1, 2, 3 and more, times 1 + 0.1·min(p − 1, 3), at most 5. p counts the plateaus of the
        whole run, n the interventions since substantial progress.
      maximum_scale: no intervention scales the rate by more; 0 for no limit but the rule's own.
      worse_epochs: a plateau is this many epochs in a row worse than the best; 0 for never.
      rollback_fraction: a loss above the best by more than this fraction of it is catastrophic and
        rolled back at once; 0 for never.
      substantial_progress: a plateau whose best loss is this fraction below that of the plateau
        before it (at the first plateau: below the first epoch's loss) is rolled back without an
        intervention, because the run is still learning; 0 for always intervening.
      threshold: smallest difference that counts, in units of the loss; 0 for any.
      noise_factor: smallest difference that counts, in standard errors of the loss; 0 for any.
      patience: stop after this many epochs without an improvement that counts; 0 for never.
    """

    rule: str
    maximum_scale: float
    worse_epochs: int
    rollback_fraction: float
    substantial_progress: float
    threshold: float
    noise_factor: float
    patience: int

    def __post_init__(self):
        if self.rule not in RULES:
            raise ValueError(f"plateau.rule is '{self.rule}'; choose one of {', '.join(RULES)}.")
        for field, value in dataclasses.asdict(self).items():
            if field != "rule" and not value >= 0:
                raise ValueError(f"plateau.{field} is {value}; set it to 0 or more.")


class State(NamedTuple):
    """All that the decisions depend on. Its fields are JSON values: State(**json.loads(text)).

    Attributes:
      scale: what the scheduled learning rate is multiplied by now.
      best_loss: lowest loss so far, that of the best checkpoint; None before the first epoch. Set
        it to None when the loss weights change, since older losses are then not comparable.
      best_epoch: the epoch that reached it.
      best_scale: scale in that epoch.
      improved_loss: loss of the last improvement that counts.
      improved_epoch: the epoch of that improvement.
      plateau_loss: best loss at the last plateau; before one, the first epoch's loss.
      worse_in_a_row: epochs in a row worse than the best.
      plateaus: p, over the whole run.
      interventions: n, since substantial progress.
    """

    scale: float = 1.0
    best_loss: float | None = None
    best_epoch: int | None = None
    best_scale: float = 1.0
    improved_loss: float | None = None
    improved_epoch: int | None = None
    plateau_loss: float | None = None
    worse_in_a_row: int = 0
    plateaus: int = 0
    interventions: int = 0


def step(state, val_loss, noise, gradient_norm, epoch, *, options):
    """The next state, and the decisions for the loop to carry out, in order.

    Args:
      state: State; State() before the first epoch.
      val_loss: validation loss of the epoch. Not finite counts as catastrophic.
      noise: its standard error, see `standard_error`.
      gradient_norm: mean global norm of the epoch's gradients before clipping.
      epoch: the loop's clock, which a rollback does not turn back.
      options: Options.

    Returns:
      (State, decisions): dicts of JSON values with 'kind', 'epoch', 'val_loss', 'margin' and
        new_best               save the checkpoint: 'previous'
        degradation            log: 'best_loss', 'worse_in_a_row'
        rollback               restore the checkpoint of 'best_epoch' with its loss weights and
                               'scale'; 'reason' is 'catastrophic' or 'plateau'
        substantial_progress   log; no intervention follows: 'best_loss', 'plateau_loss'
        intervention           'scale' the rate: 'gradient_norm', 'base', 'multiplier', 'p', 'n'
        early_stop             leave the loop: 'best_epoch', 'improved_epoch'
      The rate of the next epoch is its scheduled rate times the new state's `scale`.

    Raises:
      ValueError: the first loss is not finite, so there is no checkpoint to return to.
    """
    val_loss, gradient_norm, epoch = float(val_loss), float(gradient_norm), int(epoch)
    margin = max(options.threshold, options.noise_factor * float(noise))
    if state.best_loss is None and not math.isfinite(val_loss):
        raise ValueError(
            f"The first validation loss, of epoch {epoch}, is {val_loss}; no checkpoint exists to "
            "return to, so lower schedule.learning_rate or check the data."
        )
    if state.best_loss is None:
        state = state._replace(plateau_loss=val_loss)
    state, decisions = _compare(state, val_loss, margin, epoch, options)
    if options.patience and epoch - state.improved_epoch >= options.patience:
        numbers = {"best_epoch": state.best_epoch, "improved_epoch": state.improved_epoch}
        decisions.append(("early_stop", numbers))
    elif options.worse_epochs and state.worse_in_a_row >= options.worse_epochs:
        state, more = _leave_plateau(state, gradient_norm, margin, options)
        decisions += more
    common = {"epoch": epoch, "val_loss": val_loss, "margin": margin}
    return state, [{"kind": kind} | common | numbers for kind, numbers in decisions]


def _compare(state, val_loss, margin, epoch, options):
    """(State, [(kind, numbers)]) of a loss against the best: far worse, better, worse or equal."""
    first = state.best_loss is None
    if not first and _is_catastrophic(val_loss, state.best_loss, margin, options):
        return _roll_back(state, "catastrophic")
    if first or val_loss < state.best_loss:
        decisions = [("new_best", {"previous": state.best_loss})]
        if first or val_loss < state.improved_loss - margin:
            state = state._replace(improved_loss=val_loss, improved_epoch=epoch)
        best = {"best_loss": val_loss, "best_epoch": epoch, "best_scale": state.scale}
        return state._replace(**best, worse_in_a_row=0), decisions
    if val_loss > state.best_loss + margin:
        worse = state.worse_in_a_row + 1
        numbers = {"best_loss": state.best_loss, "worse_in_a_row": worse}
        return state._replace(worse_in_a_row=worse), [("degradation", numbers)]
    return state._replace(worse_in_a_row=0), []


def _roll_back(state, reason):
    best = {"best_epoch": state.best_epoch, "best_loss": state.best_loss}
    decision = ("rollback", {"reason": reason, "scale": state.best_scale, **best})
    return state._replace(scale=state.best_scale, worse_in_a_row=0), [decision]


def _leave_plateau(state, gradient_norm, margin, options):
    """(State, [(kind, numbers)]): a rollback, then an intervention unless the run still learns."""
    state, decisions = _roll_back(state, "plateau")
    needed = max(margin, options.substantial_progress * abs(state.plateau_loss))
    if options.substantial_progress and state.best_loss < state.plateau_loss - needed:
        numbers = {"best_loss": state.best_loss, "plateau_loss": state.plateau_loss}
        decisions.append(("substantial_progress", numbers))
        state = state._replace(interventions=0)
    else:
        p, n = state.plateaus + 1, state.interventions + 1
        numbers = _intervention(gradient_norm, p, n, options)
        decisions.append(
            ("intervention", {"gradient_norm": gradient_norm, "p": p, "n": n, **numbers})
        )
        state = state._replace(scale=numbers["scale"], plateaus=p, interventions=n)
    return state._replace(plateau_loss=state.best_loss), decisions


def standard_error(per_volume_losses):
    """Standard error of the mean of the volumes' losses [N], by bootstrap over volumes.

    The standard deviation of the mean over draws of N volumes with replacement (Efron 1979), which
    for a mean is known without drawing: σ / √N, with the σ of these N losses. It counts the choice
    of volumes, and the choice of patches within them.

    Raises:
      ValueError: for fewer than two volumes, or a loss that is not finite.
    """
    losses = np.asarray(per_volume_losses, np.float64)
    if losses.ndim != 1 or losses.size < 2 or not np.isfinite(losses).all():
        raise ValueError(
            f"The noise of the validation loss needs finite losses of at least two volumes, not "
            f"{losses.tolist()}; validate on more volumes or set plateau.noise_factor to 0."
        )
    return float(losses.std() / math.sqrt(losses.size))


def warning_sign(losses, ious, epochs=2):
    """Whether the loss fell while IoU fell, `epochs` times in a row: the start of an explosion.

    Args:
      losses, ious: one number per epoch, oldest first.
      epochs: falls in a row.
    """

    def falls(values):
        last = values[-epochs - 1 :]
        return len(last) == epochs + 1 and all(b < a for a, b in itertools.pairwise(last))

    return falls(losses) and falls(ious)


def _is_catastrophic(val_loss, best_loss, margin, options):
    if not math.isfinite(val_loss):
        return True
    fraction = options.rollback_fraction
    return fraction > 0 and val_loss - best_loss > max(fraction * abs(best_loss), margin)


def _intervention(gradient_norm, p, n, options):
    base_of, multiplier_of, largest = RULES[options.rule]
    base, multiplier = base_of(gradient_norm, n), multiplier_of(p)
    scale = min(base * multiplier, largest, options.maximum_scale or math.inf)
    return {"base": base, "multiplier": multiplier, "scale": scale}
