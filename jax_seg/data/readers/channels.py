"""The channels of one image in files of their own, as nnU-Net names them: NAME_0000, NAME_0001."""

from pathlib import Path

import numpy as np

from jax_seg.data.readers.contract import block_slices
from jax_seg.data.readers.spacing import differ, in_words


class ChannelsReader:
    """Several readers of one channel as one image."""

    def __init__(self, path, readers):
        """Joins readers in the order of the channels; ValueError where they do not fit together.

        Args:
            path: of the image, as `files.channels_path` writes it.
            readers: of one channel each, two or more.
        """
        self.path, self._readers, self.channels = Path(path), list(readers), len(readers)
        # The first that knows its spacing, so that each of the others is compared with it.
        first = next((reader for reader in readers if reader.spacing), readers[0])
        for other in readers:
            _require_alike(first, other)
        self.shape, self.spacing = first.shape, first.spacing
        self.dtype = np.result_type(*(reader.dtype for reader in readers))
        if self.dtype == np.float64:  # of 32-bit integers beside floats
            self.dtype = np.dtype(np.float32)
        self.notes = tuple(dict.fromkeys(note for reader in readers for note in reader.notes))
        slow = [reader for reader in readers if not reader.random_access]
        self.random_access = not slow
        self.by_slices = all(getattr(reader, "by_slices", True) for reader in slow)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W, C]."""
        block_slices(self, start, size)
        blocks = [reader.read(start, size) for reader in self._readers]
        return np.stack(blocks, -1).astype(self.dtype, copy=False)


def _require_alike(first, other):
    grid = "save all channels of an image on one grid"
    if tuple(first.shape) != tuple(other.shape):
        raise ValueError(
            f"{other.path} has shape {tuple(other.shape)}, but {first.path.name}, a channel of the "
            f"same image, has {tuple(first.shape)}: {grid}."
        )
    if first.spacing and other.spacing and differ(other.spacing, first.spacing):
        raise ValueError(
            f"{other.path} has a spacing of {in_words(other.spacing)}, but {first.path.name}, a "
            f"channel of the same image, one of {in_words(first.spacing)}: {grid}."
        )
