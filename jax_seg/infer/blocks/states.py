"""What a voxel is between two passes of a job: in one integer, for each class whether it is found.

Three bits for each class: FOUND, and HIGH where the first step has two thresholds and the voxel
lies above both; and, of several classes, BEFORE: what was predicted before any step, as
`postprocess.by_class` needs to know at the end.
"""

import jax
import numpy as np

from jax_seg.infer import postprocess
from jax_seg.infer.logits import foreground
from jax_seg.infer.postprocess import by_class
from jax_seg.ops.classes import masks_of, painted, probabilities_of, value_type

FOUND, HIGH, BEFORE = 1, 2, 4
BITS = 3
MOST = 64 // BITS  # classes


def require_few(classes):
    """Raise a ValueError where an integer is too short for so many classes."""
    if len(classes.names) > MOST:
        raise ValueError(
            f"These networks have {len(classes.names)} classes, and block by block {MOST} are the "
            "most: name a folder as --output instead of a .zarr."
        )


def state_type(classes):
    """The type of arrays of states."""
    return np.min_scalar_type(2 ** (BITS * len(classes.names)) - 1)


def label_type(classes):
    """The type of the masks of a job."""
    return value_type(values_of(classes))


def of_logits(logits, steps, threshold, classes):
    """The states after the first step.

    Args:
      logits: [D, H, W], of several classes [D, H, W, classes].
      steps: of post-processing, see `postprocess.parse_all`; empty for `threshold` alone, of one
        class.
      threshold: on the probability, where there are no steps.
      classes: Classes.
    """
    if not steps:
        return np.asarray(foreground(logits, threshold), np.uint8)
    (name, parameters), *_ = postprocess.parse_all(steps)
    chosen = postprocess.defaults(name) | parameters
    before, several = None, len(classes.names) > 1
    if several:
        before = np.asarray(masks_of(logits, classes, chosen.get("value", 0.5)))
        probability = np.asarray(probabilities_of(logits, classes))
    else:
        probability = np.asarray(jax.nn.sigmoid(logits))[..., None]
    if name == "hysteresis":
        low, high = (probability > chosen[key] for key in ("low", "high"))
    else:
        low, high = before if several else probability > chosen["value"], None
    found = np.zeros(low.shape[:-1], state_type(classes))
    for bit, masks in ((FOUND, low), (HIGH, high), (BEFORE, before)):
        for number in range(low.shape[-1] if masks is not None else 0):
            _set(found, number, bit, masks[..., number])
    return found


def has(states, number, bit=FOUND):
    """Where a class has a bit: bool of the shape of `states`."""
    return (states >> (BITS * number)) & bit > 0


def replaced(states, masks):
    """The states with other masks: {number of a class: bool}; HIGH is left out."""
    result = states.copy()
    for number, mask in masks.items():
        result &= ~_value(result, number, FOUND | HIGH)
        _set(result, number, FOUND, mask)
    return result


def as_labels(states, classes):
    """The label values of states, 0 and 1 of one class.

    Where classes exclude each other, none takes a voxel that another one had before.
    """
    count = range(len(classes.names))
    found = np.stack([has(states, number) for number in count], -1)
    if classes.exclusive:
        before = np.stack([has(states, number, BEFORE) for number in count], -1)
        found = by_class.added(found, before)
    return painted(found, values_of(classes))


def write(level, index, states, masks, classes, kept):
    """Write a block's states with other masks, or where the level is `kept` their label values."""
    found = replaced(states, masks)
    level.write(index, as_labels(found, classes) if kept else found)


def values_of(classes):
    """The label values of predictions: 1 of one class."""
    return classes.values if len(classes.names) > 1 else (1,)


def _value(states, number, bit):
    return states.dtype.type(bit << (BITS * number))


def _set(states, number, bit, mask):
    states |= np.where(mask, _value(states, number, bit), states.dtype.type(0))
