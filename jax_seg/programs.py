"""From a configuration to compiled programs: the state's beginning, the steps, the network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_seg import losses, models, optim, stages
from jax_seg import state as train_state
from jax_seg.data.augment import augment
from jax_seg.step import make_network, make_patch_evaluation, make_train_step


class Programs(NamedTuple):
    """What a configuration compiles to.

    Attributes:
      fresh_state: () -> TrainState.
      train_step: of `step.make_train_step`.
      evaluate: of `step.make_patch_evaluation`.
      network: of `step.make_network`.
    """

    fresh_state: Callable
    train_step: Callable
    evaluate: Callable
    network: Callable


def plan(read):
    """The stages of a configuration, from its `config.Reader`; see `stages.plan`."""
    batches = tuple(read.data.random_batch) or (read.data.batch,)
    if min(batches) < 1:
        raise ValueError(f"data.batch or data.random_batch is {batches}; set it to 1 or more.")
    return stages.plan(
        read.section("stages"),
        epochs=read.train.epochs,
        loss_weights=read.loss.section("weights"),
        batches=batches,
        accumulate=read.train.accumulate,
        rates={name: part["rate"] for name, part in read.section("parts").items()},
        schedule=read.section("schedule"),
    )


def build(read, preprocessing, terms):
    """The programs of a configuration; they compile when first called.

    Args:
      read: its `config.Reader`.
      preprocessing: `Preprocessing`.
      terms: names of the losses that any stage uses.
    """
    model = models.build(**read.section("model"))
    optimizer = optim.make_optimizer(**read.section("optimizer"))
    loss_fields, augment_fields = read.section("loss"), read.section("augment")
    del loss_fields["weights"]  # they belong to the stages
    level_weights = loss_fields.pop("level_weights") or None
    average, patch, key = read.section("average"), tuple(read.data.patch), random_key(read.seed)
    kept = [n for n, on in (("swa", average["swa_every"]), ("ema", average["ema_decay"])) if on]

    def loss(logits, label, mask, weights):
        return losses.combine(
            logits,
            label,
            mask,
            weights,
            terms=tuple(terms),
            level_weights=level_weights,
            **loss_fields,
        )

    def transform(key, batch):
        return augment(key, batch, **augment_fields)

    @jax.jit
    def fresh_state():
        params = model.init(key, jnp.zeros((1, *patch, 1), jnp.float32))["params"]
        return train_state.create(params, optimizer, kept)

    patterns = {name: part["pattern"] for name, part in read.section("parts").items()}
    part_of = optim.label_parameters(jax.eval_shape(fresh_state).params, patterns)
    train_step = make_train_step(
        model,
        optimizer,
        loss,
        transform,
        preprocessing,
        key,
        part_of=part_of,
        clip_norm=read.optimizer.clip_norm,
        ema_decay=average["ema_decay"],
        gradient_noise=read.noise.gradient_eta,
    )
    evaluate = make_patch_evaluation(model, loss, preprocessing)
    return Programs(fresh_state, train_step, evaluate, make_network(model, preprocessing))


def random_key(seed):
    """The key of a run. This generator compiles eight times faster on a CPU than JAX's default."""
    return jax.random.key(seed, impl="rbg")
