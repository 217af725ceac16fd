"""The state of a training run that lives on the device: arrays only."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class TrainState(NamedTuple):
    """Everything that a training step changes.

    Attributes:
      step: int32, updates so far.
      params: parameters, float32.
      opt_state: of the optax chain.
      averages: {'swa': tree or None, 'ema': tree or None}, of the parameters.
      finite: bool; once a loss or gradient is not finite it turns false, and no later step
        changes anything.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    averages: dict
    finite: jax.Array


def create(params, optimizer, averages=()):
    """A fresh state. `averages` names those that are kept: any of 'swa' and 'ema'."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        averages={name: jax.tree.map(jnp.copy, params) for name in averages},
        finite=jnp.ones((), bool),
    )
