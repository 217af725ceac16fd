"""Post-processing of several classes: the same steps for each of them."""

import numpy as np

from jax_seg.infer import postprocess
from jax_seg.ops.classes import masks_of, probabilities_of


def apply(logits, image, steps, classes):
    """Carry out the steps for each class.

    Where classes exclude each other, the most probable takes the place of a threshold, and a step
    adds no voxel to a class that another one had before.

    Args:
      logits: float32 [D, H, W, classes].
      image: [D, H, W] the input.
      steps: list of texts, see `postprocess.parse`, beginning with a threshold or hysteresis.
      classes: Classes.

    Returns:
      bool [D, H, W, classes].

    Raises:
      ValueError: of `postprocess.apply`.
    """
    parsed = postprocess.parse_all(steps)
    (first, parameters), *rest = parsed
    decided = first == "threshold"
    value = (postprocess.defaults(first) | parameters)["value"] if decided else 0.5
    before = np.asarray(masks_of(logits, classes, value))
    if decided and not rest:
        return before
    probabilities, found = np.asarray(probabilities_of(logits, classes)), np.empty_like(before)
    for number in range(before.shape[-1]):
        probability = probabilities[..., number]
        mask = before[..., number] if decided else probability
        for name, chosen in rest if decided else parsed:
            mask = postprocess.apply_step(mask, name, chosen, probability, image)
        found[..., number] = mask
    return added(found, before) if classes.exclusive else found


def added(found, before):
    """Masks [..., classes] without the voxels of each that another class had before."""
    return found & (before | ~before.any(-1, keepdims=True))
