"""Several networks, or one in several orientations, averaged into one prediction."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg.infer.part import PLANE, Orientation, Part, turn_array, turn_part
from jax_seg.ops.classes import ONE, probabilities_of

AXES = {"depth": 0, "height": 1, "width": 2}
AVERAGED = ("probabilities", "logits")
TINY = 1e-30  # the least probability whose logarithm is taken

UPRIGHT = Orientation((), 0)


def orientations_of(flips=(), rotations=False):
    """All different orientations that the flips and the in-plane quarter turns make together.

    Flips along height and width make a half turn, so 4 flips and 4 turns of a plane are not 16
    orientations but 8.

    Args:
      flips: names of AXES.
      rotations: add the quarter turns.

    Returns:
      List of Orientation; the first is upright.
    """
    chosen = [axis for name, axis in AXES.items() if name in flips]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(chosen, count) for count in range(len(chosen) + 1)
    )
    corners, found = np.arange(8).reshape(2, 2, 2), {}
    for some, turns in itertools.product(subsets, range(4) if rotations else (0,)):
        orientation = Orientation(some, turns)
        found.setdefault(turn(corners, orientation).tobytes(), orientation)
    return list(found.values())


def turn(volume, orientation):
    """The volume [D, H, W] or [D, H, W, C] in that orientation, a view; of a `Part`, a `Part`."""
    turned = turn_part if isinstance(volume, Part) else turn_array
    return turned(volume, orientation)


def turn_back(volume, orientation):
    """Inverse of `turn`, on the device."""
    return jnp.flip(jnp.rot90(volume, -orientation.turns, PLANE), orientation.flips)


def normalised(weights, count):
    """Weights of the members as floats that add up to one; None weighs them equally.

    Raises:
      ValueError: not one weight per member, a negative one, or none above zero.
    """
    weights = [1.0] * count if weights is None else [float(w) for w in weights]
    if len(weights) != count:
        raise ValueError(
            f"There are {count} members but {len(weights)} weights: give one for each."
        )
    if not np.isfinite(weights).all() or min(weights) < 0 or max(weights) == 0:
        raise ValueError(
            f"The weights are {' '.join(f'{w:g}' for w in weights)}; give numbers of at least 0, "
            "not all 0."
        )
    return [w / sum(weights) for w in weights]


def mean_logits(
    members,
    volume,
    *,
    weights=None,
    orientations=(UPRIGHT,),
    of="probabilities",
    classes=ONE,
):
    """Logits of the weighted mean of the members' probabilities over all orientations.

    One running sum is kept, whatever the number of members and orientations. Weights of zero cost
    nothing. One member in one orientation returns its own logits, bit for bit.

    Args:
      members: list of (volume [D, H, W] -> logits).
      volume: [D, H, W] array, or [D, H, W, C]; or the `Part` of one.
      weights: of `normalised`; None weighs the members equally.
      orientations: of `orientations_of`.
      of: one of AVERAGED: 'logits' averages these, as nnU-Net does.
      classes: `Classes` of the logits.

    Returns:
      float32 [D, H, W] on the device; of several classes [D, H, W, classes].

    Raises:
      ValueError: of `normalised`.
    """
    weights = normalised(weights, len(members))
    passes = [
        (member, weight / len(orientations), orientation)
        for member, weight in zip(members, weights, strict=True)
        for orientation in orientations
        if weight
    ]
    total = None
    for member, weight, orientation in passes:
        logits = turn_back(member(turn(volume, orientation)), orientation)
        if len(passes) == 1:
            return logits
        total = jnp.zeros_like(logits) if total is None else total
        # Waiting keeps the next member's parameters off the device until this one is done.
        total = _add(total, logits, weight, of, classes).block_until_ready()
    return total if of == "logits" else _logits(total, classes.exclusive)


@functools.partial(jax.jit, donate_argnums=0, static_argnums=(3, 4))
def _add(total, logits, weight, of, classes):
    return total + weight * (logits if of == "logits" else probabilities_of(logits, classes))


@functools.partial(jax.jit, donate_argnums=0, static_argnums=1)
def _logits(probability, exclusive):
    probability = jnp.clip(probability, 0, 1)  # the weights may add up to 1.0000001
    if not exclusive:
        return jnp.log(probability) - jnp.log1p(-probability)
    rest = 1 - probability.sum(-1, keepdims=True)
    # A class and the background may both round to 0.
    return jnp.log(jnp.maximum(probability, TINY)) - jnp.log(jnp.maximum(rest, TINY))


def fit_weights(probabilities, labels):
    """Weights of the mean of probabilities that explain the labels best.

    Minimises the cross entropy of Σ_m w_m p_m over weights of at least 0 that add up to 1; it is
    convex in the weights, so the minimum is the only one. (The soft Dice is of no use here: a ratio
    of two linear functions of the weights has its maximum at a single member.)

    Args:
      probabilities: list over volumes of [members, voxels] float arrays.
      labels: list over volumes of [voxels] arrays of 0 and 1. Every volume counts alike.

    Returns:
      float64 [members].
    """
    from scipy.optimize import minimize  # not before: it takes 0.7 s to start, prediction too

    right = [_likelihoods(p, y) for p, y in zip(probabilities, labels, strict=True)]
    count = len(right[0])

    def objective(weights):
        value, gradient = 0.0, np.zeros(count)
        for likelihoods in right:
            mixed = weights @ likelihoods
            value -= np.log(mixed).mean() / len(right)
            gradient -= (likelihoods / mixed).mean(axis=1) / len(right)
        return value, gradient

    found = minimize(
        objective,
        np.full(count, 1 / count),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 200},
    )
    weights = np.where(found.x < 1e-4, 0, found.x)  # such a member costs more than it contributes
    return weights / weights.sum()


def cross_entropy(weights, probabilities, labels):
    """Mean cross entropy, in nats per voxel, of the weighted mean of one volume's probabilities."""
    return float(-np.log(np.asarray(weights) @ _likelihoods(probabilities, labels)).mean())


def _likelihoods(probabilities, labels):
    """[members, voxels] float64: the probability that each member gives to the true label."""
    p = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7)
    return np.where(np.asarray(labels) == 1, p, 1 - p)
