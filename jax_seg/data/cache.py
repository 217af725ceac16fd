"""Decode a compressed TIFF once into an uncompressed file that is then memory-mapped."""

import errno
import functools
import hashlib
import io
import math
import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from jax_seg.data.readers import is_zarr, open_image
from jax_seg.data.readers.contract import block_slices, channels_of
from jax_seg.data.readers.remote import is_address
from jax_seg.system.arrays import map_array
from jax_seg.system.files import (
    ABANDONED_SECONDS,
    channel_files,
    container,
    existing,
    refuse_address,
    stamp,
    unfinished,
    unwritable,
    writing,
)

SLAB_BYTES = 32 * 2**20  # decoded at a time
OPEN_MAPS = 16  # decoded volumes kept open; each is file-backed, not memory
OPEN_SOURCES = 1024  # headers kept
OWN = re.compile(r"[0-9a-f]{32}\.npy|.+\.part")  # other files in the folder are somebody's
CHECK_SECONDS = 60  # between checks whether an open source has changed
# Raised when a reader changes the voxels that it returns, so that files are decoded again.
READING = 2


class Cache:
    """Decoded volumes in a folder of bounded size, shared by processes without locks.

    A file is keyed by its source's absolute path, size and modification time, so a changed source
    is decoded again. When space is short the least recently used files are unlinked; a map that is
    still open stays valid. Two processes may decode the same source at once: each writes a file of
    its own and renames it, and either result is right. While several write at once they may
    together exceed the limit by what they are writing.

    Pickles by its arguments.
    """

    def __init__(self, directory, limit_bytes):
        """Caches in `directory`, which is created, at most `limit_bytes`."""
        self.directory = refuse_address(directory).absolute()
        self.limit_bytes = int(limit_bytes)
        self._opened = {}  # {path: (when it was checked, () -> its reader)}
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)

    def __reduce__(self):
        return Cache, (self.directory, self.limit_bytes)

    def open(self, path):
        """Opens an image or label as a reader with random access, decoding it first if necessary.

        Zarr and uncompressed TIFF, alone or as slices in a folder, have random access already and
        are not cached. A source is checked, and its decoded file marked as used, once a minute:
        every patch opens two volumes.

        Raises:
            ValueError: as `open_image`, any voxel of a decoded volume included; or the decoded
                volume is larger than the limit.
            OSError: the disk of the cache is full.
        """
        path = Path(path)
        checked, open_again = self._opened.get(path, (-math.inf, None))
        if time.monotonic() - checked < CHECK_SECONDS:
            with suppress(FileNotFoundError, ValueError, EOFError):  # unlinked or damaged since
                return open_again()
        reader, open_again = self._open(existing(path))
        self._opened[path] = time.monotonic(), open_again
        return reader

    def _open(self, path):
        """(reader, () -> an equal one without a look at the source)."""
        size, modified = _version(path)
        key = f"{READING}\0{path.absolute()}\0{size}\0{modified}"
        decoded = self.directory / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        voxels = None
        # Absent, or truncated or overwritten when the cache was copied: decode it again.
        with suppress(FileNotFoundError, ValueError, EOFError):
            voxels = _open_map(decoded)
        if voxels is None:
            reader = _open_source(path, size, modified)
            if reader.random_access:
                return reader, lambda: _open_source(path, size, modified)
            voxels = self._decode(reader, decoded)
        with suppress(FileNotFoundError):  # unlinked since by another process
            now = time.time_ns()
            os.utime(decoded, ns=(now, now))
        return (
            CachedReader(self, path, voxels),
            lambda: CachedReader(self, path, _open_map(decoded)),
        )

    def _decode(self, reader, decoded):
        header, channels = io.BytesIO(), channels_of(reader)
        np.lib.format.write_array_header_1_0(
            header,
            {
                "descr": np.lib.format.dtype_to_descr(reader.dtype),
                "fortran_order": False,
                "shape": reader.shape if channels == 1 else (*reader.shape, channels),
            },
        )
        depth, *page = reader.shape
        page_bytes = math.prod(page) * channels * reader.dtype.itemsize
        total = header.tell() + depth * page_bytes
        if total > self.limit_bytes:
            raise ValueError(
                f"{reader.path} takes {total / 2**30:.3g} GiB decoded, more than the "
                f"{self.limit_bytes / 2**30:.3g} GiB left for such volumes: raise data.cache_gb."
            )
        self.make_room(total)
        # A name of its own, since two threads may decode one source at once.
        under_way = unfinished(decoded, "")
        with writing(decoded, self.directory):
            descriptor, name = tempfile.mkstemp(".part", f"{under_way.name}-", self.directory)
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(header.getvalue())
                pages = max(1, SLAB_BYTES // page_bytes) if reader.by_slices else depth
                for first in range(0, depth, pages):
                    slab = reader.read((first, 0, 0), (min(pages, depth - first), *page))
                    file.write(np.ascontiguousarray(slab))
                file.flush()
                os.fsync(file.fileno())  # network disks report only here that they are full
            # Mapped before it has its name: from then on another process may unlink it.
            voxels = map_array(part)
            part.replace(decoded)
        except BaseException as error:
            part.unlink(missing_ok=True)
            number = getattr(error, "errno", None)
            if number in (errno.ENOSPC, errno.EDQUOT):
                full = OSError(
                    f"The disk of the cache {self.directory} is full while decoding "
                    f"{reader.path}: free space there or lower data.cache_gb."
                )
                full.errno = number
                raise full from error
            if number == errno.EFBIG:
                raise unwritable(decoded, error) from error
            raise
        self.make_room()
        return voxels

    def make_room(self, needed=0):
        """Unlinks the least recently used files until `needed` more bytes fit the limit."""
        files = []
        for file in self.directory.iterdir():
            with suppress(FileNotFoundError):
                if OWN.fullmatch(file.name):
                    status = file.stat()
                    files.append((status.st_mtime_ns, status.st_size, file))
        total = needed + sum(size for _, size, _ in files)
        being_written = time.time_ns() - ABANDONED_SECONDS * 10**9
        for modified, size, file in sorted(files):
            if total <= self.limit_bytes:
                return
            if file.suffix == ".npy" or modified < being_written:
                file.unlink(missing_ok=True)
                total -= size


class CachedReader:
    """A reader over the map of a decoded volume; pickles as the call that opens it again."""

    random_access = True

    def __init__(self, cache, path, voxels):
        self.cache, self.path, self.voxels = cache, path, voxels
        self.shape, self.dtype = voxels.shape[:3], voxels.dtype
        if voxels.ndim == 4:
            self.channels = voxels.shape[3]

    def __reduce__(self):
        return self.cache.open, (self.path,)

    def read(self, start, size):
        """The voxels [start, start + size), each (d, h, w) triples, [D, H, W] or [D, H, W, C].

        A read-only view.
        """
        return np.asarray(self.voxels[block_slices(self, start, size)])


def source(path):
    """`open_image` of an image or a label, remembered as long as the file does not change.

    So whatever asks for shape, type, channels or spacing opens the file once between them.
    """
    if is_address(path):
        return open_image(path)
    path = existing(path)
    return _open_source(path, *_version(path))


def _version(path):
    """(bytes, nanoseconds) that differ once a volume has changed.

    A folder's own time does not change when one of its files is rewritten, so each slice is
    checked; the chunks of a Zarr folder need no check, because Zarr is never cached here.
    """
    path, _ = container(path)
    if (path.is_dir() and not is_zarr(path)) or len(channel_files(path)) > 1:
        return tuple(stamp(path)[1:])
    status = path.stat()
    return status.st_size, status.st_mtime_ns


_open_map = functools.lru_cache(maxsize=OPEN_MAPS)(map_array)


@functools.lru_cache(maxsize=OPEN_SOURCES)
def _open_source(path, size, modified):
    """`open_image`, remembered while the file has this size and modification time."""
    return open_image(path)
