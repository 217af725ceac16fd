"""A folder of numbered 2-D TIFF files: the slices of one volume."""

import itertools
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np

from jax_seg.data.names import SHOWN, shown
from jax_seg.data.readers.contract import block_slices
from jax_seg.data.readers.tiff import TiffReader

_TIFF = re.compile(r"\.tiff?$", re.IGNORECASE)
_TRIED = 3  # files of a folder whose headers are looked at, for one that can be read


def is_folder_of_slices(path):
    """Whether `path` is a folder of 2-D TIFF files whose names differ in one number only.

    Looks at names and at the header of one file. Gaps in the numbers, and files that cannot be
    read, are left to the reader to reject.
    """
    files = _tiff_files(path)
    if len(files) < 2 or _numbers(files) is None:
        return False
    for file in files[:_TRIED]:
        try:
            return TiffReader(file, plane=True).shape[0] == 1
        except ValueError:
            continue
    return False


class SlicesReader:
    """A folder of slices, in the order of their numbers; only those of a block are read.

    All must match the first in shape and dtype, which is checked as they are read.
    """

    by_slices = True

    def __init__(self, path):
        self.path = Path(path)
        self._files = _in_order(self.path)
        first = TiffReader(self._files[0], plane=True)
        if first.shape[0] != 1:
            raise ValueError(
                f"{path} is a folder of volumes, {self._files[0].name} of shape {first.shape} among"
                " them: give the path of one of them."
            )
        self._opened = {0: first}
        self.shape = (len(self._files), *first.shape[1:])
        self.dtype, self.notes = first.dtype, first.notes
        self.spacing = None  # a slice does not know how far the next one is
        self.random_access = first.random_access

    def __reduce__(self):
        return SlicesReader, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W]."""
        depth, *plane = block_slices(self, start, size)
        first = (0, *(part.start for part in plane))
        shape = (1, *size[1:])
        return np.concatenate(
            [self._slice(number).read(first, shape) for number in range(depth.start, depth.stop)]
        )

    def _slice(self, number):
        if number not in self._opened:
            opened, first = TiffReader(self._files[number], plane=True), self._opened[0]
            if (opened.shape, opened.dtype) != (first.shape, first.dtype):
                raise ValueError(
                    f"{opened.path} is {opened.dtype} of shape {opened.shape}, but the first slice "
                    f"{first.path.name} is {first.dtype} of shape {first.shape}: all slices of a "
                    "volume must match."
                )
            self._opened[number] = opened
        return self._opened[number]


def _tiff_files(folder):
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if _TIFF.search(e.name) and not e.name.startswith(".")]
    return [Path(folder) / name for name in sorted(names)]


def _numbers(files):
    """The number of each file, in which alone their names differ; None where there is no such."""
    names = [re.split(r"(\d+)", file.stem) for file in files]
    if len({tuple(name[::2]) for name in names}) > 1:
        return None
    columns = [list(map(int, column)) for column in list(zip(*names, strict=True))[1::2]]
    differing = [column for column in columns if len(set(column)) > 1]
    return differing[0] if len(differing) == 1 else None


def _in_order(folder):
    """The files of a folder of slices by their numbers, which must run without a gap."""
    files = _tiff_files(folder)
    numbers = _numbers(files) if files else None
    if numbers is None:
        raise ValueError(
            f"{folder} is a folder without a Zarr array and without TIFF slices whose names differ "
            "in one number: give a TIFF stack, a Zarr array or a folder of slices."
        )
    if repeated := [number for number, count in Counter(numbers).items() if count > 1]:
        same = [
            file.name for file, number in zip(files, numbers, strict=True) if number in repeated
        ]
        raise ValueError(
            f"{folder} has several slices of one number, {shown(same)}: keep one of each."
        )
    low, high, present = min(numbers), max(numbers), set(numbers)
    if count := high - low + 1 - len(present):
        missing = itertools.islice((n for n in range(low, high) if n not in present), SHOWN + 1)
        raise ValueError(
            f"{folder} lacks {count} of the slices {low} to {high}, number {shown(list(missing))}: "
            "copy the missing files."
        )
    return [file for _, file in sorted(zip(numbers, files, strict=True))]
