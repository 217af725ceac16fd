"""Closing, opening and smoothing of a mask through distances, exact for any radius."""

import edt
import numpy as np
from scipy import ndimage

_ROUNDING = 1e-4  # of the distances, which are float32


def closing(mask, *, depth=1, height=1, width=1):
    """Close gaps with an ellipsoid of these radii, voxels; the border of the volume stays.

    Args:
      mask: [D, H, W] bool.
      depth, height, width: radius along each axis; 0 leaves the axis alone.
    """
    radii = depth, height, width
    return _erode(_dilate(mask, radii), radii)


def opening(mask, *, depth=1, height=1, width=1):
    """Remove parts thinner than an ellipsoid of these radii, as `closing` takes them.

    A sheet of two voxels is thinner than the smallest ellipsoid, so all of it is removed.
    """
    radii = depth, height, width
    return _dilate(_erode(mask, radii), radii)


def smooth(mask, *, sigma=1.0, anisotropy=1.0):
    """Smooth a surface: a Gaussian over its signed distance, cut where the volume stays the same.

    The plain cut at distance 0 would thin every convex piece and lose a sheet of two voxels.

    Args:
      mask: [D, H, W] bool.
      sigma: of the Gaussian, in voxels of height and width.
      anisotropy: length of a voxel along depth, in voxels of height and width.
    """
    spacing = (anisotropy, 1.0, 1.0)
    if not mask.any() or mask.all():
        return mask
    inside, outside = (edt.edt(np.ascontiguousarray(m), anisotropy=spacing) for m in (mask, ~mask))
    # Distances beyond the Gaussian's reach would let one far surface outvote a near one.
    distance = np.clip(inside - outside, -3 * sigma, 3 * sigma)
    distance = ndimage.gaussian_filter(distance, np.divide(sigma, spacing), truncate=3)
    rest = mask.size - np.count_nonzero(mask)
    return distance > np.partition(distance, rest - 1, axis=None)[rest - 1]


def _dilate(mask, radii):
    return _distance(~mask, radii) <= 1 + _ROUNDING


def _erode(mask, radii):
    return _distance(mask, radii) > 1 + _ROUNDING


def _distance(mask, radii):
    """Distance of the mask's voxels to the others, in radii; outside the volume counts as mask."""
    # Along an axis of radius 0 every step leaves the ellipsoid.
    steps = [1 / radius if radius else 2.0 for radius in radii]
    return edt.edt(np.ascontiguousarray(mask), anisotropy=steps)
