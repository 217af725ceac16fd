"""Zarr arrays, and the finest level of OME-Zarr images."""

import functools
import warnings
from pathlib import Path

import tensorstore

from jax_seg.data.readers import remote, spacing
from jax_seg.data.readers.axes import find_axes
from jax_seg.data.readers.contract import block_slices, damaged, decoded_dtype, finished
from jax_seg.data.readers.zarr_chunks import check_chunks
from jax_seg.data.readers.zarr_metadata import find_array

CACHE_BYTES = 128 * 2**20  # decoded chunks kept, over all Zarr volumes of a process


class ZarrReader:
    """One Zarr array, or the finest level of an OME-Zarr image.

    tensorstore reads; zarr-python reads arrays whose codec or filter tensorstore lacks.
    """

    random_access = True

    def __init__(self, path, notes=None):
        """Opens the Zarr folder or address `path`; with the `notes` of a reader that has checked
        its chunks, they are not checked again."""
        self.path = remote.Address(path) if remote.is_address(path) else Path(path)
        array = find_array(self.path)
        self._axes = find_axes(path, array.shape, array.names, channels=True)
        self._store, dtype = _open(self.path, array)
        self.dtype = decoded_dtype(path, dtype)
        self.shape = tuple(array.shape[axis] for axis in self._axes.zyx)
        if self._axes.channel is not None:
            self.channels = array.shape[self._axes.channel]
        self.spacing = self.unit = None
        if array.scale and len(array.scale) == self._axes.rank:
            scale, units = (
                [f[axis] for axis in self._axes.zyx] for f in (array.scale, array.units)
            )
            self.spacing = spacing.in_micrometres(scale, units)
            self.unit = spacing.unit_of(units)
        self.metadata = array.metadata
        if notes is None:
            listed = isinstance(self.path, Path)  # a server is not asked for each of its chunks
            notes = array.notes + (check_chunks(path, array) if listed else ())
        self.notes = notes

    def __reduce__(self):
        # By path: a tensorstore would bring a second cache pool into the worker.
        return ZarrReader, (self.path, self.notes)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W] or [D, H, W, C]."""
        index = self._axes.index(block_slices(self, start, size))
        try:
            voxels = self._store(index)
        except Exception as error:  # each library and codec has its own
            raise damaged(self.path, error) from error
        return finished(self, self._axes.to_zyx(voxels), start)


def _open(path, array):
    """(function from an index to voxels, stored dtype) of an array."""
    spec = {
        "driver": "zarr" if array.version == 2 else "zarr3",
        "kvstore": _kvstore(array.folder),
        "recheck_cached_data": "open",
    }
    try:
        store = tensorstore.open(spec, open=True, read=True, context=_zarr_context()).result()
    except ValueError as refusal:
        return _open_with_zarr_python(path, array, refusal)
    return lambda index: store[index].read().result(), store.dtype.numpy_dtype


def _kvstore(folder):
    if isinstance(folder, remote.Address):
        return folder.store()
    return {"driver": "file", "path": str(folder.absolute())}


def _open_with_zarr_python(path, array, refusal):
    """As `_open`, for an array that tensorstore rejected."""
    import zarr  # imported here because it is slow to import and seldom needed

    # On codecs that version 3 of the standard does not list. It stays, since a filter that is set
    # for a while is set, and taken back, for every thread.
    warnings.filterwarnings("ignore", category=zarr.errors.ZarrUserWarning)
    try:
        unknown = [name for name in _codecs(array) if not _is_known(name, array.version)]
        opened = None if unknown else zarr.open_array(str(array.folder), mode="r")
    except Exception as error:  # invalid metadata breaks it in many ways
        raise damaged(path, refusal) from error
    if unknown:
        raise ValueError(
            f"{path} is encoded with {unknown[0]}, which neither tensorstore nor zarr-python "
            "reads: write it with blosc, gzip or zstd."
        ) from refusal
    return lambda index: opened[index], opened.dtype


def _codecs(array):
    """The names of all codecs and filters in an array's metadata."""
    metadata = array.metadata
    if array.version == 2:
        codecs = [*(metadata.get("filters") or []), metadata.get("compressor")]
        return [codec["id"] for codec in codecs if codec]
    return _names(metadata["codecs"])


def _names(codecs):
    names = []
    for codec in codecs:
        names.append(codec["name"])
        names += _names(codec.get("configuration", {}).get("codecs", []))  # inside a shard
    return names


def _is_known(codec, version):
    from zarr.registry import get_codec_class, get_numcodec

    try:
        get_numcodec({"id": codec}) if version == 2 else get_codec_class(codec)
    except TypeError:  # it is known, and needs its parameters
        return True
    except (KeyError, ValueError):
        return False
    return True


@functools.cache
def _zarr_context():
    return tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}, **remote.CONTEXT})
