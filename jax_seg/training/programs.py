"""From a configuration to compiled programs: the state's beginning, the steps, the network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_seg import losses, models
from jax_seg.infer.network import make_network
from jax_seg.losses import GATE_TERMS
from jax_seg.models.forward import forward
from jax_seg.training import optimizers, stages
from jax_seg.training import state as train_state
from jax_seg.training.step import (
    make_locator,
    make_patch_evaluation,
    make_statistics_pass,
    make_train_step,
)


class Programs(NamedTuple):
    """What a configuration compiles to.

    Attributes:
      fresh_state: () -> TrainState.
      train_step: of `step.make_train_step`.
      evaluate: of `step.make_patch_evaluation`.
      network: of `network.make_network`.
      see: of `step.make_statistics_pass`.
      locate: of `step.make_locator`.
    """

    fresh_state: Callable
    train_step: Callable
    evaluate: Callable
    network: Callable
    see: Callable
    locate: Callable


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


def build(read, shape, preprocessing, augment, terms):
    """The programs of a configuration; they compile when first called.

    Args:
      read: its `config.Reader`.
      shape, preprocessing, augment: of a `tasks.Task`.
      terms: names of the losses that any stage uses.

    Raises:
      ValueError: a field that does not fit.
    """
    model_fields = read.section("model")
    models.check_fields(model_fields, shape)
    model = models.build(**model_fields)
    loss_fields = read.section("loss")
    del loss_fields["weights"]  # they belong to the stages
    level_weights = loss_fields.pop("level_weights") or None
    options = losses.group_options(loss_fields)
    average, key = read.section("average"), random_key(read.seed)
    kept = [n for n, on in (("swa", average["swa_every"]), ("ema", average["ema_decay"])) if on]

    own_terms = tuple(name for name in terms if name not in GATE_TERMS)

    def loss(logits, label, mask, weights):
        return losses.combine(
            logits,
            label,
            mask,
            {name: weights[name] for name in own_terms},
            terms=own_terms,
            options=options,
            level_weights=level_weights,
        )

    image = jnp.zeros((1, *shape), jnp.float32)
    patterns = {name: part["pattern"] for name, part in read.section("parts").items()}
    part_of = optimizers.label_parameters(
        jax.eval_shape(model.init, key, image)["params"], patterns
    )
    optimizer = optimizers.make_optimizer(**read.section("optimizer"), part_of=part_of)

    @jax.jit
    def fresh_state():
        return train_state.create(model.init(key, image), optimizer, kept)

    abstract = jax.eval_shape(fresh_state)
    gates = jax.eval_shape(lambda v: forward(model, v, image)[1], abstract.variables)
    for name in terms:
        if name in GATE_TERMS and name not in gates:
            raise ValueError(
                f"loss.weights.{name} is not 0, but the network has no gates; set it to 0, or "
                "model.name to 'camouflage'."
            )
    train_step = make_train_step(
        model,
        optimizer,
        loss,
        augment,
        preprocessing,
        key,
        part_of=part_of,
        clip_norm=read.optimizer.clip_norm,
        ema_decay=average["ema_decay"],
        gradient_noise=read.noise.gradient_eta,
    )
    return Programs(
        fresh_state,
        train_step,
        evaluate=make_patch_evaluation(model, loss, preprocessing),
        network=make_network(model, preprocessing),
        see=make_statistics_pass(model, preprocessing, key),
        locate=make_locator(model, augment, preprocessing, key),
    )


def random_key(seed):
    """The key of a run. This generator compiles eight times faster on a CPU than JAX's default."""
    return jax.random.key(seed, impl="rbg")
