"""Surface Dice at a tolerance, on the surface elements of the surface-distance method.

Nikolov et al. 2018, "Deep learning to achieve clinically applicable segmentation of head and neck
anatomy for radiotherapy". A surface element sits between 2³ voxels that are not all alike; its
area is that of marching cubes for this neighbourhood, its place the centre of the eight.
"""

import functools

import numpy as np
from skimage.measure import marching_cubes, mesh_surface_area

from jax_seg.metrics.segmentation import require_same_shape
from jax_seg.ops.jit import jit


def surface_dice(prediction, label, tolerance):
    """Share of both surfaces' area that lies within `tolerance` of the other surface.

    (area of label surface near the predicted one + the converse) / total area of both; the volume
    ends in background on all sides. 1 when both masks are empty, 0 when one is.

    Args:
      prediction: [D, H, W], non-zero where predicted.
      label: [D, H, W], non-zero where foreground.
      tolerance: voxels, distance between element centres, inclusive.

    Returns:
      float in [0, 1].

    Raises:
      ValueError: the shapes differ.
    """
    prediction, label = np.asarray(prediction) != 0, np.asarray(label) != 0
    require_same_shape(prediction, label)
    if not prediction.any() or not label.any():
        return float(prediction.any() == label.any())
    predicted_codes, label_codes = neighbourhood_codes(prediction), neighbourhood_codes(label)
    ball, area = _ball(tolerance), surface_areas()
    near, total = np.add(
        _area_near(predicted_codes, label_codes, ball, area),
        _area_near(label_codes, predicted_codes, ball, area),
    )
    return float(near / total)


@functools.cache
def surface_areas():
    """Area of the surface through each of the 256 neighbourhoods of 2³ voxels.

    Bit 7 - (4i + 2j + k) of a code is voxel [i, j, k]. The surface is that of Lorensen and Cline
    1987, vertices at mid-edge, whose fifteen cases do not distinguish foreground from background: a
    neighbourhood with more than four foreground voxels has the surface of its complement.

    Returns:
      [256] float64, voxel faces; 0 for codes 0 and 255, which have no surface.
    """
    area = np.zeros(256)
    for code in range(1, 255):
        few = code if code.bit_count() <= 4 else 255 - code
        corners = np.unpackbits(np.uint8(few)).reshape(2, 2, 2).astype(np.float32)
        vertices, faces, *_ = marching_cubes(corners, 0.5, method="lorensen")
        area[code] = mesh_surface_area(np.round(2 * vertices.astype(np.float64)) / 2, faces)
    return area


@jit
def neighbourhood_codes(mask):
    """The 2³ code around every voxel corner, borders included: [D + 1, H + 1, W + 1] uint8."""
    depth, height, width = mask.shape
    codes = np.zeros((depth + 1, height + 1, width + 1), np.uint8)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if mask[z, y, x]:
                    codes[z, y, x] |= 1
                    codes[z, y, x + 1] |= 2
                    codes[z, y + 1, x] |= 4
                    codes[z, y + 1, x + 1] |= 8
                    codes[z + 1, y, x] |= 16
                    codes[z + 1, y, x + 1] |= 32
                    codes[z + 1, y + 1, x] |= 64
                    codes[z + 1, y + 1, x + 1] |= 128
    return codes


def _ball(tolerance):
    """Offsets [N, 3] of length at most `tolerance`, nearest first: most searches end early."""
    reach = int(tolerance)
    offsets = np.mgrid[(slice(-reach, reach + 1),) * 3].reshape(3, -1).T
    squared = (offsets**2).sum(axis=1)
    order = np.argsort(squared, kind="stable")
    return offsets[order][squared[order] <= tolerance**2]


@jit
def _area_near(codes, other, ball, area):
    """(area of the elements of `codes` with an element of `other` in their ball, total area)."""
    depth, height, width = codes.shape
    near = total = 0.0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                code = codes[z, y, x]
                if code == 0 or code == 255:
                    continue
                total += area[code]
                for i in range(len(ball)):
                    u, v, w = z + ball[i, 0], y + ball[i, 1], x + ball[i, 2]
                    if 0 <= u < depth and 0 <= v < height and 0 <= w < width:
                        found = other[u, v, w]
                        if found != 0 and found != 255:
                            near += area[code]
                            break
    return near, total
