"""Spatial augmentation of one sample: flips, quarter turns, and one affine resampling.

A sample is {'image': [*spatial, C], 'label': [*spatial, K], 'mask': [*spatial, 1]} with two or
three spatial axes. Every move applies to all three arrays.
"""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax, random

FIXED_POINT_BITS = 16
SLAB_VOXELS = 1 << 15  # few enough for a CPU's cache, enough to fill an accelerator


def flip(key, sample, axis):
    """Mirror the sample along one spatial axis; `key` is not needed."""
    return jax.tree.map(lambda x: jnp.flip(x, axis), sample)


def quarter_turns(key, sample, planes):
    """Turn the sample by 0, 1, 2 or 3 quarters in one of `planes`, all equally likely.

    Args:
      key: random key.
      sample: see the module.
      planes: pairs of spatial axes of equal size.
    """
    turns = [
        lambda sample, k=k, plane=plane: jax.tree.map(lambda x: jnp.rot90(x, k, plane), sample)
        for plane, k in itertools.product(planes, range(4))
    ]
    return lax.switch(random.randint(key, (), 0, len(turns)), turns, sample)


def affine(key, sample, *, rotate, rotate_degrees, scale, scale_range, planes, exclusive=False):
    """Rotate and scale about the centre of the patch, in one resampling if either is drawn.

    Args:
      key: random key.
      sample: see the module.
      rotate: probability of a rotation, by one angle in each of `planes`.
      rotate_degrees: range of the angles.
      scale: probability of a scaling, by one factor for all axes that occur in `planes`.
      scale_range: range of the step between samples, in voxels: 1.4 shows more of the
        surroundings and structures 1.4 times smaller.
      planes: pairs of spatial axes; without the first of three axes, depth is unchanged.
      exclusive: of `resample`.
    """
    axes = sample["image"].ndim - 1
    moved = jnp.array([any(axis in plane for plane in planes) for axis in range(axes)])
    rotated_key, degrees_key, scaled_key, factor_key = random.split(key, 4)
    rotated = random.bernoulli(rotated_key, rotate)
    scaled = random.bernoulli(scaled_key, scale)
    low, high = rotate_degrees
    degrees = random.uniform(degrees_key, (len(planes),), minval=low, maxval=high)
    low, high = scale_range
    factor = random.uniform(factor_key, (), minval=low, maxval=high)
    matrix = rotation_matrix(jnp.where(rotated, degrees, 0.0), planes, axes)
    matrix = matrix * jnp.where(scaled & moved, factor, 1.0)
    resampled = partial(resample, exclusive=exclusive)
    return lax.cond(rotated | scaled, resampled, lambda sample, _: sample, sample, matrix)


def rotation_matrix(degrees, planes, axes):
    """Product, from left to right, of one rotation by degrees[i] in planes[i]; [axes, axes]."""
    matrix = jnp.eye(axes)
    for angle, (a, b) in zip(jnp.deg2rad(degrees), planes, strict=True):
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        turn = jnp.eye(axes).at[a, a].set(cosine).at[b, b].set(cosine)
        turn = turn.at[a, b].set(-sine).at[b, a].set(sine)
        matrix = jnp.matmul(matrix, turn, precision="highest")
    return matrix


def resample(sample, matrix, exclusive=False):
    """Read each output voxel at `matrix @ position`, positions relative to the patch's centre.

    Image, label and mask share one multilinear interpolation. A label is 1 where foreground
    holds more than half of the weight of the labelled neighbours: this follows a sheet of two
    voxels more closely than the nearest neighbour and does not erode it beside unlabelled voxels.
    Classes that exclude each other are judged together, as one class would be, and the largest of
    them is taken: where three meet none may hold half. A mask is 1 where labelled neighbours hold
    at least half of the weight. Outside the patch the image continues by reflection, so that its
    statistics stay those of the material; label and mask are 0.

    Args:
      sample: see the module.
      matrix: [axes, axes] float32.
      exclusive: whether each voxel is of one of the label's K classes, or of none.

    Returns:
      As `sample`, in its types.
    """
    image, label, mask = sample["image"], sample["label"], sample["mask"]
    labelled = (mask > 0).astype(jnp.float32)
    values, inside = interpolate(
        jnp.concatenate([image, label * labelled, labelled], axis=-1), matrix
    )
    channels = image.shape[-1]
    foreground, labelled = values[..., channels:-1], values[..., -1:]
    if exclusive:
        largest = foreground.argmax(-1, keepdims=True) == jnp.arange(foreground.shape[-1])
        foreground = jnp.where(largest, foreground.sum(-1, keepdims=True), 0)
    return {
        "image": values[..., :channels],
        "label": (inside & (foreground > 0.5 * labelled)).astype(label.dtype),
        "mask": (inside & (labelled >= 0.5)).astype(mask.dtype),
    }


def interpolate(values, matrix):
    """Multilinear interpolation of [*spatial, K] at `matrix @ position`, reflected at the faces.

    Returns:
      the values, [*spatial, K]; whether the position lies within the patch, [*spatial, 1].
    """
    sizes = values.shape[:-1]
    flat = values.reshape(-1, values.shape[-1])
    # Positions are integers, because floats that two fusions of the compiler round differently
    # can fall on two sides of a voxel, and a weight then meets the wrong neighbour.
    one, half = 1 << FIXED_POINT_BITS, 1 << (FIXED_POINT_BITS - 1)
    steps = jnp.round(matrix * half).astype(jnp.int32)

    def slice_of(first):
        voxel = [first, *jnp.indices(sizes[1:], sparse=True)]
        inside, neighbours = True, []
        for row, size in zip(steps, sizes, strict=True):
            from_centre = sum(
                step * (2 * i - (n - 1)) for step, i, n in zip(row, voxel, sizes, strict=True)
            )
            position = from_centre + (size - 1) * half
            inside &= (position >= -half) & (position < size * one - half)
            below, fraction = position >> FIXED_POINT_BITS, (position & (one - 1)) / one
            neighbours.append(
                [(reflect(below, size), 1 - fraction), (reflect(below + 1, size), fraction)]
            )
        result = 0.0
        for corner in itertools.product(*neighbours):
            index, weight = 0, 1.0
            for size, (coordinate, share) in zip(sizes, corner, strict=True):
                index, weight = index * size + coordinate, weight * share
            result += weight[..., None] * flat.at[index].get(mode="promise_in_bounds")
        return result, inside[..., None]

    slices = max(1, SLAB_VOXELS // math.prod(sizes[1:]))
    return lax.map(slice_of, jnp.arange(sizes[0]), batch_size=min(slices, sizes[0]))


def reflect(coordinate, size):
    """The voxel that an integer coordinate outside [0, size) sees in mirrors at both faces."""
    coordinate = coordinate % (2 * size)
    return jnp.minimum(coordinate, 2 * size - 1 - coordinate)
