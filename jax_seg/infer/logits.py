"""What logits mean: foreground above a threshold, background without input, and no NaN."""

import jax.numpy as jnp
import numpy as np

BACKGROUND = -20.0
"""The logit of what is background for certain: a probability of 2e-9, which float16 stores as 0.

Finite, so that it can be blended and averaged with other logits.
"""


def foreground(logits, threshold):
    """Where the probability is above a threshold in (0, 1): bool of the logits' shape.

    In the logits' own precision: a probability near 1 has few float32 steps left, its logit many.
    """
    return logits > np.log(threshold / (1 - threshold))


def require_numbers(logits, image):
    """Raise a ValueError where the logits of an image, a path, hold NaN.

    NaN is above no threshold, so it would pass for background.
    """
    if bool(jnp.isnan(logits).any()):
        raise ValueError(
            f"The network's output for {image} is not a number: choose another checkpoint; "
            "this one diverged, or the image exceeds the range of the network's number type."
        )
