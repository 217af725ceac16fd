"""Code that all readers of volumes share: blocks, types, and errors that name the file.

A reader of one channel reads [D, H, W]. One of several has the attribute `channels`, their number,
2 or more, and reads [D, H, W, C]; its `shape` and the blocks asked of it remain (D, H, W), of all
channels. So whatever reads one channel knows nothing of several.
"""

import numpy as np


def channels_of(reader):
    """Number of channels of a reader: 1 where it reads [D, H, W]."""
    return getattr(reader, "channels", 1)


def require_one_channel(reader):
    """Raise a ValueError where a label, or another volume of one channel, has several."""
    if channels_of(reader) > 1:
        raise ValueError(
            f"{reader.path} has {channels_of(reader)} channels where one is read: save one of them "
            "as a volume of its own."
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


def decoded_dtype(path, dtype):
    """The dtype in which voxels of a stored dtype are read; ValueError where there is none."""
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


def finished(reader, voxels, start):
    """Voxels in the reader's dtype; ValueError where one is NaN or infinite."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is named below
        voxels = np.asarray(voxels).astype(reader.dtype, copy=False)
    if voxels.dtype.kind == "f":
        finite = np.isfinite(voxels)
        if not finite.all():
            first = np.unravel_index(finite.argmin(), finite.shape)
            voxel = tuple(int(a + b) for a, b in zip(start, first, strict=False))
            raise ValueError(
                f"{reader.path} holds {voxels[first]} at voxel {voxel}: replace NaN and infinite "
                "values with finite numbers."
            )
    return voxels


def damaged(path, error):
    """The ValueError for a file whose content a library could not decode."""
    reason = " ".join(str(error).partition(" [tensorstore_spec=")[0].split())
    return ValueError(
        f"{path} could not be decoded ({type(error).__name__}: {reason}): copy or write it again."
    )
