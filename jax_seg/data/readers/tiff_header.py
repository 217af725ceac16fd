"""What the headers of a TIFF file say about its voxels, and all reasons to reject it."""

import os
import struct
from typing import NamedTuple

import numpy as np
import tifffile

from jax_seg.data.readers import spacing

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE = 0, 1, 3  # tag 262 of TIFF 6.0


class Header(NamedTuple):
    """One TIFF stack.

    Attributes:
        shape, names: of the stored axes; a name is '' where the file does not say.
        dtype: as stored.
        offset: of the first voxel where all lie in one uncompressed piece, otherwise None.
        pages: number of pages.
        separate: whether every page was written as an image of its own.
        white: the value that is black where 0 is white, otherwise None.
        spacing: (z, y, x) as of `spacing.in_micrometres`, or None.
        notes: sentences about assumptions.
    """

    shape: tuple
    names: tuple
    dtype: np.dtype
    offset: int | None
    pages: int
    separate: bool
    white: int | None
    spacing: tuple | None
    notes: tuple


def read_header(path):
    """The Header of a TIFF file, or ValueError: damaged, in colour or more than one stack."""
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is an empty file: copy it again.")
    # A damaged header breaks tifffile in many ways, so everything is caught and named.
    try:
        with tifffile.TiffFile(path) as tiff:
            complete = _is_complete(tiff, size)
            if complete:
                images = list(tiff.series)
                first = images[0]
                pages = [page for image in images for page in image.pages]
                separate = len(images) > 1
                offset = None if separate else first.dataoffset  # None when compressed or scattered
                complete = not offset or offset + first.nbytes <= size
                frame, dtype = first.keyframe, first.dtype.newbyteorder(tiff.byteorder)
                colours = frame.colormap
                meanings = {page.keyframe.photometric for page in pages if page is not None}
                distance = spacing.of_tiff(tiff)
                by_tifffile = tiff.is_shaped or tiff.pages[0].software.startswith("tifffile")
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable TIFF file ({error}): give a TIFF stack or a Zarr folder."
        ) from error
    if not complete:
        raise ValueError(f"{path} is truncated, its last pages are missing: copy it again.")
    _refuse_colour(path, first)
    if separate:
        _refuse_different(path, images)
    if None in pages:
        raise ValueError(
            f"{path} refers to pages in other files that are missing: save it as one file."
        )
    if len(meanings) > 1:
        raise ValueError(
            f"{path} holds pages that differ in what their values mean (photometric "
            "interpretation): write all of them as MINISBLACK."
        )
    shape = (len(images), *first.shape[-2:]) if separate else first.shape
    names = ("", "y", "x") if separate else _names(first.axes)
    white, notes = _interpretation(path, frame, colours, dtype, by_tifffile)
    return Header(shape, names, dtype, offset, len(pages), separate, white, distance, notes)


def _names(axes):
    """tifffile's letters for axes as names, '' for those that it has made up."""
    if "Q" in axes or len(set(axes)) < len(axes):  # a shape without names: all letters are guesses
        return ("",) * len(axes)
    return tuple("" if letter == "I" else letter.lower() for letter in axes)


def _refuse_colour(path, image):
    samples = dict(zip(image.axes, image.shape, strict=True)).get("S", 1)
    grey = image.keyframe.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE)
    if samples > 1 and not grey:
        raise ValueError(
            f"{path} holds colour (RGB) pages, shape {image.shape}: save it as a stack of "
            "grey-value pages."
        )


def _refuse_different(path, images):
    """Images that were written one by one are a stack where each is one page like the first."""
    first = images[0]
    for other in images[1:]:
        if (other.shape, other.dtype) != (first.shape, first.dtype):
            raise ValueError(
                f"{path} holds {len(images)} images that differ in shape or type, "
                f"{first.dtype} {first.shape} and {other.dtype} {other.shape} among them: keep one "
                "stack per file."
            )
    if len(first.pages) > 1 or any(length != 1 for length in first.shape[:-2]):
        raise ValueError(
            f"{path} holds {len(images)} images of shape {first.shape}: keep one stack per file."
        )


def _interpretation(path, frame, colours, dtype, by_tifffile):
    """(Header.white, Header.notes) of a page."""
    if frame.photometric == _PALETTE and not _is_grey_ramp(colours):
        note = (
            f"{path} has a colour palette: its palette indices are read as voxel values, the "
            "colours are ignored."
        )
        return None, (note,)
    if frame.photometric != _WHITE_IS_ZERO:
        return None, ()
    if dtype.kind not in "bu":
        raise ValueError(
            f"{path} holds {dtype} voxels of which 0 is white (photometric MINISWHITE), so their "
            "black is unknown: save it as MINISBLACK."
        )
    if by_tifffile and frame.bitspersample == 1:
        note = (
            f"Boolean TIFF files in {path.parent} declare 0 as white, as tifffile does by "
            "default: they are read as stored, true as 1."
        )
        return None, (note,)
    white = 2**frame.bitspersample - 1
    note = (
        f"{path} declares 0 as white (photometric MINISWHITE): it is read inverted, as {white} "
        "minus the stored value; save it as MINISBLACK if the stored values are meant."
    )
    return white, (note,)


def _is_grey_ramp(colours):
    return colours is not None and all(
        np.array_equal(colour // 257, np.arange(len(colour))) for colour in colours
    )


def _is_complete(tiff, size):
    """Whether a TIFF of `size` bytes holds all its pages.

    tifffile takes a truncated page list for a shorter stack. Here every page's bytes must lie
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
