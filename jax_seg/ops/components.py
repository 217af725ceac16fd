"""Connected components of masks, and their sizes."""

import cc3d
import numpy as np

BLOCK = 1 << 24  # voxels that are counted at once


def connected(mask, connectivity=26):
    """Number of the component of each voxel, 0 in the background; 6-, 18- or 26-connected.

    Where nearly every other voxel of a small mask is a component of its own, cc3d reserves too few
    numbers, unless background follows.
    """
    try:
        return cc3d.connected_components(mask, connectivity=connectivity)
    except RuntimeError:
        padded = cc3d.connected_components(np.pad(mask, (0, 1)), connectivity=connectivity)
        return padded[(slice(-1),) * mask.ndim].copy()


def sizes_of(component):
    """Voxels of each component, of the background first.

    Block by block: counting takes eight bytes a voxel.
    """
    flat = component.ravel("K")
    sizes = np.zeros(component.max(initial=0) + 1, np.int64)
    for start in range(0, flat.size, BLOCK):
        sizes += np.bincount(flat[start : start + BLOCK], minlength=len(sizes))
    return sizes
