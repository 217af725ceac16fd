"""Cross entropy near the label's boundary, weighted by an exact distance computed in the step."""

from functools import reduce

import jax.numpy as jnp
from jax import lax
from optax.losses import sigmoid_binary_cross_entropy

from jax_seg.losses.masking import labelled, mean_over_samples, spatial_sum

FULL_WEIGHT = 3
"""Distance in voxels up to which a voxel has weight 1."""
REACH = 5
"""Distance in voxels at which the weight has fallen to 0: no distance beyond it matters."""


def boundary(logits, label, mask, *, smooth=1e-5):
    """Σ w·CE / (Σ w + s) over the labelled voxels near the boundary, mean over samples.

    w is 1 up to `FULL_WEIGHT` voxels from the nearest voxel of the other class and falls linearly
    to 0 at `REACH` (the weighting of Ronneberger et al. 2015, eq. 2, made linear). Only labelled
    voxels are a class: where labelled meets unlabelled there is no boundary, and a sample without
    any costs 0, but for the one case in `signed_distance`.

    Args:
      logits, label, mask: [B, *spatial, C], see `masking.labelled`.
      smooth: s; makes a patch without boundary cost 0.

    Returns:
      Scalar float32.
    """
    logits, label, mask = labelled(logits, label, mask)
    distance = jnp.abs(signed_distance(label, mask))
    weight = mask * jnp.clip((REACH - distance) / (REACH - FULL_WEIGHT), 0, 1)
    weighted = spatial_sum(weight * sigmoid_binary_cross_entropy(logits, label))
    return mean_over_samples(weighted / (spatial_sum(weight) + smooth), mask)


def signed_distance(label, mask):
    """Euclidean distance to the nearest labelled voxel of the other class, exact up to `REACH`.

    In voxels; positive in the background, negative in the foreground, clipped to ±`REACH`, which
    is also the distance where the other class is absent. Unlabelled voxels are no class; their own
    distance is that to the foreground.

    A sample of one class that is labelled throughout is measured from the voxel (-1, 0, …, 0), just
    outside its first corner: so does SciPy's transform where the other class is absent, and
    the published values of this loss depend on it.

    Args:
      label, mask: [B, *spatial, C], any type, see `masking.labelled`.

    Returns:
      [B, *spatial, C] float32.
    """
    known = jnp.asarray(mask) != 0
    foreground = known & (jnp.asarray(label) != 0)
    axes = tuple(range(1, known.ndim))
    outside = _squared_distance(foreground)
    inside = _squared_distance(known & ~foreground)
    distance = jnp.sqrt(jnp.where(foreground, inside, outside).astype(jnp.float32))
    one_class = known.all(axes, keepdims=True) & (
        foreground.all(axes, keepdims=True) | ~foreground.any(axes, keepdims=True)
    )
    distance = jnp.where(one_class, _distance_to_corner(foreground.shape), distance)
    return jnp.where(foreground, -distance, distance)


def _distance_to_corner(shape):
    """Distance to the voxel (-1, 0, …, 0), at most `REACH`."""
    spatial = range(1, len(shape) - 1)
    from_corner = [lax.broadcasted_iota(jnp.float32, shape, axis) + (axis == 1) for axis in spatial]
    return jnp.minimum(jnp.sqrt(sum(jnp.square(x) for x in from_corner)), REACH)


def _squared_distance(source):
    """Squared distance to the nearest source voxel, at most REACH² (Felzenszwalb et al. 2012, §2).

    One pass per axis: the least of f(i + s) + s² over |s| < REACH. A sum of three capped passes
    stays below 75, so it fits in a byte and a CPU does 32 voxels at a time.
    """
    far = jnp.uint8(REACH**2)
    squared = jnp.where(source, jnp.uint8(0), far)
    for axis in range(1, source.ndim - 1):
        width = [(0, 0, 0)] * source.ndim
        width[axis] = (REACH - 1, REACH - 1, 0)
        # Without the barrier XLA fuses the padding into all nine reads of it.
        padded = lax.optimization_barrier(lax.pad(squared, far, width))
        squared = reduce(
            jnp.minimum,
            (
                lax.slice_in_dim(padded, start, start + source.shape[axis], axis=axis)
                + jnp.uint8((start - REACH + 1) ** 2)
                for start in range(2 * REACH - 1)
            ),
        )
    return squared
