"""Read one 3-D volume: TIFF stacks, Zarr and OME-Zarr, behind one contract.

A reader has `path`, `shape` (D, H, W), `dtype`, `random_access` and `read(start, size)`. Opening
one looks at headers only; `read` decodes. Readers pickle by their path and so travel to workers.
"""

import math

from jax_seg.data.readers.tiff import TiffReader
from jax_seg.data.readers.zarr import ZarrReader
from jax_seg.system import memory
from jax_seg.system.files import existing


def open_volume(path):
    """Opens a TIFF file or a Zarr folder as a reader without decoding a voxel.

    Args:
        path: a TIFF (any compression, BigTIFF, ImageJ) or a folder with a Zarr v2 or v3 array, or
            an OME-Zarr image, of which level 0 is read.

    Returns:
        A reader. `shape` is (D, H, W); `dtype` is what `read` returns: the file's own in native
        byte order, except bool as uint8 and float64 as float32. `read(start, size)` returns the
        [size] voxels from `start`, possibly a read-only view. `random_access` says whether a small
        read costs little; a compressed TIFF decodes whole pages.

    Raises:
        FileNotFoundError: nothing at `path`.
        ValueError: not a volume, damaged, or of an unsupported type; from `read` too, when voxels
            cannot be decoded or are NaN or infinite.
    """
    path = existing(path)
    return ZarrReader(path) if path.is_dir() else TiffReader(path)


def read_volume(path):
    """All voxels of a volume [D, H, W], as its reader gives them; errors as of `open_volume`."""
    return read_whole(open_volume(path))


def read_whole(reader):
    """All voxels of a reader's volume [D, H, W].

    Raises:
        ValueError: they cannot be decoded, or memory cannot hold them.
    """
    memory.require(math.prod(reader.shape) * reader.dtype.itemsize, reader.path, "read it")
    return reader.read((0, 0, 0), reader.shape)


def check_pair(image_reader, label_reader):
    """Raises ValueError unless an image and its label have the same [D, H, W]."""
    if tuple(image_reader.shape) != tuple(label_reader.shape):
        raise ValueError(
            f"{label_reader.path} has shape {tuple(label_reader.shape)} but its image "
            f"{image_reader.path} has {tuple(image_reader.shape)}: a label must cover its image "
            "voxel by voxel."
        )
