"""Short trainings from the first weights at other rates, to compare with those of a run.

A rate sweep in the sense of Smith 2017 (Cyclical learning rates), on a few fixed batches without
augmentation, judged on others that are held apart.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_seg.diagnosis import crops
from jax_seg.diagnosis.finding import Skipped
from jax_seg.models.forward import forward
from jax_seg.training import optimizers
from jax_seg.training.programs import random_key

STEPS = 12  # updates of a trial
TRAINED = 8  # batches that they repeat
APART = 4  # batches that judge them
SIDE = 32  # voxels of a volume's patch along an axis; larger ones are cropped to their middle
SLOWEST = 4.0  # seconds of an update, beyond which trials take minutes
LOGITS = np.linspace(-6, 6, 25)  # of constant answers: probabilities of 0.2 to 99.8 %
CLEAR = 3.0  # standard errors, of the batches' paired differences, that make one clear


class Trial(NamedTuple):
    """What a short training reached.

    Attributes:
      losses: [APART] of the batches that are held apart, afterwards; not finite if it diverged.
      norms: [STEPS] of the gradients before clipping.
      ratio: size of an update, as a share of the weights: the median over kernels and updates.
      params: trees of parameters after each half of the updates, a pair.
    """

    losses: np.ndarray
    norms: np.ndarray
    ratio: float
    params: tuple

    @property
    def loss(self):
        """The mean loss of the batches that are held apart."""
        return float(self.losses.mean())


def clearly_below(losses, others):
    """Whether losses of the same batches are lower, beyond the noise between batches."""
    differences = np.asarray(others, np.float64) - np.asarray(losses, np.float64)
    if not np.isfinite(losses).all():
        return False
    if not np.isfinite(others).all():
        return True
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return bool(differences.mean() > CLEAR * error and differences.mean() > 0)


class Trials(NamedTuple):
    """Short trainings of one network on the same batches.

    Attributes:
      trial: (rates, clip_norm=…, momentum=…, decay=0) -> `Trial`: one update of the run's
        optimizer per rate, from its first weights; momentum is that of SGD alone.
      start: `Trial` of no update at all.
      constant: [APART] losses of the answer that is the same everywhere and best on all batches.
    """

    trial: Callable
    start: Trial
    constant: np.ndarray


def make_trials(evidence):
    """The `Trials` of a run's network, loss and optimizer; all share one program.

    Raises:
      Skipped: an update takes too long.
    """
    begin, step = _make_step(evidence)
    batches, start = _batches(evidence), jax.device_get(evidence.fresh.params)
    knobs = evidence.settings.programs["optimizer"]

    def trial(rates, clip_norm=knobs["clip_norm"], momentum=knobs["momentum"], decay=0.0):
        params, state, halfway = start, begin(start), start
        fixed = [np.float32(value) for value in (clip_norm, momentum, decay)]
        norms, ratios = [], []
        for number, rate in enumerate(rates):
            if number == len(rates) // 2:
                halfway = params
            batch = batches[number % TRAINED]
            params, state, figures = step(params, state, batch, np.float32(rate), *fixed)
            norms.append(float(figures["norm"]))
            ratios.append(float(figures["ratio"]))
        still = [np.float32(0)] * 4
        losses = [float(step(params, state, b, *still)[2]["loss"]) for b in batches[TRAINED:]]
        ratio = float(np.median(ratios)) if ratios else 0.0
        return Trial(np.array(losses), np.array(norms), ratio, (halfway, params))

    trial([])  # compiles
    began = time.monotonic()
    untrained = trial([])
    if (time.monotonic() - began) / APART > SLOWEST:
        raise Skipped("an update takes too long to try rates on this machine")
    constant = constant_losses(evidence, batches[TRAINED:], LOGITS)
    return Trials(trial, untrained, constant[constant.mean(axis=1).argmin()])


def constant_losses(evidence, batches, logits):
    """[K, N] losses of N batches, 'label' and 'mask', with one of K logits at every voxel."""
    model, key = evidence.model, random_key(evidence.settings.seed)
    spatial, channels = batches[0]["label"].shape[:-1], evidence.task.shape[-1]
    image = jax.ShapeDtypeStruct((*spatial, channels), jnp.float32)
    variables = jax.eval_shape(model.init, key, image)
    shapes = jax.eval_shape(lambda *given: forward(model, *given, key), variables, image)

    @jax.jit
    def loss(batch, logit):
        levels = jax.tree.map(lambda level: jnp.full(level.shape, logit), shapes[0])
        gates = jax.tree.map(lambda gate: jnp.zeros(gate.shape), shapes[1])
        weights = evidence.loss_weights
        return evidence.loss(levels, batch["label"], batch["mask"], weights, gates=gates)[0]

    return np.array([[float(loss(b, np.float32(x))) for b in batches] for x in logits])


def _make_step(evidence):
    """(begin, step): params -> state, and one update with everything that a trial changes.

    `step` is (params, state, batch, rate, clip_norm, momentum, decay) -> (params, state, figures);
    at rate 0 it only measures. Decay and clipping are those of `optimizers.make_optimizer`.
    """
    settings = evidence.settings
    part_of = optimizers.label_parameters(evidence.fresh.params, settings.programs["patterns"])
    options = dict(settings.programs["optimizer"])
    of_sgd = options["name"] == "sgd"
    optimizer = optimizers.make_optimizer(**options | {"weight_decay": 0.0, "clip_norm": 0.0})
    stats, key = evidence.fresh.batch_stats, random_key(settings.seed)
    factors = evidence.stage.rates

    def objective(params, batch):
        variables = {"params": params, "batch_stats": stats}
        logits, gates, _ = forward(evidence.model, variables, batch["image"], key)
        weights = evidence.loss_weights
        return evidence.loss(logits, batch["label"], batch["mask"], weights, gates=gates)[0]

    @jax.jit
    def step(params, state, batch, rate, clip_norm, momentum, decay):
        loss, gradients = jax.value_and_grad(objective)(params, batch)
        rates = {part: rate * jnp.float32(factor) for part, factor in factors.items()}
        gradients = optimizers.zero_frozen(gradients, part_of, rates)
        norm = optimizers.global_norm(gradients)
        scale = jnp.where((clip_norm > 0) & (norm > clip_norm), clip_norm / norm, 1.0)
        gradients = jax.tree.map(lambda gradient: scale * gradient, gradients)
        if of_sgd:
            updates, state = optax.trace(momentum, options["nesterov"]).update(gradients, state)
            updates = jax.tree.map(jnp.negative, updates)
        else:
            updates, state = optimizer.update(gradients, state, params)
        updates = jax.tree.map(lambda update, weight: update - decay * weight, updates, params)
        changed = optimizers.apply_updates(params, updates, part_of, rates)
        return changed, state, {"loss": loss, "norm": norm, "ratio": _ratio(params, changed)}

    return optax.trace(0.0).init if of_sgd else jax.jit(optimizer.init), step


def _ratio(params, changed):
    """The median over kernels of |change| / |weights|."""
    ratios = [
        jnp.linalg.norm(new - old) / (jnp.linalg.norm(old) + 1e-12)
        for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(changed), strict=True)
        if old.ndim > 1
    ]
    return jnp.median(jnp.stack(ratios))


def _batches(evidence):
    return [cropped(evidence, evidence.batch(number)) for number in range(TRAINED + APART)]


def cropped(evidence, batch):
    """The middle of the patches of a volume: as many voxels as make an update quick."""
    sizes = batch["image"].shape[1:-1]
    divisors = getattr(evidence.model, "smallest_input", lambda: (1,) * len(sizes))()
    sides = [max(2 * by, SIDE // by * by) for by in divisors]  # two voxels at the bottom
    cuts = crops.middle(sizes, [min(*pair) for pair in zip(sizes, sides, strict=True)])
    return jax.tree.map(lambda array: array[(slice(None), *cuts)], batch)
