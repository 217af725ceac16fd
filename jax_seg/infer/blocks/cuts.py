"""How a volume is cut into blocks, and which blocks a region touches."""

import itertools
import math
import re
from typing import NamedTuple


class Cuts(NamedTuple):
    """A volume cut into blocks from its first voxel on; the last along an axis may be smaller.

    Attributes:
      shape: of the volume.
      block: voxels of a block along each axis.
    """

    shape: tuple
    block: tuple

    @property
    def counts(self):
        """Blocks along each axis."""
        return tuple(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))

    @property
    def spans(self):
        """For each axis a tuple of the (start, stop) of its blocks."""
        return tuple(
            tuple((a, min(a + b, n)) for a in range(0, n, b))
            for n, b in zip(self.shape, self.block, strict=True)
        )

    def box(self, index):
        """(start, size) of a block, in voxels."""
        start = tuple(i * b for i, b in zip(index, self.block, strict=True))
        size = (min(b, n - a) for a, b, n in zip(start, self.block, self.shape, strict=True))
        return start, tuple(size)

    def around(self, index, halo):
        """(start, size) of a block with `halo` voxels around it, as far as the volume reaches."""
        start, size = self.box(index)
        first = tuple(max(a - h, 0) for a, h in zip(start, halo, strict=True))
        stop = (min(a + s + h, n) for a, s, h, n in zip(start, size, halo, self.shape, strict=True))
        return first, tuple(b - a for a, b in zip(first, stop, strict=True))

    def touching(self, start, size):
        """The indices of the blocks that hold voxels of [start, start + size), in raster order."""
        ranges = (
            range(a // b, -(-min(a + s, n) // b))
            for a, s, b, n in zip(start, size, self.block, self.shape, strict=True)
        )
        return itertools.product(*ranges)

    def coarser(self):
        """The volume at half the resolution, in blocks of the same size."""
        return self._replace(shape=tuple(-(-n // 2) for n in self.shape))


def levels_of(cuts):
    """The `Cuts` of the levels of a pyramid, finest first; the coarsest fits into one block."""
    found = [cuts]
    while math.prod(found[-1].counts) > 1:
        found.append(found[-1].coarser())
    return found


def parse_region(text, shape):
    """(start, size) of 'z0:z1,y0:y1,x0:x1'; a missing number means the volume's border.

    Raises:
      ValueError: another form, or not inside a volume of this shape.
    """
    advice = "write z0:z1,y0:y1,x0:x1 in voxels"
    fields = text.replace(" ", "").split(",")
    if len(fields) != 3 or not all(re.fullmatch(r"\d*:\d*", field) for field in fields):
        raise ValueError(f"--region is '{text}': {advice}, as 0:512,:,1024:2048.")
    spans = []
    for field, length in zip(fields, shape, strict=True):
        low, high = field.split(":")
        spans.append((int(low or 0), int(high or length)))
    if not all(0 <= a < b <= n for (a, b), n in zip(spans, shape, strict=True)):
        raise ValueError(
            f"--region {text} is not inside the volume, which has {shape} voxels (z, y, x): "
            f"{advice}, first voxel included and last excluded."
        )
    return tuple(a for a, _ in spans), tuple(b - a for a, b in spans)
