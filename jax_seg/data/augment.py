"""Random augmentation of a batch on the device, under jit: `augment(key, batch, ...) -> batch`.

Samples are visited one after another (`lax.map`) and every transform sits behind a `lax.cond`, so
that a sample pays only for what it draws; a map over all samples at once would compute every
transform for every sample and throw most away. One patch fills a device by itself. A loop over a
sharded batch gathers it on every device: over a mesh, call `augment` inside `jax.shard_map`.
"""

import difflib
import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax, random

from jax_seg.data import warp

PROBABILITIES = (
    "rotate90",
    "rotate",
    "scale",
    "noise",
    "blur",
    "brightness",
    "contrast",
    "low_resolution",
    "gamma_inverted",
    "gamma",
)
LIMITS = {  # what each range may hold at most
    "rotate_degrees": (-180, 180),
    "scale_range": (0.1, 10),
    "noise_range": (0, math.inf),
    "blur_range": (0.1, 10),
    "brightness_range": (0, math.inf),
    "contrast_range": (0, math.inf),
    "low_resolution_range": (0.01, 1),
    "gamma_range": (0.1, 10),
}


def augment(
    key,
    batch,
    *,
    flip=0.0,
    rotate90=0.0,
    rotate=0.0,
    scale=0.0,
    noise=0.0,
    blur=0.0,
    brightness=0.0,
    contrast=0.0,
    low_resolution=0.0,
    gamma_inverted=0.0,
    gamma=0.0,
    in_plane_only=False,
    rotate_degrees=(-30.0, 30.0),
    scale_range=(0.7, 1.4),
    noise_range=(0.0, 0.1),
    blur_range=(0.5, 1.0),
    brightness_range=(0.75, 1.25),
    contrast_range=(0.75, 1.25),
    low_resolution_range=(0.5, 1.0),
    gamma_range=(0.7, 1.5),
    **unknown,
):
    """Transform each sample at random and on its own, in the order of the arguments.

    Each transform has a probability per sample, a Python number: at 0 it is left out of the
    program. The ranges are those of nnU-Net v2 (Isensee et al. 2021), whose probabilities are
    flip 0.5, rotate 0.2, scale 0.2, noise 0.1, blur 0.2, brightness 0.15, contrast 0.15,
    low_resolution 0.25, gamma_inverted 0.1, gamma 0.3. Factors and exponents fall below and
    above 1 equally often. Intensity transforms touch the image alone, with one parameter for all
    channels and the statistics of each channel.

    Args:
      key: random key; the same key gives the same result.
      batch: {'image': float32 [B, *spatial, C], normalised; 'label' and 'mask':
        [B, *spatial, 1] in {0, 1}}, two or three spatial axes.
      flip: probability of mirroring each spatial axis, or one probability per axis.
      rotate90: of 0 to 3 quarter turns in a random plane of two axes of equal size.
      rotate: of a rotation by an angle in `rotate_degrees` in every plane.
      scale: of a scaling; `scale_range` is the step between samples in voxels, so 1.4 shrinks
        structures. Both see `warp.resample` for the label and for what lies outside the patch.
      noise: of white Gaussian noise; `noise_range` is its standard deviation as a share of the
        image's own, so it means the same for z-scored images and those in [0, 1].
      blur: of a Gaussian blur; `blur_range` is σ in voxels, drawn for each axis.
      brightness: of a multiplication by a factor in `brightness_range`.
      contrast: of a multiplication of the distance to the mean, clipped to the old extremes.
      low_resolution: of sampling at `low_resolution_range` of the resolution (nearest) and
        back (linear).
      gamma_inverted: as `gamma`, for the negative of the image.
      gamma: of x → x^γ on the image scaled to [0, 1]; mean and standard deviation stay.
      in_plane_only: leave depth out of rotate90, rotate, scale and low_resolution, for voxels
        or patches much coarser or shorter in depth.

    Returns:
      A batch of the same shapes and types.

    Raises:
      ValueError: an unknown name, a probability outside [0, 1], a range that is inverted or has
        no meaning, quarter turns without two equal axes, or a batch of other arrays.
    """
    fields = dict(locals())
    shape = _spatial_shape(batch)
    flips = (flip,) * len(shape) if isinstance(flip, int | float) else tuple(flip)
    _check(fields, flips, len(shape))
    planes = [
        plane
        for plane in itertools.combinations(range(len(shape)), 2)
        if not (in_plane_only and len(shape) == 3 and 0 in plane)
    ]
    axes = sorted(set(itertools.chain(*planes)))
    square = [(a, b) for a, b in planes if shape[a] == shape[b]]
    if rotate90 > 0 and not square:
        raise ValueError(
            f"augment.rotate90 is {rotate90}, but no two axes of the patch {shape} that may be "
            "turned are equal: set it to 0 or change the patch."
        )
    affine = partial(
        warp.affine,
        rotate=rotate,
        rotate_degrees=rotate_degrees,
        scale=scale,
        scale_range=scale_range,
        planes=planes,
    )
    steps = [
        *(_sometimes(p, partial(warp.flip, axis=axis)) for axis, p in enumerate(flips)),
        _sometimes(rotate90, partial(warp.quarter_turns, planes=square)),
        affine if rotate > 0 or scale > 0 else None,
        _on_image(noise, partial(_noise, limits=noise_range)),
        _on_image(blur, partial(_blur, limits=blur_range)),
        _on_image(brightness, partial(_brightness, limits=brightness_range)),
        _on_image(contrast, partial(_contrast, limits=contrast_range)),
        _on_image(low_resolution, partial(_low_resolution, limits=low_resolution_range, axes=axes)),
        _on_image(gamma_inverted, partial(_gamma, limits=gamma_range, sign=-1)),
        _on_image(gamma, partial(_gamma, limits=gamma_range, sign=1)),
    ]
    if not any(steps):
        return batch

    def augment_sample(key_and_sample):
        key, sample = key_and_sample
        for index, step in enumerate(steps):
            if step is not None:
                sample = step(random.fold_in(key, index), sample)
        return sample

    return lax.map(augment_sample, (random.split(key, len(batch["image"])), batch))


def _sometimes(probability, transform):
    """transform(key, x), applied and computed with a probability; None if that is 0."""

    def step(key, x):
        chance, draw = random.split(key)
        applies = random.bernoulli(chance, probability)
        return lax.cond(applies, transform, lambda _, x: x, draw, x)

    return step if probability > 0 else None


def _on_image(probability, transform):
    step = _sometimes(probability, transform)
    return step and (lambda key, sample: sample | {"image": step(key, sample["image"])})


def _spatial(image):
    return tuple(range(image.ndim - 1))


def _uniform(key, limits, shape=()):
    return random.uniform(key, shape, minval=limits[0], maxval=limits[1])


def _around_one(key, limits):
    """Below and above 1 equally often, however far the range reaches on either side."""
    low, high = limits
    middle = 1.0 if low < 1 < high else (low + high) / 2
    return jnp.interp(random.uniform(key), jnp.array([0, 0.5, 1]), jnp.array([low, middle, high]))


def _noise(key, image, limits):
    amount, field = random.split(key)
    deviation = _uniform(amount, limits) * image.std(_spatial(image))
    return image + deviation * random.normal(field, image.shape)


def _brightness(key, image, limits):
    return image * _around_one(key, limits)


def _contrast(key, image, limits):
    space = _spatial(image)
    mean = image.mean(space)
    stretched = mean + (image - mean) * _around_one(key, limits)
    return stretched.clip(image.min(space), image.max(space))


def _gamma(key, image, limits, sign):
    space = _spatial(image)
    image = sign * image
    low, span = image.min(space), jnp.ptp(image, space)
    mean, deviation = image.mean(space), image.std(space)
    curved = ((image - low) / span.clip(1e-7)) ** _around_one(key, limits)
    normalised = (curved - curved.mean(space)) / curved.std(space).clip(1e-7)
    return sign * (normalised * deviation + mean)


def _blur(key, image, limits):
    """Gaussian filter with mirrored borders; images of the kernel beyond the first are left out."""
    matrices = {}
    for axis, sigma in enumerate(_uniform(key, limits, (image.ndim - 1,))):
        size = image.shape[axis]
        i, j = jnp.indices((size, size))
        distances = jnp.stack([i - j, i + j + 1, 2 * size - 1 - i - j])
        kernel = jnp.exp(-0.5 * (distances / sigma) ** 2).sum(0)
        matrices[axis] = kernel / kernel.sum(1, keepdims=True)
    return _filter(image, matrices)


def _low_resolution(key, image, limits, axes):
    """Sample `zoom` times the voxels (nearest), then interpolate (linear, aligned at the faces)."""
    zoom = _uniform(key, limits)
    matrices = {}
    for axis in axes:
        size = image.shape[axis]
        coarse = jnp.round(size * zoom).astype(jnp.int32).clip(1)
        voxels = jnp.arange(size)
        # In units of 1 / (2 size) coarse voxels, so that the division is exact.
        position = ((2 * voxels + 1) * coarse - size).clip(0)
        below, fraction = position // (2 * size), (position % (2 * size)) / (2 * size)
        above = jnp.minimum(below + 1, coarse - 1)
        matrix = 0.0
        for neighbour, weight in ((below, 1 - fraction), (above, fraction)):
            source = (2 * neighbour + 1) * size // (2 * coarse)
            matrix += weight[:, None] * jax.nn.one_hot(source, size)
        matrices[axis] = matrix
    return _filter(image, matrices)


def _filter(image, matrices):
    """Multiply each axis by its [size, size] matrix: any separable filter as matrix products."""
    for axis, matrix in matrices.items():
        image = jnp.moveaxis(jnp.tensordot(matrix, image, (1, axis), precision="highest"), 0, axis)
    return image


def _check(fields, flips, axes):
    """Raise a ValueError for the first argument of `augment` that cannot be meant."""
    for name in fields["unknown"]:
        known = ("flip", "in_plane_only", *PROBABILITIES, *LIMITS)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise ValueError(f"augment.{name} is not known: did you mean augment.{nearest}?")
    if len(flips) != axes:
        raise ValueError(
            f"augment.flip is {flips}, but the patch has {axes} axes: give one probability, or "
            "one per axis."
        )
    for name, value in [("flip", p) for p in flips] + [(n, fields[n]) for n in PROBABILITIES]:
        if not 0 <= value <= 1:
            raise ValueError(f"augment.{name} is {value}, but a probability lies in [0, 1].")
    for name, (least, most) in LIMITS.items():
        low, high = fields[name]
        if not least <= low <= high <= most:
            raise ValueError(
                f"augment.{name} is {(low, high)}, but a range rises within [{least}, {most}]."
            )


def _spatial_shape(batch):
    if set(batch) != {"image", "label", "mask"}:
        raise ValueError(
            f"The batch holds {sorted(batch)}, but augment moves exactly image, label and mask: "
            "add other arrays after augmentation."
        )
    image = batch["image"]
    if image.ndim not in (4, 5) or image.dtype != jnp.float32:
        raise ValueError(
            f"batch['image'] is {image.dtype} {image.shape}, but augment needs float32 "
            "[B, D, H, W, C] or [B, H, W, C]."
        )
    return image.shape[1:-1]
