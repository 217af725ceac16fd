"""The compiled programs of a run: initial state, steps and network."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_seg import losses, models
from jax_seg.infer.network import make_network
from jax_seg.losses import GATE_TERMS
from jax_seg.models.forward import forward
from jax_seg.ops.classes import ONE as ONE_CLASS
from jax_seg.system.devices import ONE, compiled, divided, each_on_its_own, shared
from jax_seg.training import optimizers
from jax_seg.training import state as train_state
from jax_seg.training.step import (
    make_locator,
    make_patch_evaluation,
    make_statistics_pass,
    make_train_step,
)


class Programs(NamedTuple):
    """The compiled functions of a configuration.

    Attributes:
      fresh_state: () -> TrainState.
      train_step: of `step.make_train_step`.
      evaluate: of `step.make_patch_evaluation`.
      network: of `network.make_network`.
      batch_stats_of: of `step.make_statistics_pass`.
      locate: of `step.make_locator`.
    """

    fresh_state: Callable
    train_step: Callable
    evaluate: Callable
    network: Callable
    batch_stats_of: Callable
    locate: Callable


def build(
    *,
    model,
    loss,
    terms,
    patterns,
    optimizer,
    averages,
    ema_decay,
    gradient_noise,
    seed,
    shape,
    preprocessing,
    augment,
    devices=ONE,
    classes=ONE_CLASS,
):
    """The programs of a run; they compile when first called.

    Args:
      model: fields of `models.build`.
      loss: options of `losses.combine`, and 'level_weights', empty for its default.
      terms: names of the losses used by any stage.
      patterns: {part of the network: regular expression}, of `optimizers.label_parameters`.
      optimizer: fields of `optimizers.make_optimizer`.
      averages: names of the averages that the state keeps.
      ema_decay, gradient_noise: of `step.make_train_step`.
      seed: of the parameters and of every draw.
      shape, preprocessing, augment: of a `Task`.
      devices: `devices.Devices` that share every batch.
      classes: `Classes` that the network tells apart.

    Raises:
      ValueError: a field has an unsuitable value.
    """
    model = models.with_channels(model, shape)
    models.check_fields(model, shape, len(classes.names))
    network, key = models.build(**model), random_key(seed)
    image = jnp.zeros((1, *shape), jnp.float32)
    if devices.depth > 1:
        _require_whole_parts(network, key, shape, devices.depth)
    shapes = jax.eval_shape(network.init, key, image)["params"]
    part_of = optimizers.label_parameters(shapes, patterns)
    update = optimizers.make_optimizer(**optimizer, part_of=part_of)

    @jax.jit
    def fresh_state():
        return train_state.create(network.init(key, image), update, averages)

    _require_gates(network, jax.eval_shape(fresh_state), image, terms)
    objective = weighted_losses(terms, exclusive=classes.exclusive, **loss)
    augment = each_on_its_own(augment, devices)
    divide = functools.partial(divided, devices=devices)
    divide_parts = functools.partial(divided, devices=devices, first_axis=1)
    train_step = make_train_step(
        network,
        update,
        objective,
        augment,
        preprocessing,
        key,
        part_of=part_of,
        clip_norm=optimizer["clip_norm"],
        ema_decay=ema_decay,
        gradient_noise=gradient_noise,
        divide=divide_parts,
        classes=classes,
    )
    evaluate = make_patch_evaluation(network, objective, preprocessing, divide, classes)
    batch_stats_of = make_statistics_pass(network, preprocessing, key, divide)
    return Programs(
        fresh_state,
        compiled(train_step, devices, donate=0, static="accumulate"),
        evaluate=compiled(evaluate, devices),
        network=shared(make_network(network, preprocessing), devices),
        batch_stats_of=compiled(batch_stats_of, devices),
        locate=make_locator(network, augment, preprocessing, key, divide_parts, classes),
    )


def _require_whole_parts(network, key, shape, space):
    """ValueError unless the part of a patch that a device holds fits the network's poolings."""
    part = (1, shape[0] // space, *shape[1:])
    try:
        jax.eval_shape(network.init, key, jnp.zeros(part, jnp.float32))
    except ValueError as error:
        raise ValueError(
            f"devices.space is {space}, so each device holds {part[1]} of the {shape[0]} voxels of "
            f"a patch's depth, which does not fit the network: make data.patch deeper, or lower "
            "devices.space or model.poolings."
        ) from error


def weighted_losses(terms, *, level_weights, exclusive=False, **options):
    """`losses.combine` of these terms, with these options."""
    return functools.partial(
        losses.combine,
        terms=[name for name in terms if name not in GATE_TERMS],
        level_weights=level_weights or None,
        options=losses.group_options(options),
        exclusive=exclusive,
    )


def _require_gates(network, abstract_state, image, terms):
    gates = jax.eval_shape(lambda v: forward(network, v, image)[1], abstract_state.variables)
    for name in terms:
        if name in GATE_TERMS and name not in gates:
            raise ValueError(
                f"loss.weights.{name} is not 0, but the network has no gates; set it to 0, or "
                "model.name to 'camouflage'."
            )


def random_key(seed):
    """The random key of a run. It compiles eight times faster on a CPU than JAX's default."""
    return jax.random.key(seed, impl="rbg")
