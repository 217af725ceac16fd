"""The meaning of logits: foreground above a threshold, background without input, no NaN."""

import jax.numpy as jnp
import numpy as np

BACKGROUND = -20.0
"""The logit of certain background: a probability of 2e-9, which float16 stores as 0.

Finite, so that it can be blended and averaged with other logits.
"""


def foreground(logits, threshold):
    """Where the probability is above a threshold in (0, 1): bool of the logits' shape.

    Computed on logits: near 1, probabilities have few float32 steps left and logits have many.
    """
    return logits > np.log(threshold / (1 - threshold))


def require_numbers(logits, image):
    """Raise a ValueError where the logits of an image, a path, hold NaN.

    NaN exceeds no threshold, so it would be taken for background.
    """
    if bool(jnp.isnan(logits).any()):
        raise ValueError(
            f"The network's output for {image} contains NaN: the checkpoint diverged or its "
            "dtype overflows; choose another checkpoint."
        )
