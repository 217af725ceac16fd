"""Averages of the parameters over training, with equal or exponentially decaying weights.

Both take any trees of arrays of one structure and return the new average in float32, inside or
outside jit. The running statistics of batch norm are averaged too, which differs from what the
averaged weights would measure: Izmailov et al. 2018 (algorithm 1) recompute those of an SWA model
by a pass over the training data, `validate.measure_statistics`.
"""

import jax
import jax.numpy as jnp
import optax


@jax.jit
def swa_update(average, params, count):
    """Equal-weight running mean of `count + 1` trees (Izmailov et al. 2018, algorithm 1).

    average ← (count · average + params) / (count + 1); count, an integer or an int32 array, is the
    number of trees that `average` already holds. With 0 the result is `params`.
    """
    # A strong float32 step size makes the result float32 whatever the type of the parameters.
    step_size = 1.0 / (jnp.asarray(count, jnp.float32) + 1.0)
    return optax.incremental_update(params, average, step_size)


def ema_update(average, params, decay, step):
    """Exponential moving average: average ← d · average + (1 − d) · params.

    d = min(decay, (1 + step) / (10 + step)), so that an average which starts from the first
    parameters forgets them early; step, from 0, counts the updates of the average. The rule is
    that of TensorFlow's ExponentialMovingAverage. decay and step may be arrays.
    """
    step = jnp.asarray(step, jnp.float32)
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, average, 1.0 - decay)
