"""Loops of a mask: the edges outside a spanning forest, and the relations that squares put on them.

The core of `betti_matching`, which explains what is computed and why. A mask is a cubical
complex with its foreground voxels as vertices, numbered in raster order; an edge or a square
belongs to its lowest voxel. Chains are modulo two. An axis of length 1 comes before longer ones.
"""

from typing import NamedTuple

import numpy as np

from jax_seg.ops.jit import jit

ABSENT, TREE = -1, 0


class Loops(NamedTuple):
    """Generators of H_1 of a mask, and the relations still to be solved among them.

    Attributes:
      number: [D, H, W] number of a foreground voxel, -1 in the background.
      component: [V] number of one voxel of the component, the same for all of its voxels.
      edge: [V, 3] what the edge from a voxel along an axis is: -1 absent, 0 in the forest, or its
        number outside the forest, from 1 on and in the order in which edges came.
      place: [E + 1] 3 * voxel + axis of these edges.
      generator: [E + 1] the generator that closing the edge through the forest gives, -1 for zero.
      first: [N] edge that stands for a generator, increasing.
      relations: [R, 4] generators whose sum is zero, three or four of them; -1 fills up.
      euler: Euler characteristic.
    """

    number: np.ndarray
    component: np.ndarray
    edge: np.ndarray
    place: np.ndarray
    generator: np.ndarray
    first: np.ndarray
    relations: np.ndarray
    euler: int


def loops(mask, by_first_square=False):
    """Find generators of the first homology of a mask, nearly a basis.

    Args:
      mask: [D, H, W] bool.
      by_first_square: let the edges come in the order of `first_square`; else in raster order.

    Returns:
      Loops.
    """
    voxels = np.flatnonzero(mask)
    number = np.full(mask.shape, ABSENT, np.int32)
    number.flat[voxels] = np.arange(len(voxels))
    place, upper = _edges(number, voxels)
    if by_first_square:
        order = np.argsort(first_square(place, voxels, mask.shape), kind="stable")
        place, upper = place[order], upper[order]
    component, edge, outside = _forest(len(voxels), place, upper)
    same, relations, squares, cubes = _relate(number, voxels, edge, len(outside))
    stands = same == np.arange(len(same))
    stands[TREE] = False
    generator = np.where(stands, np.cumsum(stands) - 1, -1)[same]
    return Loops(
        number=number,
        component=component,
        edge=edge,
        place=outside,
        generator=generator,
        first=np.flatnonzero(stands),
        relations=generator[relations],
        euler=len(voxels) - len(place) + squares - cubes,
    )


def first_square(place, voxels, shape):
    """The first square on each edge, in the order of their lowest voxel, then of their normal.

    Args:
      place: [E] 3 * voxel + axis.
      voxels: [V] raster positions of the voxels in `shape`.

    Returns:
      [E] 3 * raster position + axis of the normal.
    """
    _, height, width = shape
    axis, position = place % 3, voxels[place // 3]
    z, y, x = np.unravel_index(position, shape)
    along_z = np.where(y > 0, 3 * (position - width) + 2, 3 * (position - (x > 0)) + 1)
    along_y = np.where(z > 0, 3 * (position - height * width) + 2, 3 * (position - (x > 0)))
    along_x = np.where(z > 0, 3 * (position - height * width) + 1, 3 * (position - width * (y > 0)))
    return np.choose(axis, [along_z, along_y, along_x])


@jit
def find(parent, i):
    """Representative of i, halving the path to it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@jit
def join(parent, i, j):
    """Unite two sets under the smaller representative; returns whether they were separate."""
    i, j = find(parent, i), find(parent, j)
    parent[max(i, j)] = min(i, j)
    return i != j


@jit
def _edges(number, voxels):
    """(3 * voxel + axis [E], the upper voxel's number [E]) of all edges in raster order."""
    depth, height, width = number.shape
    place = np.empty(3 * len(voxels), np.int64)
    upper = np.empty(3 * len(voxels), np.int32)
    count = 0
    for i in range(len(voxels)):
        y, x = voxels[i] // width, voxels[i] % width
        z, y = y // height, y % height
        for axis in range(3):
            u, v, w = z + (axis == 0), y + (axis == 1), x + (axis == 2)
            if u < depth and v < height and w < width and number[u, v, w] >= 0:
                place[count], upper[count] = 3 * i + axis, number[u, v, w]
                count += 1
    return place[:count].copy(), upper[:count].copy()


@jit
def _forest(voxels, place, upper):
    """Kruskal's forest of the edges in their order: `component`, `edge` and `place` of Loops."""
    component = np.arange(voxels)
    edge = np.full((voxels, 3), ABSENT, np.int32)
    outside = np.full(len(place) + 1, ABSENT, np.int64)
    count = 0
    for k in range(len(place)):
        voxel, axis = place[k] // 3, place[k] % 3
        if join(component, voxel, upper[k]):
            edge[voxel, axis] = TREE
        else:
            count += 1
            edge[voxel, axis], outside[count] = count, place[k]
    for i in range(voxels):
        component[i] = find(component, i)
    return component, edge, outside[: count + 1].copy()


@jit
def _relate(number, voxels, edge, edges):
    """Let every square relate its edges, and solve relations with one or two unknowns.

    The face of a cube with the highest z follows from the other five, so it is skipped.

    Returns:
      same: [edges] the first edge that an edge equals, 0 for zero.
      relations: [R, 4] representatives whose sum is zero, filled up with 0.
      squares, cubes: how many the mask has.
    """
    _, height, width = number.shape
    same = np.arange(edges)
    implied = np.zeros(len(voxels), np.bool_)
    pending = np.empty((64, 4), np.int64)
    count = squares = cubes = 0
    terms = np.empty(4, np.int64)
    for i in range(len(voxels)):
        y, x = voxels[i] // width, voxels[i] % width
        z, y = y // height, y % height
        found = 0
        for normal in range(3):
            # The two axes that a square spans, and the voxels next to its lowest along them.
            a, b = 0 if normal else 1, 1 if normal == 2 else 2
            if edge[i, a] == ABSENT or edge[i, b] == ABSENT:
                continue
            next_a = number[z + (a == 0), y + (a == 1), x]
            next_b = number[z, y + (b == 1), x + (b == 2)]
            if edge[next_a, b] == ABSENT:
                continue
            found += 1
            if normal == 0 and implied[i]:
                continue
            sides = (edge[i, a], edge[i, b], edge[next_a, b], edge[next_b, a])
            if not _solve(same, sides, terms):
                if count == len(pending):
                    pending = np.concatenate((pending, np.empty_like(pending)))
                pending[count] = terms
                count += 1
        squares += found
        if found == 3 and edge[number[z + 1, y + 1, x], 2] != ABSENT:
            cubes += 1
            implied[number[z + 1, y, x]] = True
    before = count + 1
    while count < before:
        before, count = count, 0
        for k in range(before):
            sides = (pending[k, 0], pending[k, 1], pending[k, 2], pending[k, 3])
            if not _solve(same, sides, terms):
                pending[count] = terms
                count += 1
    for k in range(edges):
        same[k] = find(same, k)
    return same, pending[:count].copy(), squares, cubes


@jit
def _solve(same, sides, terms):
    """Use the relation that the four sides add up to zero; False where it has over two unknowns.

    `terms` then holds the unknowns, filled up with 0.
    """
    count = 0
    for side in sides:
        unknown = find(same, side)
        for k in range(count):
            if terms[k] == unknown:
                count -= 1
                terms[k] = terms[count]
                break
        else:
            if unknown != TREE:
                terms[count] = unknown
                count += 1
    terms[count:] = TREE
    if count == 1:
        same[terms[0]] = TREE
    elif count == 2:
        join(same, terms[0], terms[1])
    return count <= 2
