"""Read one 3-D volume: TIFF stacks, Zarr and OME-Zarr, behind one contract.

A reader has `path`, `shape` (D, H, W), `dtype`, `random_access` and `read(start, size)`. Opening
one looks at headers only; `read` decodes. Readers pickle by their path and so travel to workers.
"""

import functools
import json
import os
import struct
from pathlib import Path

import numpy as np
import tensorstore
import tifffile

ZARR_CACHE_BYTES = 256 * 2**20  # decoded chunks kept, over all Zarr volumes of a process


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


def existing(path):
    """`path` as a Path, or FileNotFoundError."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: check the path.")
    return path


def is_zarr(path):
    """Whether `path` is the folder of a Zarr array or group."""
    return any((Path(path) / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def check_pair(image_reader, label_reader):
    """Raises ValueError unless an image and its label have the same [D, H, W]."""
    if tuple(image_reader.shape) != tuple(label_reader.shape):
        raise ValueError(
            f"{label_reader.path} has shape {tuple(label_reader.shape)} but its image "
            f"{image_reader.path} has {tuple(image_reader.shape)}: a label must cover its image "
            "voxel by voxel."
        )


def block_slices(reader, start, size):
    """The slices of the block [start, start + size); ValueError where it leaves the volume."""
    window = tuple(slice(int(a), int(a) + int(n)) for a, n in zip(start, size, strict=True))
    if len(window) != 3 or not all(
        0 <= part.start < part.stop <= length
        for part, length in zip(window, reader.shape, strict=True)
    ):
        raise ValueError(
            f"{reader.path} has shape {reader.shape}, so a block of {tuple(size)} voxels at "
            f"{tuple(start)} is not inside it: ask for a block inside the volume."
        )
    return window


def stamp(path):
    """[files, bytes, newest time in nanoseconds] of a file or folder: another when it changes."""
    path = Path(path)
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    status = [file.stat() for file in files]
    return [
        len(files),
        sum(s.st_size for s in status),
        max((s.st_mtime_ns for s in status), default=0),
    ]


class TiffReader:
    """One TIFF stack; reopened at every read, so that it holds no file and pickles.

    Leading axes of length 1 are dropped. `by_slices` says whether slices are read one by one:
    otherwise a part costs as much as the whole.
    """

    def __init__(self, path):
        self.path = Path(path)
        size = self.path.stat().st_size
        if size == 0:
            raise ValueError(f"{path} is an empty file: copy it again.")
        # A damaged header breaks tifffile in many ways, so everything is caught and named.
        try:
            with tifffile.TiffFile(path) as tiff:
                complete = _is_complete(tiff, size)
                if complete:
                    shapes = [series.shape for series in tiff.series]
                    series = tiff.series[0]
                    axes, pages = series.axes, list(series.pages)
                    self._stored_dtype = series.dtype.newbyteorder(tiff.byteorder)
                    self._offset = series.dataoffset  # None when compressed or scattered
                    complete = not self._offset or self._offset + series.nbytes <= size
        except Exception as error:
            raise ValueError(
                f"{path} is not a readable TIFF file ({error}): give a TIFF stack or a Zarr folder."
            ) from error
        if not complete:
            raise ValueError(f"{path} is truncated, its last pages are missing: copy it again.")
        if "S" in axes:
            raise ValueError(
                f"{path} holds colour (RGB) pages, shape {shapes[0]}: save it as a stack of "
                "grey-value pages."
            )
        if len(shapes) > 1:
            raise ValueError(
                f"{path} holds {len(shapes)} images that differ in shape or type, {shapes[0]} and "
                f"{shapes[1]} among them: keep one stack per file."
            )
        if None in pages:
            raise ValueError(
                f"{path} refers to pages in other files that are missing: save it as one file."
            )
        self.shape = _check_axes(path, shapes[0])[-3:]
        self.dtype = _decoded_dtype(path, self._stored_dtype)
        self.by_slices = len(pages) == self.shape[0]
        self.random_access = self._offset is not None

    def __reduce__(self):
        return TiffReader, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples: [D, H, W]."""
        window = block_slices(self, start, size)
        if self.random_access:
            voxels = np.memmap(self.path, self._stored_dtype, "r", self._offset, self.shape)[window]
            return _finish(self, voxels, start)
        try:
            with tifffile.TiffFile(self.path) as tiff:
                if self.by_slices:
                    pages = tiff.asarray(key=window[0], series=0).reshape(-1, *self.shape[1:])
                    voxels = pages[:, window[1], window[2]]
                else:
                    voxels = tiff.asarray(series=0).reshape(self.shape)[window]
        except Exception as error:
            raise _damaged(self.path, error) from error
        return _finish(self, voxels, start)


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
            raise _damaged(path, error) from error
        shape = _check_axes(path, store.shape)
        self.shape = shape[-3:]
        self.dtype = _decoded_dtype(path, store.dtype.numpy_dtype)
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
            raise _damaged(self.path, error) from error
        return _finish(self, voxels, start)


def _is_complete(tiff, size):
    """Whether a TIFF of `size` bytes holds all its pages.

    tifffile takes a page list that was cut for a shorter stack. Here every page's bytes must lie
    inside the file, and the last page must say that it is the last.
    """
    if not len(tiff.pages):
        return False
    for page in tiff.pages:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if count == 0 or offset + count > size:
                return False
    layout, file = tiff.tiff, tiff.filehandle
    file.seek(tiff.pages[-1].offset)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(tags * layout.tagsize, os.SEEK_CUR)
    return file.read(layout.offsetsize) == bytes(layout.offsetsize)


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
        raise _damaged(path, error) from error


@functools.cache
def _zarr_context():
    return tensorstore.Context({"cache_pool": {"total_bytes_limit": ZARR_CACHE_BYTES}})


def _check_axes(path, shape):
    shape = tuple(int(length) for length in shape)
    if len(shape) == 2:
        raise ValueError(f"{path} is a 2-D image of shape {shape}: a volume is a [D, H, W] stack.")
    if len(shape) < 3 or any(length != 1 for length in shape[:-3]) or 0 in shape:
        raise ValueError(
            f"{path} has shape {shape}: a volume has three axes [D, H, W], so save one channel "
            "of one time point."
        )
    return shape


def _decoded_dtype(path, dtype):
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype == np.float64:
        return np.dtype(np.float32)
    if dtype.kind in "iu" or dtype in (np.float16, np.float32):
        return dtype
    raise ValueError(
        f"{path} holds {dtype} voxels, which are not supported: save it as uint8, uint16, int16 "
        "or float32."
    )


def _finish(reader, voxels, start):
    """Voxels in the reader's dtype; ValueError where one is NaN or infinite."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is named below
        voxels = np.asarray(voxels).astype(reader.dtype, copy=False)
    if voxels.dtype.kind == "f":
        finite = np.isfinite(voxels)
        if not finite.all():
            first = np.unravel_index(finite.argmin(), finite.shape)
            voxel = tuple(int(a + b) for a, b in zip(start, first, strict=True))
            raise ValueError(
                f"{reader.path} holds {voxels[first]} at voxel {voxel}: replace NaN and infinite "
                "values by numbers."
            )
    return voxels


def _damaged(path, error):
    reason = " ".join(str(error).partition(" [tensorstore_spec=")[0].split())
    return ValueError(
        f"{path} could not be decoded ({type(error).__name__}: {reason}): copy or write it again."
    )
