"""Zarr arrays, and level 0 of OME-Zarr images."""

import functools
import json
from pathlib import Path

import tensorstore

from jax_seg.data.readers.contract import block_slices, check_axes, damaged, decoded_dtype, finished

CACHE_BYTES = 256 * 2**20  # decoded chunks kept, over all Zarr volumes of a process


def is_zarr(path):
    """Whether `path` is the folder of a Zarr array or group."""
    return any((Path(path) / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


class ZarrReader:
    """One Zarr array, or level 0 of an OME-Zarr image; leading axes of length 1 are dropped."""

    random_access = True

    def __init__(self, path):
        self.path = Path(path)
        driver, array = _zarr_array(self.path)
        spec = {
            "driver": driver,
            "kvstore": {"driver": "file", "path": str(array.absolute())},
            "recheck_cached_data": "open",
        }
        try:
            store = tensorstore.open(spec, open=True, read=True, context=_zarr_context()).result()
        except ValueError as error:
            raise damaged(path, error) from error
        shape = check_axes(path, store.shape)
        self.shape = shape[-3:]
        self.dtype = decoded_dtype(path, store.dtype.numpy_dtype)
        self._store = store[(0,) * (len(shape) - 3)]

    def __reduce__(self):
        # By path: a tensorstore would bring a second cache pool into the worker.
        return ZarrReader, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W]."""
        window = block_slices(self, start, size)
        try:
            voxels = self._store[window].read().result()
        except (ValueError, OSError) as error:
            raise damaged(self.path, error) from error
        return finished(self, voxels, start)


def _zarr_array(path):
    """(tensorstore driver, folder of the array) of a Zarr folder, OME-Zarr's level 0 included."""
    v3 = _read_json(path / "zarr.json")
    if (path / ".zarray").is_file():
        return "zarr", path
    if v3.get("node_type") == "array":
        return "zarr3", path
    attributes = v3.get("attributes", {}) if v3 else _read_json(path / ".zattrs")
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if multiscales:
        try:
            level = path / multiscales[0]["datasets"][0]["path"]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"{path} has OME-Zarr multiscales that name no dataset: write its metadata again."
            ) from error
        if is_zarr(level):
            return ("zarr" if (level / ".zarray").is_file() else "zarr3"), level
        raise ValueError(
            f"{path} names {level.name} as its OME-Zarr level 0 but no array is there: copy it "
            "again."
        )
    if is_zarr(path):
        raise ValueError(
            f"{path} is a Zarr group without OME-Zarr multiscales: give the path of the array "
            "inside it."
        )
    raise ValueError(f"{path} is a folder without a Zarr array: give a TIFF stack or a Zarr array.")


def _read_json(path):
    """The object in a JSON file, or {} where there is none."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise damaged(path, error) from error


@functools.cache
def _zarr_context():
    return tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
