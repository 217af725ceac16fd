"""Curves of a run: does its loss still fall, has it risen since its best, does clipping rule?"""

from typing import NamedTuple

import numpy as np

CLEAR = 2.0  # standard errors
FEWEST = 4  # epochs from which a trend can be told
LAST_PART = 0.25  # of the epochs; a run that still improves in it may need more
STILL = 0.1  # share of all that was learned; as much in the last part is not yet a plateau
ANNEALED = 0.1  # share of the highest learning rate; below, a run settles rather than learns
LAST = 3  # epochs that show how a run trains now
CLIPPED = 0.95  # share of clipped gradients that leaves hardly one as it is
TENFOLD = 10.0  # clipping to a larger share of its norm slows a run by less


class Curves(NamedTuple):
    """Figures of the epochs that were trained and judged, [N] each.

    Attributes:
      epoch: numbers.
      train: loss on augmented training patches.
      validation: loss on fixed validation patches.
      error: standard error of it over volumes; 0 where it is unknown.
      rate: highest learning rate of the parts; 1 where it is unknown.
    """

    epoch: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    error: np.ndarray
    rate: np.ndarray

    @property
    def finite(self):
        """Whether every loss is."""
        return bool(np.isfinite(self.train).all() and np.isfinite(self.validation).all())


def collected(train, validation, first=0):
    """The `Curves` of a run.

    Args:
      train, validation: {epoch: metrics}; an epoch that one of them lacks does not count.
      first: epoch of the last stage, since losses of other stages do not compare.
    """
    rows = [
        (
            epoch,
            train[epoch]["loss"],
            validation[epoch]["loss"],
            validation[epoch].get("standard_error", 0.0),
            train[epoch].get("learning_rate", 1.0),
        )
        for epoch in sorted(train.keys() & validation.keys())
        if epoch >= first
    ]
    return Curves(*np.array(rows, np.float64).reshape(-1, len(Curves._fields)).T)


def scatter(values):
    """Standard deviation of a curve about its trend, from second differences.

    Of white noise they have variance 6 σ² (Gasser, Sroka and Jennen-Steinmetz 1986, "Residual
    variance and residual pattern in nonlinear regression").
    """
    return float(np.sqrt(np.mean(np.diff(values, 2) ** 2) / 6))


class Fall(NamedTuple):
    """How a validation loss ended.

    Attributes:
      last: epochs of the last part.
      gained: by how much the lowest loss in it is below the lowest before.
      learned: by how much the loss fell in all.
      above: by how much the last loss is above the lowest.
      noise: of the loss.
      rate_share: of the highest learning rate at the end.
    """

    last: int
    gained: float
    learned: float
    above: float
    noise: float
    rate_share: float

    @property
    def clear(self):
        """Whether it still fell, beyond the noise and by a good part of all that was learned."""
        return self.gained >= max(CLEAR * self.noise, STILL * self.learned)

    @property
    def level(self):
        """Whether it neither fell clearly nor ended far above its lowest."""
        return not self.clear and self.above <= STILL * self.learned


def fall(found):
    """`Fall` of `Curves` of FEWEST epochs or more."""
    losses = found.validation
    last = max(int(LAST_PART * len(losses)), 2)  # one epoch may be lucky
    return Fall(
        last,
        gained=float(losses[:-last].min() - losses[-last:].min()),
        learned=float(losses[0] - losses.min()),
        above=float(losses[-1] - losses.min()),
        noise=float(max(found.error[-1], scatter(losses))),
        rate_share=float(found.rate[-1] / max(found.rate.max(), 1e-30)),
    )


class Rise(NamedTuple):
    """What became of the losses since the epoch with the lowest validation loss.

    Attributes:
      best: index of that epoch.
      rose: validation loss of the later half of the epochs since, above the lowest.
      fell: training loss of the same, below that around the best epoch.
      noise, train_noise: of the two losses from epoch to epoch. Every epoch is judged on the same
        patches, so what these have in common cancels.
      learned: by how much the validation loss fell until the best epoch.
      gap: of validation over training loss, in the same epochs.
      error: standard error of that gap over volumes.
    """

    best: int
    rose: float
    fell: float
    noise: float
    train_noise: float
    learned: float
    gap: float
    error: float

    @property
    def clear(self):
        """Whether the validation loss rose beyond its noise, by a good part of what was learned."""
        return self.rose >= max(CLEAR * self.noise, STILL * self.learned)

    @property
    def diverges(self):
        """Whether it did so, and the training loss did not fall either."""
        return self.clear and self.fell < self.train_noise

    @property
    def overfits(self):
        """Whether it did so while the training loss fell, far below that of any volume held out."""
        return self.clear and self.fell >= self.train_noise and self.gap >= CLEAR * self.error


def rise(found):
    """`Rise` of `Curves`; None where the lowest loss is fewer than FEWEST epochs back.

    The training loss is that of augmented patches, which is no lower than without, so the gap is
    not overstated.
    """
    train, losses = found.train, found.validation
    best = int(losses.argmin())
    after = len(losses) - 1 - best
    if after < FEWEST:
        return None
    late = slice(-(after // 2), None)
    return Rise(
        best,
        rose=float(losses[late].mean() - losses[best]),
        fell=float(train[max(best - 1, 0) : best + 2].mean() - train[late].mean()),
        noise=scatter(losses),
        train_noise=scatter(train),
        learned=float(losses[0] - losses[best]),
        gap=float((losses - train)[late].mean()),
        error=float(found.error[late].mean()),
    )


class Clipping(NamedTuple):
    """Clipping in the last LAST epochs.

    Attributes:
      share: of the gradients that were clipped.
      norm: of the gradients before, the median.
      times: by which clipping made the updates smaller.
    """

    share: float
    norm: float
    times: float


def clipping(train, *, name, clip_norm):
    """The `Clipping` that sets the size of a run's updates; None where it does not.

    Clipping every gradient is harmless to Adam and Muon, which take only its direction.

    Args:
      train: metrics of training, a dict per epoch.
      name, clip_norm: of the optimizer.
    """
    if name != "sgd" or not clip_norm or len(train) < LAST:
        return None
    share = float(np.mean([one.get("clipped_share", 0.0) for one in train[-LAST:]]))
    norm = float(np.median([one.get("gradient_norm", 0.0) for one in train[-LAST:]]))
    if share < CLIPPED or norm < TENFOLD * clip_norm:
        return None
    return Clipping(share, norm, norm / clip_norm)
