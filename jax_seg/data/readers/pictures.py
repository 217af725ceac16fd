"""One image, mask or grey map: read from any format, resized, written.

Grey levels are read as the file stores them, in 1 to 32 bits or floating point, and related to the
level that is white. Pillow would cut colours of 16 bits to their upper byte, clip grey ones at 255
and read some TIFFs wrongly; so deep files are decoded by tifffile and imagecodecs.
"""

import contextlib
import math
import warnings
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageOps, PngImagePlugin

from jax_seg.system.files import replacing

CAMERA_BITS = (8, 10, 12, 14, 16)
MAP_BITS = (8, 16)  # of maps and masks; others are not in use
ROUNDING = 1e-3  # that floating-point values in [0, 1] may exceed it by
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 0x0112  # of EXIF and TIFF
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow


def read_image(path):
    """An image as uint8 [H, W, 3], turned as its EXIF orientation says.

    Grey becomes three equal channels, transparency is dropped, and deeper levels become 8 bits. A
    16-bit image whose levels fit in 8, 10, 12 or 14 bits is read as having that many bits, with a
    warning.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read as an image, or its levels are not those of an image.
    """
    levels = _decode(path)
    white = _white(path, levels, CAMERA_BITS, warn=True)
    return np.repeat(_eight_bits(levels, white), 3 // levels.values.shape[-1], -1)


def read_mask(path):
    """A mask as bool [H, W], true on the object; turned as its EXIF orientation says.

    Any depth and mode: a pixel's value is its largest colour channel times its opacity. Above 128
    of 255, or as much of another white, is the object. A mask without such values, but with two
    values of which one is 0, is one of labels or palette colours: there the other value is the
    object.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read as an image, or its values are of neither kind.
    """
    levels = _decode(path)
    white = _white(path, levels, MAP_BITS)
    value = _from_black(levels, white).max(-1)
    if levels.opacity is not None:
        value = value * levels.opacity
    half = 128 * white / 255
    if value.max() > half:
        return value > half
    found = np.unique(value)
    if len(found) > 2 or (len(found) == 2 and found[0] != 0):
        raise ValueError(
            f"{path} has {len(found)} values up to {found[-1]:g}, none above {half:g}: save masks "
            f"with 0 for background and {white:g} for the object."
        )
    return value > 0


def read_map(path):
    """A grey map as uint8 [H, W], 255 where the object is certain; `write_map` is its inverse.

    Of 16 bits 65535 is certain, of floating-point values 1. Where all values are at most 255, that
    is, with a warning.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read as an image, or its values are not those of a map.
    """
    levels = _decode(path)
    white = _white(path, levels, MAP_BITS, warn=True)
    if levels.values.shape[-1] == 3:
        levels = levels._replace(values=(levels.values @ _LUMA)[..., None])
    return _eight_bits(levels, white)[..., 0]


def read_size(path):
    """(width, height) of an image as its orientation shows it, from its header.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read as an image.
    """
    with _naming(path):
        if _head(path)[:4] in _TIFF:
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                size, orientation = (page.imagewidth, page.imagelength), _orientation(page)
        else:
            with Image.open(path) as image:
                size, orientation = image.size, image.getexif().get(_ORIENTATION, 1)
    return size[::-1] if orientation >= 5 else size


def resize_image(image, side):
    """uint8 [H, W, 3] -> uint8 [side, side, 3]: bilinear, averaging where it shrinks."""
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_mask(mask, side):
    """bool [H, W] -> bool [side, side]: true where the object has more than half of the pixel."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR)) > 128


def resize_probability(probability, shape):
    """float [h, w] -> float32 of `shape` (H, W) in [0, 1], bilinear."""
    image = Image.fromarray(np.asarray(probability, np.float32))
    resized = np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR))
    return np.clip(resized, 0, 1)


def as_map(probability):
    """float [H, W] in [0, 1] -> uint8, 255 where the object is certain."""
    return np.rint(255 * probability).astype(np.uint8)


def write_map(path, prediction, origin=None):
    """Write uint8 [H, W] as a PNG file, whole or not at all; `origin`, a text, as its Software."""
    about = PngImagePlugin.PngInfo()
    if origin:
        about.add_text("Software", origin)
    with replacing(path) as beside:
        Image.fromarray(prediction).save(beside, "PNG", pnginfo=about)


class _Levels(NamedTuple):
    """Grey levels as a file stores them.

    Attributes:
      values: [H, W, 1] grey or [H, W, 3] colours, of any real type.
      bits: that one level takes in the file.
      opacity: [H, W] from 0 to 1, or None.
      inverted: 0 is white.
    """

    values: np.ndarray
    bits: int
    opacity: np.ndarray | None = None
    inverted: bool = False


class _Refused(ValueError):
    """An error about a file that is intact but of an unsupported kind."""


def _decode(path):
    """The `_Levels` of a file, turned as its orientation says."""
    with _naming(path):
        head, deep = _head(path), None
        if head[:4] in _TIFF:
            deep = _deep_tiff(path)
        elif head[1:4] == b"PNG" and head[24] == 16:
            deep = _deep_png(path)
        return _by_pillow(path) if deep is None else deep


def _deep_tiff(path):
    """The `_Levels` of a TIFF; None where Pillow reads it: of 8 bits, in all colour spaces."""
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages if not page.is_reduced]
        if len(pages) > 1:
            raise _Refused(f"{path} holds {len(pages)} pages: save one image per file.")
        page = pages[0]
        if page.dtype is None or page.dtype in (np.uint8, bool):
            return None
        kinds = tifffile.PHOTOMETRIC
        if page.photometric not in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB):
            name = getattr(page.photometric, "name", page.photometric)
            raise _Refused(f"{path} holds {name} colours of {page.bitspersample} bits: save RGB.")
        values = page.asarray()
        if page.axes == "SYX":
            values = np.moveaxis(values, 0, -1)
        inverted = page.photometric == kinds.MINISWHITE
        return _deep(path, values, page.bitspersample, _orientation(page), inverted)


def _deep_png(path):
    with Image.open(path) as image:
        orientation = image.getexif().get(_ORIENTATION, 1)
    return _deep(path, imagecodecs.png_decode(Path(path).read_bytes()), 16, orientation)


def _deep(path, values, bits, orientation, inverted=False):
    """The `_Levels` of an array [H, W] or [H, W, C], with its opacity apart."""
    values, opacity = np.atleast_3d(values), None
    if values.shape[-1] > 4:
        raise _Refused(f"{path} has {values.shape[-1]} channels: save a grey or RGB image.")
    if values.shape[-1] in (2, 4):
        opacity = _turned(values[..., -1], orientation) / _highest(values.dtype, bits)
        values = values[..., :-1]
    return _Levels(_turned(values, orientation), bits, opacity, inverted)


def _by_pillow(path):
    # By a file, not by its name: Pillow maps a named TIFF that is turned in the wrong shape.
    with Path(path).open("rb") as file, Image.open(file) as image:
        image.load()  # turns a TIFF itself, which would be turned twice
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            return _Levels(np.asarray(image)[..., None], 32)
        if image.has_transparency_data:
            colours = np.asarray(image.convert("RGBA"))
            return _Levels(colours[..., :3], 8, colours[..., 3] / 255)
        if image.mode in ("1", "L"):
            return _Levels(np.asarray(image.convert("L"))[..., None], 8)
        return _Levels(np.asarray(image.convert("RGB")), 8)


def _white(path, levels, depths, warn=False):
    """The level that is white: the file's own, or that of the least of `depths` that holds all.

    Raises:
      ValueError: levels are negative, not finite, or above 16 bits.
    """
    values = levels.values
    least, most = float(values.min()), float(values.max())
    if not (math.isfinite(least) and math.isfinite(most)) or least < -ROUNDING:
        wrong = most if math.isfinite(least) and not math.isfinite(most) else least
        raise ValueError(
            f"{path} holds the value {wrong:g}: save levels from 0 to 255, to 65535, or as "
            "floating-point numbers to 1."
        )
    floating = values.dtype.kind == "f"
    if floating and most <= 1 + ROUNDING:
        return 1.0
    if not floating and (most == 0 or levels.bits not in (16, 32, 64)):
        return _highest(values.dtype, levels.bits)
    fitting = [bits for bits in depths if most < 2**bits]
    if not fitting:
        raise ValueError(
            f"{path} holds values up to {most:g}: save levels from 0 to 255, to 65535, or as "
            "floating-point numbers to 1."
        )
    if warn and (floating or fitting[0] < 16):
        stored = "floating-point values above 1" if floating else f"values of {levels.bits} bits"
        # Names the folder, so that it warns once and not for each of thousands of images.
        warnings.warn(
            f"{Path(path).parent} holds images with {stored} and none above "
            f"{2 ** fitting[0] - 1}, which are read as images of {fitting[0]} bits.",
            stacklevel=3,
        )
    return float(2 ** fitting[0] - 1)


def _highest(dtype, bits):
    """The highest level of an integer type of which `bits` are used; 1 of floating point."""
    return 1.0 if dtype.kind == "f" else float(2**bits - 1)


def _from_black(levels, white):
    return white - levels.values.astype(np.float64) if levels.inverted else levels.values


def _eight_bits(levels, white):
    """uint8 of the shape of the values, 255 for white."""
    values = _from_black(levels, white)
    if white == 255 and values.dtype == np.uint8:
        return values
    return np.rint(np.clip(values.astype(np.float64) * (255 / white), 0, 255)).astype(np.uint8)


def _turned(array, orientation):
    """An array [H, W, …] as EXIF's orientation 1 to 8 shows it."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    # Directions of rows and columns; orientations 5 to 8 apply them after the transposition.
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(
        orientation, (1, 1)
    )
    return array[::rows, ::columns]


def _orientation(page):
    tag = page.tags.get(_ORIENTATION)
    return tag.value if tag else 1


def _head(path):
    with Path(path).open("rb") as file:
        return file.read(26).ljust(26, b"\0")


@contextlib.contextmanager
def _naming(path):
    """Make every error about a file's content name the file."""
    try:
        yield
    except _Refused:
        raise
    except OSError as error:
        if error.errno is not None:  # of the operating system, with the path
            raise
        raise _unreadable(path, error) from error
    except Exception as error:  # damage breaks the decoders in many ways
        raise _unreadable(path, error) from error


def _unreadable(path, error):
    return ValueError(f"{path} cannot be read as an image ({error}): copy or download it again.")
