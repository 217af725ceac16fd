"""Values that change from epoch to epoch: plain functions of the epoch, evaluated on the host.

Their values enter the training step as arrays, so that a new rate or noise recompiles nothing.
"""

import math
from typing import NamedTuple

NAMES = ("constant", "cosine", "cosine_restarts", "polynomial", "plateau")


def make_schedule(name, *, learning_rate, epochs, warmup_epochs, t_0, t_mult, eta_min, power):
    """The learning rate of each epoch, `schedule(epoch) -> float`, epochs counted from 0.

    During warm-up the rate is learning_rate · (epoch + 1) / warmup_epochs. The main schedule starts
    at t = 0 after it and has T = epochs − warmup_epochs. Fractions of an epoch are allowed; past
    the end the last value of 'cosine' and 'polynomial' holds.

    Args:
      name: 'constant'; 'cosine', from learning_rate at t = 0 to eta_min at t = T;
        'cosine_restarts', the same over cycles of t_0, t_0·t_mult, t_0·t_mult², … epochs (both
        Loshchilov and Hutter 2017, eq. 5); 'polynomial', learning_rate · (1 − t/T)^power (nnU-Net,
        Isensee et al. 2021, with power 0.9); 'plateau', constant here, to be multiplied by the
        scale of `make_reduce_on_plateau`.
      learning_rate: rate after warm-up.
      epochs: length of the run, warm-up included.
      warmup_epochs: 0 for none.
      t_0: epochs of the first cycle, 1 or more.
      t_mult: growth of the cycles, 1 or more.
      eta_min: lowest rate of the two cosines.
      power: exponent of the polynomial.

    Raises:
      ValueError: for an unknown name or a value out of range, naming schedule.<field>.
    """
    if name not in NAMES:
        raise ValueError(f"schedule.name is '{name}'; choose one of {', '.join(NAMES)}.")
    for field, value in (("learning_rate", learning_rate), ("eta_min", eta_min), ("power", power)):
        _require(value >= 0, f"schedule.{field}", value, "set it to 0 or more")
    _require(t_0 >= 1, "schedule.t_0", t_0, "set it to 1 epoch or more")
    _require(t_mult >= 1, "schedule.t_mult", t_mult, "set it to 1 or more, so that cycles grow")
    _require(
        0 <= warmup_epochs <= epochs,
        "schedule.warmup_epochs",
        warmup_epochs,
        f"set it between 0 and train.epochs, which is {epochs}",
    )

    def cosine(fraction):
        return eta_min + (learning_rate - eta_min) * (1 + math.cos(math.pi * fraction)) / 2

    def schedule(epoch):
        if epoch < warmup_epochs:
            return learning_rate * min((epoch + 1) / warmup_epochs, 1.0)
        t = epoch - warmup_epochs
        passed = min(t / max(epochs - warmup_epochs, 1), 1.0)
        if name == "cosine":
            return cosine(passed)
        if name == "cosine_restarts":
            return cosine(_cycle_fraction(t, t_0, t_mult))
        if name == "polynomial":
            return learning_rate * (1 - passed) ** power
        return float(learning_rate)

    return schedule


class ReduceOnPlateau(NamedTuple):
    """State of a reduction on plateau; its fields are JSON values.

    Attributes:
      scale: what the scheduled rate is multiplied by.
      best: best value so far, None before the first.
      bad_epochs: epochs since then, or since the last reduction or cooldown.
      cooldown_left: remaining epochs in which bad ones are not counted.
    """

    scale: float = 1.0
    best: float | None = None
    bad_epochs: int = 0
    cooldown_left: int = 0


def make_reduce_on_plateau(*, patience, factor, threshold, cooldown, min_scale, mode):
    """A pure `update(state, value) -> state`, called once after each evaluation.

    Equal to PyTorch's ReduceLROnPlateau with a relative threshold, except for its eps (a reduction
    of less than 1e-8 is not skipped): once more than `patience` epochs in a row did not improve
    the best value by the fraction `threshold`, the scale is multiplied by `factor`, and the next
    `cooldown` epochs do not count. The scale never falls below `min_scale`. A value that is not a
    number counts as a bad epoch. Start from `ReduceOnPlateau()`.

    Raises:
      ValueError: for an unknown mode or a value out of range, naming reduction.<field>.
    """
    if mode not in ("min", "max"):
        raise ValueError(f"reduction.mode is '{mode}'; choose min (a loss) or max (a score).")
    _require(0 < factor < 1, "reduction.factor", factor, "set it between 0 and 1")
    _require(0 <= min_scale <= 1, "reduction.min_scale", min_scale, "set it between 0 and 1")
    for field, value in (("patience", patience), ("threshold", threshold), ("cooldown", cooldown)):
        _require(value >= 0, f"reduction.{field}", value, "set it to 0 or more")

    def is_better(value, best):
        if best is None:
            return not math.isnan(value)
        if mode == "min":
            return value < best * (1 - threshold)
        return value > best * (1 + threshold)

    def update(state, value):
        scale, best, bad_epochs, cooldown_left = state
        if is_better(value, best):
            best, bad_epochs = float(value), 0
        else:
            bad_epochs += 1
        if cooldown_left > 0:
            cooldown_left, bad_epochs = cooldown_left - 1, 0
        if bad_epochs > patience:
            scale, bad_epochs, cooldown_left = max(scale * factor, min_scale), 0, cooldown
        return ReduceOnPlateau(scale, best, bad_epochs, cooldown_left)

    return update


def weight_noise(epoch, *, start_epoch, every, std, decay):
    """Standard deviation of the noise that is added to the weights before an epoch, 0 for none.

    std · decay^k at the epoch start_epoch + k·every, k = 0, 1, …

    Raises:
      ValueError: if `every` is below 1 or `std` or `decay` is negative, naming noise.<field>.
    """
    _require(every >= 1, "noise.every", every, "set it to 1 epoch or more")
    for field, value in (("std", std), ("decay", decay)):
        _require(value >= 0, f"noise.{field}", value, "set it to 0 or more")
    since = epoch - start_epoch
    return std * decay ** (since // every) if since >= 0 and since % every == 0 else 0.0


def _cycle_fraction(t, t_0, t_mult):
    """The fraction of the running cycle that has passed at time t, in [0, 1)."""
    length = t_0
    while t >= length:
        t, length = t - length, length * t_mult
    return t / length


def _require(holds, field, value, remedy):
    if not holds:
        raise ValueError(f"{field} is {value}; {remedy}.")
