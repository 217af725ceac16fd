"""Patch, poolings and levels within slices, from the shapes and the spacing of the volumes."""

import math

import numpy as np

from jax_seg.planning.rules import FLAT, Decision, alike

DEEPEST = 8  # voxels that the coarsest level keeps along the longest axis of a patch
CPU_VOXELS, GPU_VOXELS = 150_000, 128**3  # of a patch
STEP, COARSE_STEP = 8, 16  # voxels: patch sizes are multiples of it, of the second beyond 32
AXES = "depth", "height", "width"


def _coarse_axis(facts, given):
    """The axis along which steps are longest by far, as files state it; else 0, depth."""
    if not facts.spacing or "model.planar_levels" in given:
        return 0
    *_, second, longest = sorted(facts.spacing)
    return facts.spacing.index(longest) if longest > FLAT * second else 0


def _first(sizes, axis):
    """Sizes along depth, height and width with that of one of the axes first."""
    return (sizes[axis], *sizes[:axis], *sizes[axis + 1 :])


def _back(sizes, axis):
    """What `_first` was given."""
    return (*sizes[1 : axis + 1], sizes[0], *sizes[axis + 1 :])


def _levels_within(planar, poolings, axis):
    """Fields of a network whose finest `planar` levels lie within slices across an axis."""
    if not axis:
        return {"model.planar_levels": planar}
    kernel, stride = _back((1, 3, 3), axis), _back((1, 2, 2), axis)
    deeper = poolings - planar
    return {
        "model.planar_levels": 0,
        "model.kernels": (kernel,) * planar + ((3, 3, 3),) * (deeper + 1),
        "model.strides": ((1, 1, 1), *(stride,) * planar, *((2, 2, 2),) * deeper),
    }


def patch_and_levels(facts, voxels, given=None):
    """Patch, levels within slices, and poolings; no quarter turns where the patch allows none.

    Slices lie across the axis along which steps are longest, where the files state the spacing.

    Args:
      facts: Facts.
      voxels: of a patch, about at most.
      given: {dotted path: value} that the user has set.
    """
    given, shape = given or {}, np.median(facts.shapes, 0)
    axis, steps = _coarse_axis(facts, given), facts.anisotropy
    if axis:
        longest, *others = _first(facts.spacing, axis)
        steps = longest / float(np.mean(others))
    planar = max(round(math.log2(max(steps, 1.0))), 0)
    planar = given.get("model.planar_levels", planar)
    patch, fixed = given.get("data.patch", ()), given.get("model.poolings")
    if patch:
        poolings, planar = _levels(_first(patch, axis), planar, fixed)
    else:
        patch, (poolings, planar) = _patch(np.array(_first(shape, axis)), planar, voxels, fixed)
        patch = _back(patch, axis)
    within = _levels_within(planar, poolings, axis)
    fields = {"data.patch": patch, "model.poolings": poolings, **within}
    size = "×".join(str(round(n)) for n in shape)
    pooled = np.array(_back((poolings - planar, poolings, poolings), axis))
    coarsest = "×".join(str(n) for n in np.array(patch) // 2**pooled)
    reason = (
        f"about {voxels:,} voxels at most, and no more than the median volume of {size}; the "
        f"coarsest level has {coarsest}"
    )
    if "data.patch" in given:
        reason = f"a patch of {'×'.join(map(str, patch))} voxels has room for {poolings} poolings"
    if planar:
        across = "in the plane across it" if axis else "in the plane"
        reason += (
            f"; a step along {AXES[axis]} equals {steps:.1f} {across}, so the finest "
            f"{planar} of {poolings} poolings leave {AXES[axis]} alone"
        )
    depth, height, width = patch
    in_plane_only = given.get("augment.in_plane_only", not alike(facts))
    if height != width and (in_plane_only or depth not in (height, width)):
        fields["augment.rotate90"] = 0.0
        reason += (
            "; no axes that may be turned into each other are equally long, so no quarter turns"
        )
    return Decision("patch", fields, reason)


def _levels(patch, planar, poolings=None):
    """(poolings, levels within slices) of a patch: the coarsest level sees across slices.

    Poolings that the user has set are kept.
    """
    if poolings is not None:
        return poolings, min(planar, max(poolings - 1, 0))
    poolings = max(int(math.log2(max(max(patch) / DEEPEST, 2))), 1)
    while True:
        planar = min(planar, poolings - 1)
        along_depth, depth, *plane = poolings - planar, *patch
        divides = all(n % 2**poolings == 0 for n in plane) and depth % 2**along_depth == 0
        if divides or poolings == 1:
            return poolings, planar
        poolings -= 1


def _patch(shape, planar, voxels, poolings=None):
    """(patch, its `_levels`): as large as volumes and voxels allow.

    Its proportions are those in which the levels within slices make a voxel isotropic.
    """
    while True:
        halvings = np.array([(poolings or 0) - planar, poolings or 0, poolings or 0])
        steps = 2 ** np.maximum(halvings, 0)
        free, size = [0, 1, 2], np.zeros(3)
        weight = np.array([2.0**-planar, 1.0, 1.0])
        left = float(voxels)
        while free:  # axes that the volume limits give their share to the others
            side = (left / weight[free].prod()) ** (1 / len(free))
            size[free] = side * weight[free]
            full = [axis for axis in free if size[axis] >= shape[axis]]
            if not full:
                break
            axis = full[0]
            size[axis] = _rounded(shape[axis], steps[axis])
            left /= size[axis]
            free.remove(axis)
        patch = tuple(_rounded(*pair) for pair in zip(size, steps, strict=True))
        found, within = _levels(patch, planar, poolings)
        if within == planar:
            return patch, (found, planar)
        planar = within


def _rounded(size, least):
    """The multiple below a size that levels divide well, at least one step; all powers of 2."""
    step = max(COARSE_STEP if size >= 2 * COARSE_STEP else STEP, int(least))
    least = max(STEP, int(least))
    return max(int((size + 1e-6) // step) * step, least)  # the cube root of a cube is less
