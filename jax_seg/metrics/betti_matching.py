"""Betti numbers of two masks of one block, and how many of their features match.

Betti matching (Stucki et al. 2023, "Topologically faithful image segmentation via induced
matching of persistence barcodes") of two binary masks P and G on the cubical complex whose
vertices are voxels: foreground has value 0 and background 1, every cell takes the largest value
of its corners, and the cells of value 1 enter one by one, ordered by their lowest corner along
axes 0, 1 and 2, then by type (an edge by the axis it runs along, a square by its normal). A
feature of P matches one of G where both end at the same cell, seen in C = P ∪ G.

The cells of value 1 need not be built. The edges, or squares, entered until t and their corners
form a complex Y_t without reduced H_0, or H_1, so by Mayer and Vietoris a class of C has ended at t
exactly when it has a representative in C ∩ Y_t. What remains concerns the foreground alone:

  k = 0: a component of C ends at the first edge that touches it, joining an earlier one;
  k = 1: a loop of C ends at the last `first_square` along it, for the loop in its class for which
         that is earliest;
  k = 2: by Alexander duality a cavity ends at the last of its voxels that is background in C.

For k = 1 let the edges of C come in the order of their first square. The edges outside the
forest that they grow span H_1(C), each square of C being a relation among them, and a loop ends
at its last edge once every relation has been solved for its own last edge (Edelsbrunner and
Harer 2010, "Computational topology", VII.1, the matrix reduction).
"""

import cc3d
import numpy as np

from jax_seg.metrics.elimination import add_sums, nothing
from jax_seg.metrics.loops import TREE, first_square, loops
from jax_seg.ops.jit import jit


def feature_counts(prediction, label):
    """Matched, predicted and labelled features of one block, counted as persistence bars.

    Args:
      prediction: [D, H, W] bool.
      label: [D, H, W] bool.

    Returns:
      [3, 3] int64: for components, loops and cavities the number of matched features, of the
      prediction's and of the label's. Of the components of a mask the first does not count,
      since it never ends.
    """
    masks = [np.reshape(m, _long_axes_last(m.shape)) for m in (prediction, label)]
    parts = [loops(mask) for mask in masks]
    bases = [_independent_loops(part) for part in parts]
    counts = np.zeros((3, 3), np.int64)
    for column, (part, basis) in enumerate(zip(parts, bases, strict=True), start=1):
        components, *higher = _betti_numbers(part, basis)
        counts[:, column] = max(components - 1, 0), *higher
    present = (counts[:, 1:] > 0).all(axis=1)
    if present[0] or present[1]:
        union = loops(masks[0] | masks[1], by_first_square=True)
    if present[0]:
        counts[0, 0] = _matched_components(union, *masks)
    if present[1]:
        counts[1, 0] = _matched_loops(union, parts, bases)
    if present[2]:
        counts[2, 0] = _matched_cavities(*masks)
    return counts


def betti_numbers(mask):
    """Components, loops (tunnels, handles) and cavities of a mask [D, H, W] that is 6-connected.

    Its background is 26-connected, and a cavity does not reach the border.
    """
    part = loops(np.reshape(mask, _long_axes_last(mask.shape)))
    return _betti_numbers(part, _independent_loops(part))


def _betti_numbers(part, basis):
    components = np.count_nonzero(part.component == np.arange(len(part.component)))
    return components, len(basis), part.euler - components + len(basis)


def _long_axes_last(shape):
    """`shape` with its axes of length 1 first, which changes neither raster nor cell order."""
    long = [length for length in shape if length > 1]
    return (1,) * (3 - len(long)) + tuple(long)


def _matched_components(union, prediction, label):
    """Components of the union with voxels of both masks, save each mask's earliest component."""
    voxels = np.flatnonzero(union.number >= 0)
    begins = np.full(len(voxels), np.iinfo(np.int64).max)
    np.minimum.at(begins, union.component, _first_edge(voxels, union.number.shape))
    ends = [np.unique(begins[union.component[mask.flat[voxels]]]) for mask in (prediction, label)]
    return len(np.intersect1d(ends[0][1:], ends[1][1:], assume_unique=True))


def _first_edge(voxels, shape):
    """3 * raster position + axis of the first edge on each voxel; -1 at the origin."""
    _, height, width = shape
    return np.select(
        [voxels >= height * width, voxels >= width, voxels > 0],
        [3 * (voxels - height * width), 3 * (voxels - width) + 1, 3 * (voxels - 1) + 2],
        default=-1,
    )


def _matched_cavities(prediction, label):
    """Cavities of the two masks whose last voxel in the background of both is the same one."""
    outside_both = np.flatnonzero(~(prediction | label))
    lasts = []
    for mask in (prediction, label):
        # The padding joins all background that reaches the border.
        cavity = cc3d.connected_components(np.pad(~mask, 1, constant_values=True), connectivity=26)
        last = np.zeros(cavity.max() + 1, np.int64)
        np.maximum.at(last, cavity[1:-1, 1:-1, 1:-1].flat[outside_both], outside_both)
        last[cavity[0, 0, 0]] = 0
        lasts.append(last[last > 0])
    return len(np.intersect1d(*lasts, assume_unique=True))


def _relations(part):
    """Echelon of the relations among the generators of `part`."""
    used = part.relations >= 0
    start = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return add_sums(nothing(len(part.first)), part.relations[used], start)


def _independent_loops(part):
    """Edges that close a basis of H_1 of `part`."""
    return part.first[_relations(part).owner < 0]


def _matched_loops(union, parts, bases):
    """Loops of both masks that end at the same square."""
    voxels = np.flatnonzero(union.number >= 0)
    square = first_square(union.place[union.first], voxels, union.number.shape)
    relations = _relations(union)
    ends = []
    for part, basis in zip(parts, bases, strict=True):
        inside = union.number[part.number >= 0]
        generator = np.where(part.edge >= TREE, union.generator[union.edge[inside]], -1)
        terms, start = _loops_as_sums(part.number, part.edge, generator, part.place[basis])
        with_loops = add_sums(relations, terms, start)
        ends.append(np.unique(square[(with_loops.owner >= 0) & (relations.owner < 0)]))
    return len(np.intersect1d(*ends, assume_unique=True))


@jit
def _loops_as_sums(number, edge, generator, places):
    """Write the loops that edges close through a forest as sums of generators.

    Args:
      number: [D, H, W], `edge`: [V, 3], of the mask whose loops they are.
      generator: [V, 3] generator that an edge stands for, -1 for zero.
      places: [L] 3 * voxel + axis of the closing edges.

    Returns:
      terms, start: as of Echelon, a generator possibly more than once in a sum.
    """
    stride = (number.shape[1] * number.shape[2], number.shape[2], 1)
    flat = number.ravel()
    voxels = np.flatnonzero(flat >= 0)
    # Tree edges that stand for zero are contracted: `piece` is the root of what hangs together,
    # `above` the voxel over that root, `crossing` the generator between, `level` their number.
    piece = np.full(len(voxels), -1)
    above = np.full(len(voxels), -1)
    crossing = np.full(len(voxels), -1)
    level = np.zeros(len(voxels), np.int64)
    stack = np.empty(len(voxels), np.int64)
    for root in range(len(voxels)):
        if piece[root] >= 0:
            continue
        piece[root], stack[0], height = root, root, 1
        while height:
            height -= 1
            i = stack[height]
            for axis in range(3):
                for step in (-stride[axis], stride[axis]):
                    position = voxels[i] + step
                    if not 0 <= position < len(flat) or flat[position] < 0:
                        continue
                    j = flat[position]
                    lower = min(i, j)
                    # A neighbour in memory across the border has no edge in the forest.
                    if edge[lower, axis] != TREE or piece[j] >= 0:
                        continue
                    passed = generator[lower, axis]
                    piece[j] = piece[i] if passed < 0 else j
                    if passed >= 0:
                        above[j], crossing[j], level[j] = i, passed, level[piece[i]] + 1
                    stack[height] = j
                    height += 1
    terms, start = [np.int64(0) for _ in range(0)], np.zeros(len(places) + 1, np.int64)
    for k in range(len(places)):
        i, axis = places[k] // 3, places[k] % 3
        j = flat[voxels[i] + stride[axis]]
        if generator[i, axis] >= 0:
            terms.append(generator[i, axis])
        i, j = piece[i], piece[j]
        while i != j:
            if level[i] < level[j]:
                i, j = j, i
            terms.append(crossing[i])
            i = piece[above[i]]
        start[k + 1] = len(terms)
    return np.array(terms, np.int64), start
