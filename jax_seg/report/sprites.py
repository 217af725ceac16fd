"""Volumes as pictures small enough for a page: slices of three axes, as tiles of one image each.

The image is a JPEG. Label and probability share a lossless WebP, whose value is
STEP · (3 · level + class): the level counts the thresholds that lie below the probability, so that
the page shows the prediction of any of them exactly; the class is 0 for background, 1 for
foreground and MASKED_CODE where the label is MASKED. Of several classes, red is STEP times the
number of the label's class and green STEP times that of the predicted one; number 0 is background,
and MOST_CLASSES + 1 a label that is MASKED.
"""

import base64

import imagecodecs
import numpy as np

from jax_seg.ops.classes import MASKED

STEP = 3  # between values, so that a browser that alters the last bit changes nothing
MASKED_CODE = 2  # in a picture, where MASKED takes too much of a byte
MOST_THRESHOLDS = 27  # that fit into a byte
MOST_CLASSES = 84  # likewise, beside background and MASKED
QUALITY = 75  # of the JPEG
LONGEST_SIDE = 512  # of a slice, in pixels
SHARES = (0.5, 0.25, 0.25)  # of the pixels, for slices along depth, height and width
TILES_IN_A_ROW = 8
BLOCK = 8  # of a JPEG: a tile that ends within one would bleed into its neighbour


def choose_slices(shape, pixels):
    """The slices to show along each axis: all, or as many as `pixels` allow, evenly spaced.

    Args:
      shape: of the volume.
      pixels: that the slices of all axes may have together.

    Returns:
      Three integer arrays, each with the first and the last slice, or the middle one alone.
    """
    stride = in_plane_stride(shape)
    chosen = []
    for axis, share in enumerate(SHARES):
        area = np.prod([-(-side // stride) for i, side in enumerate(shape) if i != axis])
        size = shape[axis]
        count = size if 3 * np.prod(shape) <= pixels * stride**2 else int(share * pixels // area)
        if count < 2:
            chosen.append(np.array([size // 2]))
        else:
            chosen.append(np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int)))
    return chosen


def in_plane_stride(shape):
    """1, or the spacing of the pixels that are kept where a slice has more than LONGEST_SIDE."""
    return -(-max(shape) // LONGEST_SIDE)


def stacks(volume, slices):
    """The chosen slices [slices, height, width] of each axis, thinned out where they are large."""
    stride = in_plane_stride(volume.shape)
    return [
        np.moveaxis(np.take(volume, positions, axis), axis, 0)[:, ::stride, ::stride]
        for axis, positions in enumerate(slices)
    ]


def classes(label, probability, thresholds):
    """Label and probability as one uint8 array, see the module.

    Args:
      label: uint8, encoded as in `ops.classes`; None counts as background.
      probability: array of its shape in [0, 1].
      thresholds: ascending, at most MOST_THRESHOLDS; a probability above one is foreground.

    Raises:
      ValueError: there are too many thresholds.
    """
    if len(thresholds) > MOST_THRESHOLDS:
        raise ValueError(
            f"The runs have {len(thresholds)} thresholds, of which a page shows at most "
            f"{MOST_THRESHOLDS}; report on fewer runs at once."
        )
    # In float64: a threshold rounded to the probability's float16 could fall on the other side.
    level = np.searchsorted(np.asarray(thresholds, np.float64), probability.ravel(), side="left")
    code = 3 * level.reshape(probability.shape).astype(np.uint8)
    if label is not None:
        code += np.where(label == MASKED, np.uint8(MASKED_CODE), label)
    return STEP * code


def numbered(label, prediction):
    """Numbers of several classes as one uint8 array [..., 3], see the module.

    Args:
      label: uint8, 0 to MOST_CLASSES or MASKED; None counts as background.
      prediction: uint8 of its shape, 0 to MOST_CLASSES.
    """
    code = np.zeros((*prediction.shape, 3), np.uint8)
    code[..., 1] = prediction
    if label is not None:
        code[..., 0] = np.where(label == MASKED, np.uint8(MOST_CLASSES + 1), label)
    return STEP * code


def contrast(image):
    """The 0.5th and the 99.5th percentile of an image, which are shown black and white."""
    sample = image.reshape(-1)[:: max(image.size // 10**6, 1)]
    return np.percentile(sample.astype(np.float32), (0.5, 99.5)).astype(np.float32)


def grey(image, low, high):
    """An array of any dtype as uint8, 0 at `low` and 255 at `high`."""
    scaled = (image.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def address(stack, lossless):
    """A stack of slices as the tiles of one image 'data:image/…;base64,…'.

    Args:
      stack: uint8 [slices, height, width], or [slices, height, width, 3] of a lossless one.
      lossless: WebP without loss instead of JPEG.
    """
    sheet = _tiled(stack)
    if lossless:
        colours = sheet if sheet.ndim == 3 else np.repeat(sheet[..., None], 3, -1)
        code = imagecodecs.webp_encode(colours, lossless=True)
    else:
        code = imagecodecs.jpeg8_encode(sheet, level=QUALITY)
    kind = "webp" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(code).decode()}"


def layout(shape, slices):
    """What the page needs to cut the tiles out.

    Returns:
      {'positions': of each axis, 'tiles': their [height, width], 'pitch': from tile to tile,
      'columns': tiles in a row, 'stride': voxels per pixel}.
    """
    stride = in_plane_stride(shape)
    tiles = [[-(-side // stride) for i, side in enumerate(shape) if i != axis] for axis in range(3)]
    return {
        "positions": [positions.tolist() for positions in slices],
        "tiles": tiles,
        "pitch": [[_padded(side) for side in tile] for tile in tiles],
        "columns": TILES_IN_A_ROW,
        "stride": stride,
    }


def fullest(mask, slices):
    """For each axis the index of the slice with most of `mask` [D, H, W], in the middle half.

    Towards the ends a slice runs along a curved sheet's surface and shows little of it.
    """
    counts = []
    for axis in range(3):
        count = np.count_nonzero(mask, axis=tuple(i for i in range(3) if i != axis))
        edge = len(count) // 4
        count[:edge] = count[len(count) - edge :] = 0
        counts.append(count)
    return [int(count[positions].argmax()) for count, positions in zip(counts, slices, strict=True)]


def _padded(side):
    return -(-side // BLOCK) * BLOCK


def _tiled(tiles):
    count, height, width, *colours = tiles.shape
    rows = -(-count // TILES_IN_A_ROW)
    tall, wide = _padded(height), _padded(width)
    around = ((0, 0), (0, tall - height), (0, wide - width), *[(0, 0)] * len(colours))
    padded = np.pad(tiles, around, mode="edge")
    columns = min(count, TILES_IN_A_ROW)
    sheet = np.zeros((rows * tall, columns * wide, *colours), np.uint8)
    for number, tile in enumerate(padded):
        row, column = divmod(number, TILES_IN_A_ROW)
        sheet[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide] = tile
    return sheet
