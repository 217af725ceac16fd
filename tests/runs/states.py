"""A state of a few arrays, and what a run saves of it."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg.training.state import TrainState


def state_of(number, step):
    """A `TrainState` whose values follow from a number."""
    values = jnp.asarray(np.random.default_rng(number).normal(size=(3, 4)), jnp.float32)
    variables = {"params": {"output": {"kernel": values}}, "batch_stats": {}}
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=variables["params"],
        batch_stats={},
        opt_state=({"trace": values.astype(jnp.bfloat16)}, (), jnp.zeros((2, 3))),
        averages={"ema": variables},
        finite=jnp.ones((), bool),
    )


ABSTRACT = jax.eval_shape(lambda: state_of(0, 0))


def position(number):
    """What is saved beside a state."""
    return {"epoch": number, "save": number, "code_version": "test"}


def assert_same_state(found, expected):
    """Bit for bit, types included."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
