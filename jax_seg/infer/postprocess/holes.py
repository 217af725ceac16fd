"""Where a volume has holes of one voxel: the 27 voxels around each are bits of a number."""

from itertools import product

import numpy as np

from jax_seg.ops.jit import jit

# The neighbourhood of a voxel as bits of an integer, in raster order; the voxel itself is bit 13.
_OFFSETS = np.array(list(product((-1, 0, 1), repeat=3)))
_STEPS = np.abs(_OFFSETS).sum(1)  # faces to cross from the voxel


def _bits(condition):
    return sum(1 << int(k) for k in np.flatnonzero(condition))


def _next_to(cells, adjacent):
    """int64 [27]: the bits of those `cells` that are adjacent to each cell."""
    return np.array([_bits(cells & adjacent(np.abs(_OFFSETS - o))) for o in _OFFSETS], np.int64)


_FACES = _bits(_STEPS == 1)
_ALL = _bits(_STEPS > 0)
_NEXT_FOREGROUND = _next_to((_STEPS == 1) | (_STEPS == 2), lambda d: d.sum(1) == 1)
_NEXT_BACKGROUND = _next_to(_STEPS > 0, lambda d: d.max(1) == 1)


@jit
def of_one_voxel(mask):
    """The background voxels whose filling closes a tunnel or a cavity and joins nothing.

    See `sheets.plug_holes`.

    Args:
      mask: [D, H, W] bool; its border is not looked at.

    Returns:
      [D, H, W] bool.
    """
    found = np.zeros_like(mask)
    depth, height, width = mask.shape
    for z in range(1, depth - 1):
        for y in range(1, height - 1):
            for x in range(1, width - 1):
                if mask[z, y, x]:
                    continue
                # Around fewer than three foreground faces the background always hangs together.
                faces = np.int64(mask[z - 1, y, x]) + mask[z + 1, y, x] + mask[z, y - 1, x]
                if faces + mask[z, y + 1, x] + mask[z, y, x - 1] + mask[z, y, x + 1] < 3:
                    continue
                cube = np.int64(0)
                for k in range(27):
                    if mask[z + k // 9 - 1, y + k // 3 % 3 - 1, x + k % 3 - 1]:
                        cube |= np.int64(1) << k
                foreground = cube & _FACES
                background = _ALL & ~cube
                around = _component(foreground, cube, _NEXT_FOREGROUND)
                rest = _component(background, background, _NEXT_BACKGROUND)
                found[z, y, x] = foreground & ~around == 0 and (rest != background or rest == 0)
    return found


@jit
def _component(start, within, next_to):
    """Bits of `within` connected to the lowest bit of `start`."""
    reached = frontier = start & -start
    while frontier:
        grown = np.int64(0)
        for k in range(27):
            if frontier >> k & 1:
                grown |= next_to[k]
        frontier = grown & within & ~reached
        reached |= frontier
    return reached
