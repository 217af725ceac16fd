"""Steps on connected components of a whole volume, in three passes over its blocks.

1. *label*: the components within each block, together with one layer of voxels of the blocks after
   it, so that any two voxels that touch lie in one block. A block keeps their sizes and the numbers
   of the components on its faces.
2. *merge*: where a layer and the block that it belongs to show the same voxel, their components are
   one (`scipy.sparse.csgraph.connected_components`). The step then decides about each component by
   its size over all blocks, its first voxel, or a mark.
3. *apply*: every block is labelled again, equally, and takes what was decided.

Within a block cc3d labels. The result equals that of the step on the whole volume.
"""

import functools
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csgraph

from jax_seg.infer import postprocess
from jax_seg.infer.blocks import states
from jax_seg.infer.blocks.cuts import Cuts
from jax_seg.infer.blocks.records import digest_of, name_of
from jax_seg.infer.part import box
from jax_seg.ops.components import connected, sizes_of
from jax_seg.system.arrays import load_arrays
from jax_seg.system.files import replacing

STEPS = ("hysteresis", "remove_small", "keep_largest", "fill_holes", "mask_empty")
OFFSETS = [offset for offset in itertools.product((0, 1), repeat=3) if any(offset)]
"""From a block to those that hold a part of its additional layer."""


class Files(NamedTuple):
    """One .npz file of arrays for each block."""

    folder: str

    def path(self, index):
        """The file of a block."""
        return Path(self.folder) / f"{name_of(index)}.npz"

    def write(self, index, **arrays):
        """Write a block's arrays."""
        with replacing(self.path(index)) as beside, beside.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def read(self, index):
        """{name: array} of a block."""
        return load_arrays(self.path(index))

    def record(self, index):
        """The checksum of a block's arrays; None without the file, or where it is damaged."""
        try:
            arrays = self.read(index)
        except Exception:  # a file that was cut off fails in many ways
            return None
        content = {k: [list(v.shape), v.dtype.str, v.tobytes().hex()] for k, v in arrays.items()}
        return {"bytes": self.path(index).stat().st_size, "blake2b": digest_of(content)}


def passes(job, number, group, source, target, kept, make):
    """The three passes of a step.

    Args:
      job: `Job`.
      number: of the first pass.
      group: `passes.Group` of one step and one class.
      source: `store.Level` of the states.
      target: `store.Level` of the result.
      kept: whether the result is part of the image.
      make: `passes.Pass`.
    """
    ((name, given),), (of_class,) = group
    parameters = postprocess.defaults(name) | given
    prefix = f"{number}_{name}"
    read_masks = _reader(job, source, of_class, name, parameters)
    folder = Path(job.records) / "components"
    labels, decisions = (Files(str(folder / f"{prefix}_{what}")) for what in ("label", "merge"))
    cuts = job.cuts
    everything = list(cuts.touching((0, 0, 0), cuts.shape))
    leader = Cuts((1, 1, 1), (1, 1, 1))

    def label(index):
        labels.write(index, **label_block(cuts, index, read_masks))
        return {}

    def merge(_):
        decide(cuts, labels, decisions, everything, name, parameters)
        return {}

    def apply(index):
        start, size = cuts.box(index)
        found = source.read(start, size)
        component = _label(cuts, index, read_masks)[0]
        chosen = decisions.read(index)["chosen"][component[box((0, 0, 0), size)]]
        result = combine(name, states.has(found, of_class), chosen)
        states.write(target, index, found, {of_class: result}, job.classes, kept)
        return {}

    return [
        make(f"{prefix}_label", cuts, labels, label, lambda i: _after(cuts, i), kept=False),
        make(f"{prefix}_merge", leader, Merged(decisions, everything), merge,
             lambda i: everything, kept=False, alone=True),
        make(f"{prefix}_apply", cuts, target, apply, lambda i: [(0, 0, 0)], kept=kept),
    ]  # fmt: skip


class Merged(NamedTuple):
    """The decisions about all blocks, as one output."""

    files: Files
    indices: list

    def record(self, _):
        """The checksum of all of them; None where one is missing."""
        found = [self.files.record(index) for index in self.indices]
        if None in found:
            return None
        return {
            "bytes": sum(one["bytes"] for one in found),
            "blake2b": digest_of([one["blake2b"] for one in found]),
        }


def _after(cuts, index):
    """A block and those that hold its additional layer, as far as the volume reaches."""
    others = [index, *(_moved(index, offset) for offset in OFFSETS)]
    return [one for one in others if all(i < n for i, n in zip(one, cuts.counts, strict=True))]


def _moved(index, offset):
    return tuple(i + o for i, o in zip(index, offset, strict=True))


def _reader(job, source, of_class, name, parameters):
    """(start, size) -> (mask to label, mark of each voxel or None), connectivity of the step."""

    def read(start, size):
        if name == "mask_empty":
            image = job.reader.read(start, size)
            return (image.max(-1) if image.ndim == 4 else image) <= parameters["level"], None
        found = source.read(start, size)
        mask = states.has(found, of_class)
        if name == "hysteresis":
            return mask, states.has(found, of_class, states.HIGH)
        return (~mask, None) if name == "fill_holes" else (mask, None)

    return read, 6 if name == "mask_empty" else parameters["connectivity"]


def _label(cuts, index, reading):
    """(components of a block and its additional layer, marks or None)."""
    read, connectivity = reading
    start, size = cuts.box(index)
    size = tuple(
        min(n + 1, length - a) for a, n, length in zip(start, size, cuts.shape, strict=True)
    )
    mask, marks = read(start, size)
    return connected(mask, connectivity).astype(np.uint32), marks


def label_block(cuts, index, reading):
    """What `merge` needs to know of the components of a block.

    Returns:
      dict of arrays over the components, background first: 'sizes' in voxels of the block without
      its additional layer, 'first' voxel in raster order of the volume, 'marked' whether one of
      their voxels is marked or lies on the volume's border; and the numbers on the first and last
      layers along each axis as 'low0' … 'high2'.
    """
    component, marks = _label(cuts, index, reading)
    start, size = cuts.box(index)
    own = component[box((0, 0, 0), size)]
    count = int(component.max(initial=0)) + 1
    sizes = np.zeros(count, np.int64)
    counted = sizes_of(own)
    sizes[: len(counted)] = counted
    first = np.full(count, np.iinfo(np.int64).max)
    numbers, places = np.unique(own, return_index=True)
    corner = np.stack(np.unravel_index(places, size), -1) + np.array(start)
    first[numbers] = np.ravel_multi_index(tuple(corner.T), cuts.shape)
    marked = np.zeros(count, bool)
    if marks is not None:
        marked[component[marks]] = True
    for axis, (a, n, length) in enumerate(zip(start, size, cuts.shape, strict=True)):
        if marks is None and a == 0:
            marked[own.take(0, axis)] = True
        if marks is None and a + n == length:
            marked[own.take(n - 1, axis)] = True
    faces = {}
    for axis in range(3):
        faces[f"low{axis}"] = component.take(0, axis)
        faces[f"high{axis}"] = component.take(component.shape[axis] - 1, axis)
    return {"sizes": sizes, "first": first, "marked": marked, **faces}


def decide(cuts, labels, decisions, indices, name, parameters):
    """Merge the components of all blocks and write, for each block, which of them are chosen."""
    read = functools.lru_cache(64)(labels.read)
    offsets, counts, total = {}, {}, 0
    parts = {key: [] for key in ("sizes", "first", "marked")}
    for index in indices:
        arrays = labels.read(index)
        offsets[index] = total
        counts[index] = len(arrays["sizes"])
        total += counts[index]
        for key, several in parts.items():
            several.append(arrays[key])
    sizes, first, marked = (np.concatenate(parts[key]) for key in ("sizes", "first", "marked"))
    pairs = [np.zeros((0, 2), np.int64)]
    for index in indices:
        here = read(index)
        for offset in OFFSETS:
            other = _moved(index, offset)
            if other in offsets:
                pairs.append(_same(cuts, index, offset, here, read(other), offsets))
    root = _roots(total, np.concatenate(pairs))
    chosen = choose(name, parameters, root, sizes, first, marked, list(offsets.values()))
    for index in indices:
        begin = offsets[index]
        decisions.write(index, chosen=chosen[begin : begin + counts[index]])


def _same(cuts, index, offset, here, there, offsets):
    """Pairs of numbers of one component: in a block, and in the owner of a part of its layer."""
    axis = offset.index(1)
    layer, owned = here[f"high{axis}"], there[f"low{axis}"]
    _, size = cuts.box(index)
    _, beyond = cuts.box(_moved(index, offset))
    others = [a for a in range(3) if a != axis]
    mine = tuple(slice(size[a], size[a] + 1) if offset[a] else slice(0, size[a]) for a in others)
    theirs = tuple(slice(0, 1) if offset[a] else slice(0, beyond[a]) for a in others)
    pair = np.stack([layer[mine].ravel(), owned[theirs].ravel()], -1).astype(np.int64)
    pair = np.unique(pair[pair[:, 0] > 0], axis=0)
    return pair + np.array([offsets[index], offsets[_moved(index, offset)]])


def _roots(count, pairs):
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    return csgraph.connected_components(graph, directed=False)[1]


def choose(name, parameters, root, sizes, first, marked, background):
    """Which of the blocks' components a step chooses: bool of their number.

    Args:
      name, parameters: of the step.
      root: number of the whole component of each.
      sizes, first, marked: of `label_block`.
      background: places of the blocks' backgrounds.
    """
    count = root.max(initial=-1) + 1
    size = np.bincount(root, sizes, count).astype(np.int64)
    start = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(start, root, first)
    mark = np.zeros(count, bool)
    np.logical_or.at(mark, root, marked)
    outside = np.zeros(count, bool)
    outside[root[background]] = True
    if name == "hysteresis":
        chosen = mark
    elif name == "keep_largest":
        order = np.lexsort((start, -np.where(outside, -1, size)))
        chosen = np.zeros(count, bool)
        chosen[order[: parameters["components"]]] = True
    elif name == "fill_holes":
        chosen = ~mark & (size <= (parameters["voxels"] or size.sum()))
    else:  # remove_small, and mask_empty by it
        chosen = size >= parameters["voxels"]
    return (chosen & ~outside)[root]


def combine(name, mask, chosen):
    """The result of a step, from its mask and the voxels of the chosen components."""
    if name == "fill_holes":
        return mask | chosen
    return mask & ~chosen if name == "mask_empty" else chosen
