"""Write a prediction in the format of its input, with the input's header where it has one."""

import gzip
from pathlib import Path

import numpy as np
import tifffile

from jax_seg.data.readers import extension, open_image, open_volume
from jax_seg.data.readers.library import library
from jax_seg.data.readers.spacing import unit_of_tiff
from jax_seg.data.readers.tiff import TiffReader
from jax_seg.data.write_dataset import write_hdf5, write_n5
from jax_seg.data.writers import write_tiff
from jax_seg.system.files import channel_files, replacing, replacing_folder

WRITTEN = {".nii": ".nii", ".nii.gz": ".nii.gz", ".nrrd": ".nrrd", ".mrc": ".mrc"}
WRITTEN |= {".rec": ".mrc", ".h5": ".h5", ".hdf5": ".h5", ".n5": ".n5"}
"""The extension in which a prediction of an input with another is written; all else is TIFF."""


def suffix_like(path):
    """Extension of the file that `write_like` writes for an input."""
    return WRITTEN.get(extension(path), ".tif")


def write_like(path, mask, source, origin):
    """Write a mask [D, H, W] whole or not at all, placed in space as its input is.

    Args:
      path: of the file, or of the folder of an N5; its extension is `suffix_like(source)`.
      mask: integers [D, H, W].
      source: path of the input; of several channels the first one's file counts.
      origin: name of the writing program, which the file's header keeps.

    Raises:
      ValueError: a library is missing.
      OSError: the file cannot be written.
    """
    path, suffix = Path(path), suffix_like(source)
    source = channel_files(source)[0]
    if suffix == ".tif":
        spacing, unit = _spacing(source)
        write_tiff(path, mask, compression="lzw", origin=origin, spacing=spacing, unit=unit)
        return
    if suffix == ".n5":
        with replacing_folder(path) as beside:
            write_n5(beside, mask, open_image(source), origin)
        return
    with replacing(path) as beside:
        if suffix == ".h5":
            write_hdf5(beside, mask, open_image(source), origin)
            return
        writer = _write_nifti if suffix.startswith(".nii") else _write_nrrd
        (_write_mrc if suffix == ".mrc" else writer)(beside, mask, Path(source), origin)


def _spacing(source):
    """(spacing, unit) that an input's own file states; None where it states none."""
    reader = open_image(source)
    if reader.spacing and isinstance(reader, TiffReader):
        with tifffile.TiffFile(source) as tiff:
            return reader.spacing, unit_of_tiff(tiff)
    unit = getattr(reader, "unit", None)
    return reader.spacing, "µm" if unit == "micrometer" else None


def _write_nifti(path, mask, source, origin):
    """With the affine and the units of the input; axes of length 1 are dropped."""
    nibabel = library("nibabel", source)
    before = nibabel.load(source)
    header = before.header.copy()
    header.set_data_dtype(mask.dtype)
    header.set_slope_inter(1, 0)
    header["descrip"] = origin.encode()
    # What describes the image's intensities, by which viewers would show a mask as black.
    header["cal_min"] = header["cal_max"] = 0
    header["aux_file"] = b""
    header.set_intent("none")
    shape = tuple(length for length in before.shape if length > 1) or before.shape
    voxels = mask.T if before.ndim == 3 or len(shape) != 3 else mask.T.reshape(shape)
    header.set_data_shape(voxels.shape)
    content = type(before)(voxels, before.affine, header).to_bytes()
    if path.suffix == ".gz":
        # A compressed header cannot be read at a glance, so the archive's name is the mark.
        with path.open("wb") as raw, gzip.GzipFile(origin, "wb", 6, raw, mtime=0) as file:
            file.write(content)
    else:
        path.write_bytes(content)


def _write_nrrd(path, mask, source, origin):
    """With the directions, origin and units of the input."""
    nrrd = library("nrrd", source, "pynrrd")
    before = nrrd.read_header(str(source))
    kept = ("space", "space dimension", "space directions", "space origin", "space units")
    header = {
        name: before[name] for name in (*kept, "spacings", "units", "kinds") if name in before
    }
    if int(before["dimension"]) != mask.ndim:  # an axis of length 1 was dropped
        header = {}
    nrrd.write(str(path), mask, header | {"origin of file": origin}, index_order="C")


def _write_mrc(path, mask, source, origin):
    """With the voxel size and the place of the input; MRC's smallest type is int8."""
    mrcfile, reader = library("mrcfile", source), open_volume(source)
    with mrcfile.open(source, header_only=True) as before:
        place = {name: before.header[name].copy() for name in ("origin", "nxstart", "nystart")}
        place["nzstart"] = before.header["nzstart"].copy()
        size = before.voxel_size
        lengths = tuple(float(size[axis]) for axis in "xyz")
    if mask.shape != reader.shape:
        raise ValueError(f"{path}: the mask has shape {mask.shape}, its input {reader.shape}.")
    kind = np.int8 if mask.max(initial=0) <= np.iinfo(np.int8).max else np.int16
    with mrcfile.new(path, mask.astype(kind), overwrite=True) as file:
        file.voxel_size = lengths
        for name, value in place.items():
            file.header[name] = value
        file.add_label(origin)
