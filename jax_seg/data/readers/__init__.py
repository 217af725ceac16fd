"""Read 3-D volumes and images of channels behind one contract: TIFF, Zarr, NIfTI, NRRD, HDF5, …

A reader has
- `path`, `shape` (D, H, W) and `dtype`: what `read` gives;
- `random_access`: whether a small read costs little; where it does not, `by_slices`: whether slices
  are read one by one, or a part costs as much as the whole;
- `spacing`: (z, y, x) between voxels as the file gives it, in micrometres where it names a known
  unit; None where it gives none. `unit` of a Zarr: that name, or None;
- `notes`: sentences about assumptions where the file is ambiguous;
- `read(start, size)`: the voxels of a block, [D, H, W];
- `channels`, only where there are several: `read` then gives [D, H, W, C], see `contract`.

Opening a volume looks at headers and names of files only; `read` decodes. Readers pickle by their
path and so travel to workers. Assumptions are reported in one way: `open_volume` passes each
sentence of `notes` to `warnings.warn`, once in a process; an unpickled copy gives no warning.
"""

import functools
import math
import re
import warnings
from pathlib import Path

from jax_seg.data.readers import remote, spacing
from jax_seg.data.readers.channels import ChannelsReader
from jax_seg.data.readers.contract import channels_of, require_one_channel
from jax_seg.data.readers.hdf5 import Hdf5Reader, N5Reader
from jax_seg.data.readers.mrc import MrcReader
from jax_seg.data.readers.nifti import NiftiReader
from jax_seg.data.readers.nrrd import NrrdReader
from jax_seg.data.readers.slices import SlicesReader, is_folder_of_slices
from jax_seg.data.readers.tiff import TiffReader
from jax_seg.data.readers.zarr import ZarrReader
from jax_seg.data.readers.zarr_metadata import is_zarr
from jax_seg.system import memory
from jax_seg.system.files import channel_files, container, existing

OF_LIBRARIES = {  # formats whose libraries are the extra 'formats'
    ".nii": NiftiReader,
    ".nii.gz": NiftiReader,
    ".nrrd": NrrdReader,
    ".mrc": MrcReader,
    ".rec": MrcReader,
    ".h5": Hdf5Reader,
    ".hdf5": Hdf5Reader,
    ".n5": N5Reader,
}
_NAMED_AS_VOLUME = re.compile(
    rf"\.(tiff?|zarr|{'|'.join(name[1:].replace('.', '[.]') for name in OF_LIBRARIES)})$",
    re.IGNORECASE,
)


def open_volume(path):
    """Opens a volume as a reader without decoding a voxel.

    Axes that the file names are taken by their names, and transposed to [D, H, W] as blocks are
    read; axes of length 1 are dropped.

    Args:
        path: a TIFF (any compression, BigTIFF, ImageJ, OME); a folder with a Zarr v2 or v3 array,
            an OME-Zarr image, of which the finest level is read, or a Zarr group with one of these;
            a folder of TIFF slices whose names differ in one number; a NIfTI, NRRD or MRC file; or
            a dataset of an HDF5 file or N5 folder, FILE.h5:/DATASET, or FILE.h5 alone where it
            holds one; or the address of a Zarr: http://, https://, s3:// or gs://.

    Returns:
        A reader. `shape` is (D, H, W); `dtype` is what `read` returns: the file's own in native
        byte order, except bool as uint8 and float64 as float32. `read(start, size)` returns the
        [size] voxels from `start`, possibly a read-only view. `random_access` says whether a small
        read costs little; a compressed TIFF decodes whole pages.

    Raises:
        FileNotFoundError: nothing at `path`.
        ValueError: not a volume, damaged, or of an unsupported type; several channels or times;
            from `read` too, when voxels cannot be decoded or are NaN or infinite.
    """
    reader = _opened(path)
    require_one_channel(reader)
    _announce_notes(reader)
    return reader


def open_image(path):
    """Opens an image of one channel or of several, which labels and masks never have.

    Args:
        path: of `open_volume`; a Zarr array or HDF5 dataset may have an axis of channels; and
            NAME_{0000..0002}.EXT stands for the channels NAME_0000.EXT to NAME_0002.EXT.

    Returns:
        A reader as of `open_volume`. One of several channels has `channels`, their number, and
        `read` returns [D, H, W, C]. ChannelsReader where each has a file of its own.

    Raises:
        FileNotFoundError, ValueError: of `open_volume`; the channels differ in shape or spacing.
    """
    reader = _opened(path)
    _announce_notes(reader)
    return reader


def _opened(path):
    if remote.is_address(path):
        return ZarrReader(path)
    path = existing(path)
    if len(files := channel_files(path)) > 1:
        readers = [_opened(file) for file in files]
        for reader in readers:
            require_one_channel(reader)
        return ChannelsReader(path, readers)
    if kind := OF_LIBRARIES.get(extension(path)):
        return kind(path)
    if not path.is_dir():
        return TiffReader(path)
    return ZarrReader(path) if is_zarr(path) else SlicesReader(path)


def _announce_notes(reader):
    if remote.is_address(reader.path):
        return
    for note in reader.notes:
        _announce(note)


def extension(path):
    """The extension of OF_LIBRARIES that a path has, in lower case, else ''."""
    name = container(path)[0].name.lower()
    return next((end for end in sorted(OF_LIBRARIES, key=len)[::-1] if name.endswith(end)), "")


def recognised(path):
    """Whether an existing file or folder is one volume, for `open_volume` to open or reject.

    It decides by names, by the metadata files of Zarr and by the header of one slice, and decodes
    nothing. True for any name ending in .tif, .tiff, .zarr or an extension of OF_LIBRARIES, damaged
    files included, so that opening can report the fault; for folders of a Zarr array or group of
    any other name; and for folders of numbered 2-D TIFF slices, gaps in the numbers included. False
    for all else, folders of volumes among it.
    """
    path = Path(path)
    if _NAMED_AS_VOLUME.search(container(path)[0].name):
        return True
    return path.is_dir() and (is_zarr(path) or is_folder_of_slices(path))


def read_volume(path):
    """All voxels of a volume [D, H, W], as its reader gives them; errors as of `open_volume`."""
    return read_whole(open_volume(path))


def read_image(path):
    """All voxels of an image, [D, H, W] or [D, H, W, C]; errors as of `open_image`."""
    return read_whole(open_image(path))


def read_whole(reader):
    """All voxels of a reader's volume [D, H, W], or [D, H, W, C] of several channels.

    Raises:
        ValueError: they cannot be decoded, or memory cannot hold them.
    """
    size = math.prod(reader.shape) * channels_of(reader) * reader.dtype.itemsize
    memory.require(size, reader.path, "read it")
    return reader.read((0, 0, 0), reader.shape)


def check_pair(image_reader, label_reader):
    """Raises ValueError unless an image and its label have the same [D, H, W].

    Warns where both files say where voxels lie and differ, since they are paired as stored.
    """
    if tuple(image_reader.shape) != tuple(label_reader.shape):
        raise ValueError(
            f"{label_reader.path} has shape {tuple(label_reader.shape)} but its image "
            f"{image_reader.path} has {tuple(image_reader.shape)}: a label must cover its image "
            "voxel by voxel."
        )
    here, there = (getattr(one, "orientation", None) for one in (image_reader, label_reader))
    spacings = image_reader.spacing, label_reader.spacing
    if not (here and there):  # formats that say where voxels lie
        return
    if here != there:
        differing = f"orientations {here} and {there}"
    elif all(spacings) and spacing.differ(*spacings):
        differing = f"spacings {' and '.join(map(spacing.in_words, spacings))}"
    else:
        return
    folders = image_reader.path.parent, label_reader.path.parent
    _announce(  # the folders: one sentence for all their volumes
        f"Images in {folders[0]} and their labels in {folders[1]} state the {differing}: their "
        "voxels are paired as they are stored, so check that labels lie on their images."
    )


@functools.cache
def _announce(note):
    warnings.warn(note, stacklevel=4)
