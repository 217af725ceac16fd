"""A network with its preprocessing, as prediction calls it."""

import jax

from jax_seg.data.preprocess import preprocess
from jax_seg.models.forward import forward


def make_network(model, preprocessing):
    """(variables, image [B, *spatial, C] as stored) -> logits [B, *spatial, classes], jitted.

    Under `PerVolume` it takes a third argument, `own` of `preprocess`.
    """

    @jax.jit
    def network(variables, image, own=None):
        logits, _, _ = forward(model, variables, preprocess(image, preprocessing, own))
        return logits[0] if isinstance(logits, tuple) else logits

    return network
