"""The terms of a run's loss as functions of logits alone, on the labels of real patches.

No network is involved: what a loss asks for can be read off its values and gradients at answers
that are made up, a constant, the label itself or anything between. Terms of coarser levels and
of gates depend on a network, so they are omitted.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jax_seg.data.sampling import foreground_share
from jax_seg.diagnosis import crops
from jax_seg.diagnosis.evidence import has_both
from jax_seg.diagnosis.finding import Skipped
from jax_seg.losses import LOSSES, group_options
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED

VOXELS = 24**3  # of a crop: of the longest reach of a term, ten voxels, several times over
CROPS = {True: 1, False: 3}  # quick or not
BLIND = ("variance", "entropy")  # the terms that do not look at the label
STEPS, RATE = 150, 0.2  # of Adam: together they carry a logit from -5 to 5 several times


class Ground(NamedTuple):
    """Labels that answers are compared with.

    Attributes:
      label, mask: [B, *spatial, 1], 0 or 1; both classes are in each sample.
    """

    label: np.ndarray
    mask: np.ndarray

    @property
    def share(self):
        """Share of foreground among the labelled voxels."""
        return float(self.label.sum() / self.mask.sum())


class Terms(NamedTuple):
    """The terms of a loss that have a weight.

    Attributes:
      names: tuple of names in LOSSES.
      weights: float32 [T].
      options: per term, its keyword arguments as a tuple of pairs.
    """

    names: tuple
    weights: np.ndarray
    options: tuple

    @property
    def shares(self):
        """[T] share of all weights."""
        return np.float64(self.weights) / np.float64(self.weights).sum()

    def without(self, names):
        """The other terms."""
        kept = [number for number, name in enumerate(self.names) if name not in names]
        return Terms(
            tuple(self.names[number] for number in kept),
            self.weights[kept],
            tuple(self.options[number] for number in kept),
        )

    def values(self, levels, groups, ground):
        """[K, T] weighted values where every voxel of a group has one logit.

        Args:
          levels: [K, G] logits.
          groups: int [B, *spatial, 1], the group of each voxel.
          ground: Ground.
        """
        found = _values(self.names, self.options, np.float32(levels), groups, *ground)
        return np.asarray(found, np.float64) * self.weights

    def gradients(self, logits, ground):
        """[T, voxels] weighted gradients with respect to the logits [B, *spatial, 1]."""
        found = _gradients(self.names, self.options, np.float32(logits), *ground)
        found = np.asarray(found, np.float64).reshape(len(self.names), -1)
        return found * self.weights[:, None]

    def optimise(self, logits, ground):
        """The logits that Adam makes of `logits` in STEPS steps under the weighted sum."""
        weights = self.weights / np.abs(self.weights).max()
        return np.asarray(_optimise(self.names, self.options, weights, np.float32(logits), *ground))


def terms_of(evidence):
    """The `Terms` of a run: those of its first stage, or of the stage that it has reached."""
    chosen = {n: w for n, w in evidence.loss_weights.items() if n in LOSSES and w}
    if not chosen:
        raise Skipped("no term of the finest level has a weight")
    options = {n: v for n, v in evidence.settings.programs["loss"].items() if n != "level_weights"}
    options = group_options(options)
    return Terms(
        tuple(chosen),
        np.array([*chosen.values()], np.float32),
        tuple(tuple(sorted(options.get(name, {}).items())) for name in chosen),
    )


def ground_of(evidence):
    """The `Ground` of a run: crops of training samples that hold both classes.

    Those whose share of foreground is nearest to the median are taken.
    """
    labels = [crop(label[..., 0]) for label in evidence.samples["label"]]
    labels = [label for label in labels if label is not None]
    if not labels:
        raise Skipped("no training sample holds foreground and background")
    shares = np.array([foreground_share(label) for label in labels])
    nearest = np.argsort(np.abs(shares - np.median(shares)), kind="stable")
    return ground([labels[number] for number in nearest[: CROPS[evidence.quick]]])


def ground(labels):
    """`Ground` of encoded labels [*spatial] of one shape."""
    label = np.stack(labels)[..., None]
    return Ground((label == FOREGROUND).astype("f4"), (label != MASKED).astype("f4"))


def crop(label, image=None):
    """The middle of an encoded label, at most VOXELS of it, or of an image in the same place.

    Where the middle is of one class it is taken around a voxel of the rarer one; None where the
    whole label is of one class.
    """
    if not has_both(label):
        return None
    size = crops.shrunk(label.shape, VOXELS)
    window = crops.middle(label.shape, size)
    rarer = min(label == FOREGROUND, label == BACKGROUND, key=np.count_nonzero)
    if not rarer[window].any():
        places = np.argwhere(rarer)
        window = _around(places[len(places) // 2], size, label.shape)
    return (label if image is None else image)[window]


def _around(centre, size, shape):
    starts = [
        min(max(int(c) - s // 2, 0), n - s) for c, s, n in zip(centre, size, shape, strict=True)
    ]
    return tuple(slice(start, start + s) for start, s in zip(starts, size, strict=True))


def _each(names, options, logits, label, mask):
    return [
        LOSSES[name](logits, label, mask, **dict(given))
        for name, given in zip(names, options, strict=True)
    ]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _values(names, options, levels, groups, label, mask):
    def one(level):
        return jnp.stack(_each(names, options, level[groups], label, mask))

    return lax.map(one, levels)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradients(names, options, logits, label, mask):
    def gradient(name, given):
        return jax.grad(LOSSES[name])(logits, label, mask, **dict(given))

    return jnp.stack([gradient(*one) for one in zip(names, options, strict=True)])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _optimise(names, options, weights, logits, label, mask):
    def total(x):
        return jnp.stack(_each(names, options, x, label, mask)) @ weights

    # A shorter memory than usual suits few steps, and gradients per voxel are tiny.
    adam = optax.adam(RATE, b2=0.99, eps=1e-12)

    def step(_, carried):
        x, state = carried
        update, state = adam.update(jax.grad(total)(x), state)
        return x + update, state

    return lax.fori_loop(0, STEPS, step, (logits, adam.init(logits)))[0]
