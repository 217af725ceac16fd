"""The state of a training run on the device: arrays only."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class TrainState(NamedTuple):
    """Everything that a training step changes.

    Attributes:
      step: int32, updates so far.
      params: parameters, float32.
      batch_stats: running statistics of batch norm, {} for a network without any.
      opt_state: of the optax chain.
      averages: {'swa' or 'ema': average of `variables`}, those that the run keeps.
      finite: bool; becomes false at the first non-finite loss or gradient, after which no step
        changes anything.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    averages: dict
    finite: jax.Array

    @property
    def variables(self):
        """What the network is applied with."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(variables, optimizer, averages=()):
    """A fresh state.

    Args:
      variables: of a network's `init`: 'params', and 'batch_stats' if it has some.
      optimizer: optax transformation.
      averages: names of the averages to keep: any of 'swa' and 'ema'.
    """
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    own = {"params": params, "batch_stats": batch_stats}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        averages={name: jax.tree.map(jnp.copy, own) for name in averages},
        finite=jnp.ones((), bool),
    )
