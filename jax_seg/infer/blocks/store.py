"""An OME-Zarr image that is written block by block: a block is one shard, or whole chunks.

Version 0.5 of OME-Zarr is Zarr v3, in which a block of voxels is one file, a shard, with its chunks
inside; version 0.4 is Zarr v2, in which each chunk is a file. Tensorstore writes a file beside its
place and renames it. Blocks of zeros are written too: a block without a file has not been computed.
See https://ngff.openmicroscopy.org/0.5 and https://zarr-specs.readthedocs.io.
"""

import functools
import hashlib
import itertools
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorstore

from jax_seg.infer.blocks.cuts import Cuts, levels_of
from jax_seg.infer.part import box
from jax_seg.system.files import ADVICE, read_json, unwritable, write_json
from jax_seg.system.outputs import written_by

VERSIONS = ("0.5", "0.4")
LOCKS = "*.__lock"  # that tensorstore leaves where its process is killed
MARK = {"jax_seg": {"origin": written_by("predict")}}
HALVED = {
    "mean": "Each voxel is the mean of the eight finer ones.",
    "maximum": "Each voxel is the largest of the eight finer ones.",
    "mode": "Each voxel has the most frequent label value of the eight finer ones, ignoring 0.",
}
_INDEX = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


class Level(NamedTuple):
    """One array of blocks on the disk.

    Attributes:
      folder: of the array, as text.
      cuts: its shape and blocks.
      chunk: voxels of a chunk along each axis.
      dtype: its name.
      version: of OME-Zarr.
    """

    folder: str
    cuts: Cuts
    chunk: tuple
    dtype: str
    version: str

    def read(self, start, size):
        """The voxels of a box; blocks that are not there are zero."""
        return _open(self)[box(start, size)].read().result()

    def write(self, index, voxels):
        """Write a block, as whole files.

        Raises:
          OSError: the disk is full, or it is no longer there.
        """
        start, size = self.cuts.box(index)
        # Without the folder, as where a network share has gone, it would be created somewhere else.
        if not Path(self.folder).is_dir():
            raise FileNotFoundError(
                f"{self.folder} is no longer there: mount it again, then run the same command."
            )
        try:
            # A file that was cut off would be read, and refused, to keep what the block leaves out.
            for path in self.files(index):
                path.unlink(missing_ok=True)
            _open(self)[box(start, size)].write(voxels).result()
        except ValueError as error:  # how tensorstore reports every fault of a file system
            raise unwritable(self.folder, _as_os_error(error)) from error
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def record(self, index):
        """{'bytes', 'blake2b'} of a block's files together; None where one is missing."""
        digest, total = hashlib.blake2b(digest_size=16), 0
        for path in self.files(index):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                return None
            digest.update(content)
            total += len(content)
        return {"bytes": total, "blake2b": digest.hexdigest()}

    def files(self, index):
        """The files of a block."""
        if self.version == "0.5":
            return [Path(self.folder, "c", *map(str, index))]
        start, size = self.cuts.box(index)
        chunks = (
            range(a // c, -(-(a + s) // c)) for a, s, c in zip(start, size, self.chunk, strict=True)
        )
        return [Path(self.folder, *map(str, one)) for one in itertools.product(*chunks)]

    def create(self):
        """Create the array, unless it is there."""
        _open.cache_clear()  # one of this name may have been removed
        _open(self, create=True)


def _as_os_error(error):
    """The OSError that a message of tensorstore's names; one with its first words otherwise."""
    text = str(error)
    for number in ADVICE:
        if os.strerror(number) in text:
            return OSError(number, os.strerror(number))
    return OSError(text.partition(" [")[0])


@functools.lru_cache(64)
def _open(level, create=False):
    spec = {
        "driver": "zarr3" if level.version == "0.5" else "zarr",
        # Records hold checksums, and the whole is flushed at its end: no block waits for the disk.
        "kvstore": {"driver": "file", "path": level.folder, "file_io_sync": "file_io_sync"},
        "context": {"file_io_sync": False},
        "metadata": _metadata(level),
        "create": create,
        "open": True,
        "store_data_equal_to_fill_value": True,
        "recheck_cached_data": True,
    }
    return tensorstore.open(spec).result()


def _metadata(level):
    dtype = np.dtype(level.dtype)
    if level.version == "0.4":
        return {
            "shape": level.cuts.shape,
            "chunks": level.chunk,
            "dtype": dtype.str,
            "compressor": {"id": "zstd", "level": 3},
            "fill_value": 0,
            "order": "C",
            "dimension_separator": "/",
            "filters": None,
        }
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs = [
        little if dtype.itemsize > 1 else {"name": "bytes"},
        {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
    ]
    sharding = {
        "chunk_shape": level.chunk,
        "codecs": codecs,
        "index_codecs": _INDEX,
        "index_location": "end",
    }
    return {
        "shape": level.cuts.shape,
        "data_type": level.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": level.cuts.block}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["z", "y", "x"],
    }


def pyramid(folder, cuts, *, chunk, dtype, version):
    """The `Level`s of an image, finest first, in folders named by number."""
    return [
        Level(str(Path(folder).absolute() / str(number)), one, tuple(chunk), dtype, version)
        for number, one in enumerate(levels_of(cuts))
    ]


def create(folder, levels, *, spacing, unit, top, halved):
    """Write the metadata of an image and of its levels, without a block; the image's last.

    Args:
      folder: of the image.
      levels: of `pyramid`.
      spacing: (z, y, x) between the finest voxels, in `unit`; None for voxels of 1.
      unit: name of the unit, such as 'micrometer', or None.
      top: the largest value, for the contrast of viewers.
      halved: of HALVED, how a level is made of the finer one.
    """
    folder, version = Path(folder), levels[0].version
    for level in levels:
        level.create()
    axes = [{"name": name, "type": "space"} | ({"unit": unit} if unit else {}) for name in "zyx"]
    datasets = [
        {"path": str(number), "coordinateTransformations": _placed(spacing or (1.0,) * 3, number)}
        for number in range(len(levels))
    ]
    image = {
        "name": folder.name.removesuffix(".zarr"),
        "axes": axes,
        "datasets": datasets,
        "type": halved,
        "metadata": {"description": HALVED[halved]},
    }
    window = {"min": 0, "start": 0, "end": top, "max": top}
    channel = {"color": "FFFFFF", "window": window, "active": True, "label": "prediction"}
    omero = {"channels": [channel], "rdefs": {"model": "greyscale"}}
    if version == "0.5":
        ome = {"version": version, "multiscales": [image], "omero": omero}
        attributes = {"ome": ome, **MARK}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        write_json(folder / "zarr.json", group)
    else:
        image = {"version": version, **image}
        write_json(folder / ".zattrs", {"multiscales": [image], "omero": omero, **MARK})
        write_json(folder / ".zgroup", {"zarr_format": 2})


def _placed(spacing, number):
    """Scale and translation of a level: its first voxel's centre lies amid the finest ones."""
    factor = 2**number
    scale = {"type": "scale", "scale": [factor * s for s in spacing]}
    if not number:
        return [scale]
    shift = [(factor - 1) / 2 * s for s in spacing]
    return [scale, {"type": "translation", "translation": shift}]


def is_own(folder):
    """Whether a folder is an image that `create` began or wrote."""
    for name in ("zarr.json", ".zattrs"):
        path = Path(folder) / name
        if path.is_file():
            content = read_json(path)
            return content.get("attributes", content).get("jax_seg") == MARK["jax_seg"]
    return False


def remove_locks(folder):
    """Remove the locks of processes that were killed; no other may be writing."""
    for path in Path(folder).rglob(LOCKS):
        path.unlink(missing_ok=True)


def remove(folder):
    """Remove an image of `create`."""
    shutil.rmtree(folder, ignore_errors=True)
