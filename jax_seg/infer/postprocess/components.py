"""Masks from probabilities, and steps on connected components: size, holes, empty regions."""

import cc3d
import numpy as np

from jax_seg.ops.components import connected, sizes_of


def threshold(probability, *, value=0.5):
    """Mask [D, H, W] bool of the voxels whose probability is above `value`."""
    return probability > value


def hysteresis(probability, *, low=0.3, high=0.85, connectivity=26):
    """Components of the voxels above `low` that hold a voxel above `high`, [D, H, W] bool.

    Canny 1986, "A computational approach to edge detection", section VI.
    """
    component = connected(probability > low, connectivity)
    kept = np.zeros(component.max(initial=0) + 1, bool)
    kept[component[probability > high]] = True
    kept[0] = False
    return kept[component]


def remove_small(mask, *, voxels=100, connectivity=26):
    """Remove the components of fewer than `voxels` voxels."""
    component = connected(mask, connectivity)
    return cc3d.dust(component, voxels, in_place=True, precomputed_ccl=True) > 0


def keep_largest(mask, *, components=1, connectivity=26):
    """Keep the largest `components` components; of equal ones the first in memory.

    cc3d.largest_k keeps any of equal ones where it keeps several.
    """
    component = connected(mask, connectivity)
    sizes = sizes_of(component)
    sizes[0] = 0
    kept = np.zeros(len(sizes), bool)
    kept[np.argsort(-sizes, kind="stable")[:components]] = True
    return kept[component] & mask


def fill_holes(mask, *, voxels=0, connectivity=6):
    """Fill the background that does not reach the border of the volume.

    Args:
      mask: [D, H, W] bool.
      voxels: fill only cavities of at most that many; 0 for all of them.
      connectivity: of the background.
    """
    return mask | _enclosed(~mask, voxels, connectivity)


def fill_holes_per_slice(mask, *, axis=0, voxels=0):
    """The same in every slice across `axis`, where the background is 4-connected."""
    filled = mask.copy()
    for section in np.moveaxis(filled, axis, 0):
        section |= _enclosed(~section, voxels, 4)
    return filled


def _enclosed(background, voxels, connectivity):
    """Components of the background that do not reach the border, of at most `voxels` if not 0."""
    # The padding joins all background that reaches the border.
    component = cc3d.connected_components(
        np.pad(background, 1, constant_values=True), connectivity=connectivity
    )
    sizes = sizes_of(component)
    enclosed = sizes <= (voxels or background.size)
    enclosed[[0, component.flat[0]]] = False
    return enclosed[component[(slice(1, -1),) * background.ndim]]


def mask_empty(mask, image, *, level=0, voxels=1000):
    """Remove foreground where there is no material, as outside the scanned part of a scroll.

    Args:
      mask: [D, H, W] bool.
      image: [D, H, W], the input.
      level: the image is empty where it is at most that, and
      voxels: where at least that many such voxels are connected by their faces: single dark voxels
        are noise.
    """
    return mask & ~remove_small(image <= level, voxels=voxels, connectivity=6)
