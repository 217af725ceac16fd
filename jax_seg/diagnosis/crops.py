"""The parts of large arrays that checks look at."""

import numpy as np
from scipy import ndimage


def shrunk(shape, most):
    """Sizes of at most `most` voxels within a shape: the longest axis is cut first."""
    size = list(shape)
    while np.prod(size) > most:
        size[int(np.argmax(size))] -= 1
    return size


def middle(shape, size):
    """Slices of the middle of an array, `size` voxels along each axis."""
    return tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(shape, size, strict=True))


def balanced(mask, size):
    """Slices of the part of a mask that holds it in nearest to half of its elements.

    Args:
      mask: bool, of any rank.
      size: of the part along each axis, at most the mask's.
    """
    shares = ndimage.uniform_filter(mask.astype(np.float64), size, mode="constant")
    # The filter centres a part of n elements on its element n // 2.
    valid = tuple(slice(s // 2, n - s + s // 2 + 1) for n, s in zip(mask.shape, size, strict=True))
    best = np.abs(shares[valid] - 0.5).argmin()
    start = np.unravel_index(best, shares[valid].shape)
    return tuple(slice(int(a), int(a) + s) for a, s in zip(start, size, strict=True))
