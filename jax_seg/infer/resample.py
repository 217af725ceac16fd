"""Resample a volume to another voxel spacing, as nnU-Net does (Isensee et al. 2021)."""

import numpy as np

SEPARATE = 3.0  # ratio of spacings from which the coarsest axis is resampled by itself


def new_shape(shape, before, after):
    """The shape of a volume of spacing `before` at the spacing `after`, voxels."""
    return tuple(round(n * b / a) for n, b, a in zip(shape, before, after, strict=True))


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
    nearest = map_coordinates(np.arange(len(slices)), [places], order=0, mode="nearest")
    return np.stack([slices[number] for number in nearest], axis).astype(np.float32)


def _coarsest(before, after):
    """The axis that is far coarser than the others in either spacing; None where there is none."""
    for spacing in (before, after):
        if max(spacing) / min(spacing) > SEPARATE:
            coarsest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None
