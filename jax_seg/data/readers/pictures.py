"""One image, mask or grey map: read from any format, resized, written."""

import contextlib

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from jax_seg.system.files import replacing


def read_image(path):
    """An image as uint8 [H, W, 3], turned as its EXIF orientation says.

    Grey becomes three equal channels, 16 bits become 8, transparency is left out.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read as an image.
    """
    with opened(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            image = Image.fromarray(_eight_bits(image))
        return np.asarray(image.convert("RGB"))


def read_mask(path):
    """A mask as bool [H, W], true on the object; turned as its EXIF orientation says.

    Any mode: a pixel's value is its largest colour channel times its opacity. Above 128 of 255 is
    the object. A mask without such values, but with two values of which one is 0, is one of labels
    or palette colours: there the other value is the object.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read as an image, or its values are of neither kind.
    """
    with opened(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            value = _eight_bits(image)
        else:
            opacity = 1.0
            if image.has_transparency_data:
                image = image.convert("RGBA")
                opacity = np.asarray(image)[..., 3] / 255
            value = np.asarray(image.convert("RGB")).max(-1) * opacity
    if value.max() > 128:
        return value > 128
    found = np.unique(value)
    if len(found) > 2 or (len(found) == 2 and found[0] != 0):
        raise ValueError(
            f"{path} has {len(found)} values up to {found[-1]:g}, none above 128: save masks with "
            "0 for background and 255 for the object."
        )
    return value > 0


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


def read_map(path):
    """The uint8 [H, W] of `write_map`.

    Raises:
      FileNotFoundError, ValueError: of `read_image`.
    """
    with opened(path) as image:
        return np.asarray(image.convert("L"))


def write_map(path, prediction, origin=None):
    """Write uint8 [H, W] as a PNG file, whole or not at all; `origin`, a text, as its Software."""
    about = PngImagePlugin.PngInfo()
    if origin:
        about.add_text("Software", origin)
    with replacing(path) as beside:
        Image.fromarray(prediction).save(beside, "PNG", pnginfo=about)


@contextlib.contextmanager
def opened(path):
    """An image being read; whatever goes wrong with its content names the file."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}): copy or download it again."
        ) from error


def _eight_bits(image):
    """A grey image of 16 or 32 bits or floating point in 0 … 255."""
    value = np.asarray(image, np.float64)
    top = value.max(initial=0)
    return np.clip(value / (257 if top > 255 else 1), 0, 255).astype(np.uint8)
