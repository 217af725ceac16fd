"""Repairs of sheets: plug and patch their holes, cut merged ones apart."""

import cc3d
import numpy as np
from scipy import ndimage

from jax_seg.ops.components import connected, sizes_of

# Numba, scikit-image and the sparse solvers are imported where they are used: a run that only
# names these steps should not wait for them.


def plug_holes(mask):
    """Fill the holes of one voxel, in a sheet of any direction.

    With foreground joined by faces and background by corners, as topology is scored, a background
    voxel is a hole where its foreground neighbours hang together around it while its background
    neighbours do not: filling it joins nothing and closes a tunnel (or a cavity, where it has no
    background neighbour). The two numbers are those of Bertrand and Malandain 1994, "A new
    characterization of three-dimensional simple points".

    Args:
      mask: [D, H, W] bool.
    """
    from jax_seg.infer.postprocess import holes

    return mask | holes.of_one_voxel(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]


def patch_sheets(mask, *, area=64):
    """Patch the holes of sheets by extending the height of the surrounding sheet across each hole.

    Where a sheet runs roughly across an axis, at most 45° off, it is a height over the other two.
    A hole in it is a gap in those that the sheet surrounds; there the height is the harmonic
    interpolation of the heights around and the thickness their median. A hole stays open where
    the patch would touch another component, or where the heights around it jump.

    Args:
      mask: [D, H, W] bool.
      area: the largest hole, in voxels of its projection along the axis.
    """
    component = connected(mask)
    patched = mask.copy()
    runs = [_run_lengths(mask, axis) for axis in range(3)]
    thinnest = np.minimum.reduce(runs)
    for axis in range(3):
        # One voxel more for the roughness of a surface; this also makes the parts overlap.
        chart = connected(mask & (runs[axis] <= thinnest + 1))
        statistics = cc3d.statistics(chart)
        sizes, boxes = statistics["voxel_counts"], statistics["bounding_boxes"]
        for number in range(1, len(sizes)):
            # A hole of one pixel has four sides.
            if sizes[number] < 4:
                continue
            # With the voxels around, which a patch must not touch.
            box = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in boxes[number])
            piece, parts, output = (
                np.moveaxis(array[box], axis, 0) for array in (chart, component, patched)
            )
            _patch(piece == number, parts, output, area)
    return patched


def _patch(sheet, component, output, area):
    """Patch one sheet [height, rows, columns] in place in `output`.

    Args:
      sheet: bool.
      component: numbers of the whole mask's components.
      output: bool.
      area: of the largest hole.
    """
    count = sheet.sum(0)
    footprint = count > 0
    holes, number = ndimage.label(ndimage.binary_fill_holes(footprint) & ~footprint)
    if not number:
        return
    low, high = sheet.argmax(0), len(sheet) - 1 - sheet[::-1].argmax(0)
    one_layer, middle = high - low + 1 == count, (low + high) / 2
    own = component[sheet][0]
    sizes = sizes_of(holes)
    for k, box in enumerate(ndimage.find_objects(holes), 1):
        if sizes[k] > area:
            continue
        # With the pixels around: the sheet surrounds a hole, so they are inside.
        box = tuple(slice(part.start - 1, part.stop + 1) for part in box)
        hole = holes[box] == k
        around = ndimage.binary_dilation(hole, np.ones((3, 3))) & footprint[box]
        heights = middle[box][around]
        if not one_layer[box][around].all() or np.ptp(heights) > max(hole.shape):
            continue
        thickness = round(float(np.median(count[box][around])))
        rows, columns = np.nonzero(hole)
        # Halves round up: rounding to even would turn a slope into steps.
        start = np.floor(_harmonic(hole, middle[box]) - (thickness - 2) / 2).astype(int)
        patch = np.zeros((len(sheet), *hole.shape), bool)
        for step in range(thickness):
            patch[np.clip(start + step, 0, len(sheet) - 1), rows, columns] = True
        touched = component[(slice(None), *box)][ndimage.binary_dilation(patch, np.ones((3, 3, 3)))]
        if np.isin(touched, (0, own)).all():
            output[(slice(None), *box)] |= patch


def _harmonic(hole, values):
    """Values at the pixels of a hole, each the mean of its four neighbours (Laplace's equation)."""
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    places = np.argwhere(hole)
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(len(places))
    matrix, right = sparse.lil_matrix((len(places),) * 2), np.zeros(len(places))
    for k, (row, column) in enumerate(places):
        matrix[k, k] = 4
        for side in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if number[side] >= 0:
                matrix[k, number[side]] = -1
            else:
                right[k] += values[side]
    return spsolve(matrix.tocsr(), right).reshape(-1)


def _run_lengths(mask, axis):
    """For every voxel the length of the run of foreground along `axis` that it is in."""
    before, after = np.zeros(mask.shape, np.uint16), np.zeros(mask.shape, np.uint16)
    for counted, voxels in ((before, mask), (np.flip(after, axis), np.flip(mask, axis))):
        counted, voxels = np.moveaxis(counted, axis, 0), np.moveaxis(voxels, axis, 0)
        running = np.zeros(voxels.shape[1:], np.uint16)
        for k, section in enumerate(voxels):
            running = (running + 1) * section
            counted[k] = running
    return before + after - mask  # each counts the voxel itself


def split_sheets(mask, probability, *, seed=0.9, voxels=100):
    """Cut merged sheets apart where the network was least sure, by a watershed.

    The components of at least `voxels` voxels above the probability `seed` grow down the
    probability until they meet; where two meet inside one component of the mask, a line of
    background is left (Meyer 1994, "Topographic distance and watershed lines").

    Args:
      mask: [D, H, W] bool.
      probability: [D, H, W].
      seed: probability above which sheets are taken to be apart.
      voxels: size of the smallest sheet.
    """
    from skimage.segmentation import watershed

    component = connected(mask)
    seeds = connected(mask & (probability > seed))
    large = sizes_of(seeds) >= voxels
    large[0] = False
    # A seed lies in one component, and a component with one seed needs no cut.
    owner = np.zeros(len(large), component.dtype)
    at = seeds > 0
    owner[seeds[at]] = component[at]
    merged = np.bincount(owner[large], minlength=component.max(initial=0) + 1) > 1
    seeds = np.where(large[seeds], seeds, 0)
    inside = merged[component]
    if not inside.any():
        return mask
    grown = watershed(
        -probability,
        np.where(inside, seeds, 0).astype(np.int32),
        connectivity=np.ones((3, 3, 3)),
        mask=inside,
    )
    # The watershed's own lines let its queue grow without end on plateaus of the probability.
    return mask & ~(inside & (ndimage.maximum_filter(grown, 3) > grown))
