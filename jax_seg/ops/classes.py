"""The classes of an encoded label, and those that a network tells apart.

Label *files* have values of their own; `data/labels.py` turns them into codes. Codes count up from
0, so they never reach the value of voxels without a class.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BACKGROUND, FOREGROUND = 0, 1
MASKED = 255  # unlabelled or outside the volume: excluded from losses, sampling and scores


class Classes(NamedTuple):
    """The classes that a network tells apart, one logit for each.

    With one class a voxel's code is BACKGROUND, FOREGROUND or MASKED. With several, every set of
    classes that a voxel can belong to has a code of its own, 1, 2, …

    Attributes:
      names: of the classes.
      codes: of each class, those of its voxels.
      values: of each class, the label value that predictions have there.
    """

    names: tuple
    codes: tuple
    values: tuple

    @property
    def exclusive(self):
        """Whether several classes share no voxel: softmax decides, else each logit for itself."""
        return len(self.names) > 1 and len(self.all_codes) == sum(map(len, self.codes))

    @property
    def all_codes(self):
        """The codes of all classes, rising."""
        return tuple(sorted({code for codes in self.codes for code in codes}))

    def as_json(self):
        """{name: value} of predictions."""
        return dict(zip(self.names, self.values, strict=True))


ONE = Classes(("foreground",), ((FOREGROUND,),), (1,))


def members(label, classes):
    """[..., 1] codes -> bool [..., classes]: which each voxel is of; array of JAX or of NumPy."""
    numpy = np if isinstance(label, np.ndarray) else jnp
    found = []
    for first, *others in classes.codes:
        belongs = label == first
        for code in others:
            belongs |= label == code
        found.append(belongs)
    return found[0] if len(found) == 1 else numpy.concatenate(found, -1)


def masks_of(logits, classes, threshold):
    """Where each class is predicted.

    Args:
      logits: [...], or [..., classes] of several.
      classes: Classes.
      threshold: on the probability of one class or of classes that share voxels; where they
        exclude each other the most probable is taken, background included.

    Returns:
      bool of the shape of `logits`.
    """
    if not classes.exclusive:
        with np.errstate(divide="ignore"):  # 0 and 1 are thresholds too
            return logits > np.log(np.divide(threshold, 1 - threshold))
    # Background has the logit 0.
    number = jnp.where(logits.max(-1) > 0, logits.argmax(-1), -1)
    return number[..., None] == jnp.arange(len(classes.names))


@functools.partial(jax.jit, static_argnums=1)  # of a whole volume, each operation would take room
def probabilities_of(logits, classes):
    """The probability of each class, float32 of the shape of `logits`."""
    return jax.nn.sigmoid(against_rest(logits) if classes.exclusive else logits)


def against_rest(logits):
    """Logits whose sigmoid is the softmax of `logits` [..., classes] and a background of 0.

    l_k - log(1 + Σ_j≠k exp l_j), whose gradient does not vanish where the softmax rounds to 1.
    """
    each = jnp.unstack(logits, axis=-1)
    none = jnp.full_like(each[0], -jnp.inf)
    before = itertools.accumulate(each[:-1], jnp.logaddexp, initial=jnp.zeros_like(none))
    after = [*itertools.accumulate(each[:0:-1], jnp.logaddexp, initial=none)][::-1]
    rest = map(jnp.logaddexp, before, after)
    return jnp.stack([one - others for one, others in zip(each, rest, strict=True)], -1)


def numbers_of(label, classes):
    """Codes [...] -> the number, from 1, of each voxel's last class; MASKED stays."""
    return np.where(label == MASKED, np.uint8(MASKED), numbered(members(label[..., None], classes)))


def numbered(masks):
    """The number [...], from 1, of each voxel's last class in `masks` [..., classes]."""
    return painted(masks, range(1, 1 + masks.shape[-1]))


def painted(masks, values):
    """Label values [...] of `masks` [..., classes]; a later class covers an earlier one.

    Returns:
      uint8, or the smallest integer type that holds the values.
    """
    found = np.zeros(masks.shape[:-1], value_type(values))
    for number, value in enumerate(values):
        found[masks[..., number]] = value
    return found


def value_type(values):
    """uint8, or the smallest integer type that holds 0 and the values."""
    kinds = [np.min_scalar_type(value) for value in (0, min(values), max(values))]
    return np.result_type(*kinds)
