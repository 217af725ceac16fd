"""Losses on the shape of the foreground: its skeleton and its connections.

All are built from two filters over the nearest neighbours, erosion and dilation, which ignore
unlabelled voxels.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from jax_seg.losses.masking import labelled, mean_over_samples, mean_over_voxels, spatial_sum


def cldice(logits, label, mask, *, iterations=3, smooth=1e-5):
    """1 - 2PS / (P + S), precision and sensitivity of the skeletons (Shit et al. 2021, eq. 1 to 3).

    P = (Σ s_p y + s) / (Σ s_p + s), S = (Σ s_y p + s) / (Σ s_y + s) with the soft skeletons s_p of
    the prediction and s_y of the label; mean over samples.

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`.
      iterations: see `skeleton`.
      smooth: s.

    Returns:
      Scalar float32 in [0, 1].
    """
    logits, label, mask = labelled(logits, label, mask)
    probability = jax.nn.sigmoid(logits) * mask
    predicted = skeleton(probability, mask, iterations) * mask
    true = _label_skeleton(label, mask, iterations)
    precision = _ratio(predicted * label, predicted, smooth)
    sensitivity = _ratio(true * probability, true, smooth)
    score = 2 * precision * sensitivity / (precision + sensitivity)
    return mean_over_samples(1 - score, mask)


def skeleton_recall(logits, label, mask, *, iterations=3, smooth=1e-5):
    """1 - (Σ t p + s) / (Σ t + s), t a tube around the label's skeleton (Kirchhoff et al. 2024).

    The tube is the skeleton, dilated twice by the cross of nearest neighbours, within the label.
    No gradient passes through a skeleton, so this costs far less than `cldice`. The paper thins the
    label on the host; here the skeleton is that of `cldice`.

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`.
      iterations: see `skeleton`.
      smooth: s; makes a label without foreground cost 0.

    Returns:
      Scalar float32 in [0, 1].
    """
    logits, label, mask = labelled(logits, label, mask)
    tube = _label_skeleton(label, mask, iterations)
    for _ in range(2):
        tube = _largest(tube, _cross(tube.ndim)) * label
    return mean_over_samples(1 - _ratio(tube * jax.nn.sigmoid(logits), tube, smooth), mask)


def connectivity(logits, label, mask):
    """Mean squared difference of prediction and label, both dilated by one voxel.

    A gap that the dilation closes costs nothing, one that it cannot close costs all of its width.

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`.

    Returns:
      Scalar float32 in [0, 1], mean over the labelled voxels, 0 when there is none.
    """
    logits, label, mask = labelled(logits, label, mask)
    difference = _dilate(jax.nn.sigmoid(logits), mask) - _dilate(label, mask)
    return mean_over_voxels(jnp.square(difference), mask)


def skeleton(x, mask, iterations=3):
    """Soft skeleton: what opening removes at each of `iterations` + 1 depths (Shit et al., alg. 1).

    With x_0 = x, x_k+1 = erode(x_k) and δ_k = relu(x_k - dilate(x_k+1)) it is 1 - Π (1 - δ_k): the
    paper's s ← s + relu(δ - sδ), as one product. Parts thicker than 2 (`iterations` + 1) voxels
    are not eroded to their middle and have no skeleton there.

    Args:
      x: [B, *spatial, C], values in [0, 1], any signed type.
      mask: same shape; 0 where unlabelled, where the result has no meaning.
      iterations: number of erosions after the first.

    Returns:
      As `x`.
    """
    rest = jnp.ones_like(x)
    for _ in range(iterations + 1):
        eroded = _erode(x, mask)
        rest *= 1 - jax.nn.relu(x - _dilate(eroded, mask))
        x = eroded
    return 1 - rest


def _label_skeleton(label, mask, iterations):
    """Skeleton of a binary label, in bytes: a quarter of the memory traffic."""
    return skeleton(label.astype(jnp.int8), mask, iterations).astype(jnp.float32) * mask


def _ratio(part, whole, smooth):
    return (spatial_sum(part) + smooth) / (spatial_sum(whole) + smooth)


def _erode(x, mask):
    """Least of a voxel and its nearest neighbours: 7 in 3-D, 5 in 2-D."""
    return -_largest(jnp.where(mask, -x, -1), _cross(x.ndim))


def _dilate(x, mask):
    """Largest in the box of 3 voxels a side, one axis at a time."""
    x = jnp.where(mask, x, 0)
    return reduce(lambda x, axis: _largest(x, _line(x.ndim, axis)), range(1, x.ndim - 1), x)


def _line(ndim, axis):
    return tuple(tuple(step * (a == axis) for a in range(ndim)) for step in (0, -1, 1))


def _cross(ndim):
    return tuple(dict.fromkeys(o for axis in range(1, ndim - 1) for o in _line(ndim, axis)))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _largest(x, offsets):
    """Largest of x[i + offset]; values are at least -1, which is also the value outside.

    Its own gradient rule, because that of `reduce_window` scatters and that of nested `maximum`
    keeps floats for every neighbour, both about six times slower on a CPU in the skeleton of 64³:
    here one byte per voxel records the winning neighbour. Ties go to the first offset, the voxel
    itself.
    """
    return reduce(jnp.maximum, _shifted(x, offsets, -1))


def _largest_forward(x, offsets):
    first, *others = _shifted(x, offsets, -1)
    largest, winner = first, jnp.zeros(x.shape, jnp.int8)
    for index, neighbour in enumerate(others, start=1):
        winner = jnp.where(neighbour > largest, jnp.int8(index), winner)
        largest = jnp.maximum(largest, neighbour)
    return largest, winner


def _largest_backward(offsets, winner, gradient):
    """Each voxel collects from those that it won: a gather where a scatter was."""
    back = [tuple(-step for step in offset) for offset in offsets]
    pairs = zip(_shifted(winner, back, -1), _shifted(gradient, back, 0), strict=True)
    return (sum(jnp.where(won == index, g, 0) for index, (won, g) in enumerate(pairs)),)


_largest.defvjp(_largest_forward, _largest_backward)


def _shifted(x, offsets, fill):
    """x[i + offset] for each offset of -1, 0 or 1 per axis, `fill` outside."""
    width = [(1, 1, 0) if any(steps) else (0, 0, 0) for steps in zip(*offsets, strict=True)]
    # Without the barrier XLA fuses the padding into every read of it, 3 times slower on a CPU.
    padded = lax.optimization_barrier(lax.pad(x, jnp.asarray(fill, x.dtype), width))
    origin = [low for low, _, _ in width]
    starts = [[o + step for o, step in zip(origin, offset, strict=True)] for offset in offsets]
    return [
        lax.slice(padded, start, [s + size for s, size in zip(start, x.shape, strict=True)])
        for start in starts
    ]
