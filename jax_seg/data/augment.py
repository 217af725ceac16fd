"""Random augmentation of a batch on the device, under jit: `augment(key, batch, ...) -> batch`.

Samples are visited one after another (`lax.map`) and every transform sits behind a `lax.cond`, so
that a sample pays only for what it draws; a map over all samples at once would compute every
transform for every sample and discard most of them. One patch fills a device by itself. A loop over
a sharded batch gathers it on every device: over a mesh, call `augment` by `each_on_its_own` of
`system.devices`.
"""

import itertools
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random

from jax_seg.data import warp
from jax_seg.system.devices import sample_keys
from jax_seg.system.names import did_you_mean

# The transforms after `flip`, in their order; each has a probability per sample of that name.
PROBABILITIES = (
    "rotate90",  # 0 to 3 quarter turns in a random plane of two axes of equal size
    "rotate",  # by an angle in `rotate_degrees` in every plane, see `warp.resample`
    "scale",  # by a step in `scale_range` between samples, see `warp.resample`
    "noise",  # white and Gaussian
    "blur",  # Gaussian
    "brightness",  # multiplies by a factor
    "contrast",  # multiplies the distance to the mean, clipped to the old extremes
    "low_resolution",  # downsamples (nearest) and upsamples again (linear)
    "gamma_inverted",  # as `gamma`, for the negative of the image
    "gamma",  # x → x^γ on the image scaled to [0, 1]; mean and standard deviation stay
)


class Range(NamedTuple):
    """The range from which a transform draws its parameter, and the limits of that range."""

    default: tuple[float, float]
    least: float
    most: float


RANGES = {
    "rotate_degrees": Range((-30.0, 30.0), -180, 180),
    "scale_range": Range((0.7, 1.4), 0.1, 10),  # voxels; 1.4 shrinks structures
    # Standard deviation as a share of the image's own, so it means the same for z-scored images
    # and for those in [0, 1].
    "noise_range": Range((0.0, 0.1), 0, math.inf),
    "blur_range": Range((0.5, 1.0), 0.1, 10),  # σ in voxels, drawn for each axis
    "brightness_range": Range((0.75, 1.25), 0, math.inf),
    "contrast_range": Range((0.75, 1.25), 0, math.inf),
    "low_resolution_range": Range((0.5, 1.0), 0.01, 1),  # share of the resolution
    "gamma_range": Range((0.7, 1.5), 0.1, 10),  # exponent γ, also of `gamma_inverted`
}


def augment(key, batch, *, flip=0.0, in_plane_only=False, apart=False, exclusive=False, **fields):
    """Transform each sample at random and on its own: flips, then `PROBABILITIES` in their order.

    Each transform has a probability per sample, a Python number; one of probability 0 is not in
    the program. The default ranges are those of nnU-Net v2 (Isensee et al. 2021), whose
    probabilities are flip 0.5, rotate 0.2, scale 0.2, noise 0.1, blur 0.2, brightness 0.15,
    contrast 0.15, low_resolution 0.25, gamma_inverted 0.1, gamma 0.3. Factors and exponents fall
    below and above 1 equally often. Intensity transforms touch the image alone, with the statistics
    of each channel, and one parameter for all channels, or with `apart` one of each.

    Args:
      key: random key; the same key gives the same result.
      batch: {'image': float32 [B, *spatial, C], normalised; 'label' [B, *spatial, classes] and
        'mask' [B, *spatial, 1] in {0, 1}}, two or three spatial axes.
      flip: probability of mirroring each spatial axis, or one probability per axis.
      in_plane_only: exclude depth from rotate90, rotate, scale and low_resolution, for voxels
        or patches much coarser or shorter in depth.
      apart: draw the parameters of all intensity transforms but noise for each channel by itself,
        as nnU-Net does: for channels that are recorded apart, unlike red, green and blue.
      exclusive: whether several classes exclude each other, see `warp.resample`.
      **fields: probabilities, of `PROBABILITIES`, by default 0; (low, high), of `RANGES`.

    Returns:
      A batch of the same shapes and types.

    Raises:
      ValueError: an unknown name, a probability outside [0, 1], a range that is inverted or out of
        bounds, quarter turns without two equal axes, or a batch with other arrays.
    """
    shape = _spatial_shape(batch)
    flips = (flip,) * len(shape) if isinstance(flip, int | float) else tuple(flip)
    _check(flips, fields, len(shape))
    probabilities = {name: fields.get(name, 0.0) for name in PROBABILITIES}
    ranges = {name: fields.get(name, RANGES[name].default) for name in RANGES}
    steps = _steps(flips, probabilities, ranges, shape, in_plane_only, apart, exclusive)
    if not any(steps):
        return batch

    def augment_sample(key_and_sample):
        key, sample = key_and_sample
        for index, step in enumerate(steps):
            if step is not None:
                sample = step(random.fold_in(key, index), sample)
        return sample

    return lax.map(augment_sample, (sample_keys(key, len(batch["image"])), batch))


def _steps(flips, probabilities, ranges, shape, in_plane_only, apart, exclusive):
    """The transforms in their order, each (key, sample) -> sample; None for those that are off."""
    planes = [
        plane
        for plane in itertools.combinations(range(len(shape)), 2)
        if not (in_plane_only and len(shape) == 3 and 0 in plane)
    ]
    axes = sorted(set(itertools.chain(*planes)))
    square = [(a, b) for a, b in planes if shape[a] == shape[b]]
    if probabilities["rotate90"] > 0 and not square:
        raise ValueError(
            f"augment.rotate90 is {probabilities['rotate90']}, but no two axes of the patch "
            f"{shape} that may be turned are equal: set it to 0 or change the patch."
        )
    rotate, scale = probabilities["rotate"], probabilities["scale"]
    affine = partial(
        warp.affine,
        rotate=rotate,
        rotate_degrees=ranges["rotate_degrees"],
        scale=scale,
        scale_range=ranges["scale_range"],
        planes=planes,
        exclusive=exclusive,
    )

    def on_image(name, transform):
        limits = ranges[f"{name.removesuffix('_inverted')}_range"]
        transform = partial(transform, limits=limits)
        each = apart and name != "noise"
        return _on_image(probabilities[name], _each_channel(transform) if each else transform)

    return [
        *(_sometimes(p, partial(warp.flip, axis=axis)) for axis, p in enumerate(flips)),
        _sometimes(probabilities["rotate90"], partial(warp.quarter_turns, planes=square)),
        affine if rotate > 0 or scale > 0 else None,
        on_image("noise", _noise),
        on_image("blur", _blur),
        on_image("brightness", _brightness),
        on_image("contrast", _contrast),
        on_image("low_resolution", partial(_low_resolution, axes=axes)),
        on_image("gamma_inverted", partial(_gamma, sign=-1)),
        on_image("gamma", partial(_gamma, sign=1)),
    ]


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


def _each_channel(transform):
    """transform(key, image [*spatial, C]), channel by channel; of one channel it is `transform`."""

    def on_each(key, image):
        if image.shape[-1] == 1:
            return transform(key, image)
        keys = random.split(key, image.shape[-1])
        parts = [transform(k, image[..., c : c + 1]) for c, k in enumerate(keys)]
        return jnp.concatenate(parts, -1)

    return on_each


def _spatial(image):
    return tuple(range(image.ndim - 1))


def _uniform(key, limits, shape=()):
    return random.uniform(key, shape, minval=limits[0], maxval=limits[1])


def _around_one(key, limits):
    """Draw below and above 1 equally often, whatever the range on either side."""
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
    """Gaussian filter with mirrored borders; images of the kernel beyond the first are ignored."""
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


def _check(flips, fields, axes):
    """Raise a ValueError for the first invalid argument of `augment`."""
    known = (*PROBABILITIES, *RANGES)
    for name in (name for name in fields if name not in known):
        hint = did_you_mean(name, ("flip", "in_plane_only", *known), shown="augment.{}".format)
        raise ValueError(f"augment.{name} is not known{hint}")
    if len(flips) != axes:
        raise ValueError(
            f"augment.flip is {flips}, but the patch has {axes} axes: give one probability, or "
            "one per axis."
        )
    for name, value in [*(("flip", p) for p in flips), *fields.items()]:
        if name not in RANGES:
            if not 0 <= value <= 1:
                raise ValueError(f"augment.{name} is {value}, but a probability lies in [0, 1].")
            continue
        _, least, most = RANGES[name]
        if len(value) != 2 or not least <= value[0] <= value[1] <= most:
            raise ValueError(
                f"augment.{name} is {tuple(value)}, but a range is two increasing numbers within "
                f"[{least}, {most}]."
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
