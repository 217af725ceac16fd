"""Resample a volume to another voxel spacing, as nnU-Net does (Isensee et al. 2021)."""

import math

import numpy as np

from jax_seg.system import memory

EQUAL = 1e-4  # shares that differ by less, which rounding may make
SEPARATE = 3.0  # ratio of spacings from which the coarsest axis is resampled by itself


def new_shape(shape, before, after):
    """The shape of a volume of spacing `before` at the spacing `after`, voxels."""
    return tuple(max(round(n * b / a), 1) for n, b, a in zip(shape, before, after, strict=True))


def changes_shape(shape, before, after):
    """Whether a volume has another shape at another spacing: nnU-Net resamples no others."""
    return new_shape(shape, before, after) != tuple(shape)


def resample(volume, shape, before, after, order):
    """A volume at another spacing.

    Where one axis is far coarser than the others, it takes the nearest slice, and the spline runs
    within slices: across thick slices it would overshoot.

    Args:
      volume: float32 [D, H, W].
      shape: that of the result.
      before, after: (z, y, x) spacings of the volume and of the result, in one unit.
      order: of the spline: 3 for images, 1 for logits.

    Returns:
      float32 of `shape`.
    """
    from scipy.ndimage import map_coordinates  # late: prediction seldom needs these
    from skimage.transform import resize

    if volume.shape == tuple(shape):
        return volume
    options = {"order": order, "mode": "edge", "anti_aliasing": False}
    volume, axis = volume.astype(np.float64), _coarsest(before, after)
    if axis is None:
        return resize(volume, shape, **options).astype(np.float32)
    plane = tuple(n for number, n in enumerate(shape) if number != axis)
    slices = [resize(one, plane, **options) for one in np.moveaxis(volume, axis, 0)]
    places = (np.arange(shape[axis]) + 0.5) * len(slices) / shape[axis] - 0.5
    chosen = map_coordinates(np.arange(len(slices)), [places], order=0, mode="nearest")
    return np.stack([slices[number] for number in chosen], axis).astype(np.float32)


def resample_image(image, before, after):
    """An image at another spacing, of the type as stored, for networks that take it as stored.

    Cubic splines overshoot and ring, so what they give is clipped to the range of the image, and
    zero where the nearest voxel is: zeros outside of a masked scan stay zeros. Where the type is
    one of integers, it is rounded.

    Args:
      image: [D, H, W] of any real type, or [D, H, W, C], each channel by itself.
      before, after: (z, y, x) spacings of the image and of the result, in one unit.

    Returns:
      [d, h, w] of the image's type, or [d, h, w, C].
    """
    image = np.asarray(image)
    if image.ndim == 4:
        channels = [resample_image(one, before, after) for one in np.moveaxis(image, -1, 0)]
        return np.stack(channels, -1)
    shape = new_shape(image.shape, before, after)
    require_memory(image.shape, shape)
    result = resample(image.astype(np.float32), shape, before, after, 3)
    result = np.clip(result, image.min(), image.max())
    if image.dtype.kind != "f":
        result = np.rint(result)
    return np.where(nearest(image, before, after) == 0, 0, result).astype(image.dtype)


def nearest(image, before, after):
    """An image at another spacing, each voxel that of the image which lies nearest.

    Args:
      image: [D, H, W] or [D, H, W, C].
      before, after: (z, y, x) spacings of the image and of the result, in one unit.

    Returns:
      [d, h, w] or [d, h, w, C], the shape of `resample_image`.
    """
    old = image.shape[:3]
    places = (
        np.minimum(((np.arange(to) + 0.5) * of / to).astype(int), of - 1)
        for of, to in zip(old, new_shape(old, before, after), strict=True)
    )
    return image[np.ix_(*places)]


def resample_classes(label, before, after):
    """A label at another spacing: of each voxel the class with the largest share there.

    Shares are interpolated linearly, class by class, as nnU-Net resamples labels. Of equal shares
    the later class has the voxel: foreground before background, so that a sheet of two slices is
    not lost where it lies across two of twice the thickness.

    Args:
      label: uint8 [D, H, W] of a few classes.
      before, after: (z, y, x) spacings of the label and of the result, in one unit.

    Returns:
      uint8 [d, h, w].
    """
    shape = new_shape(label.shape, before, after)
    require_memory(label.shape, shape)
    result, best = np.zeros(shape, np.uint8), np.full(shape, -1.0, np.float32)
    for one in np.unique(label):
        share = resample((label == one).astype(np.float32), shape, before, after, 1)
        result[share >= best - EQUAL] = one
        best = np.maximum(best, share)
    return result


def require_memory(before, after):
    """ValueError where memory cannot hold what `resample` computes, in float64, of two shapes."""
    needed = 8 * (math.prod(before) + 2 * math.prod(after))
    size = "×".join(map(str, after))
    memory.require(needed, f"A volume of {size} voxels", "resample it")


def _coarsest(before, after):
    """The axis that is far coarser than the others in either spacing; None where there is none."""
    for spacing in (before, after):
        if max(spacing) / min(spacing) > SEPARATE:
            coarsest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None
