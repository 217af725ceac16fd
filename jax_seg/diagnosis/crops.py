"""The parts of large arrays that checks look at."""

import numpy as np


def shrunk(shape, most):
    """Sizes of at most `most` voxels within a shape: the longest axis is cut first."""
    size = list(shape)
    while np.prod(size) > most:
        size[int(np.argmax(size))] -= 1
    return size


def middle(shape, size):
    """Slices of the middle of an array, `size` voxels along each axis."""
    return tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(shape, size, strict=True))
