"""How volumes and images are found, read and written in prediction."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax

from jax_seg.data import folder, images
from jax_seg.data.readers import open_volume, pictures, read_whole
from jax_seg.data.write_like import suffix_like, write_like
from jax_seg.system import memory
from jax_seg.system.outputs import written_by

MASK_BYTES = 2  # per voxel in host memory: the mask as bool and as uint8
LOGIT_BYTES = 4  # and float32 logits, if the host is the device


class Kind(NamedTuple):
    """A kind of input, and how it is found, read and written.

    Attributes:
      find: list of paths -> list of items with an 'id' and the path 'image'.
      read: path -> array, [D, H, W] or [1, H, W, 3].
      write: (path, prediction [D, H, W], path of the input).
      suffix: path of the input -> suffix of the file that is written for it.
      name: its noun in the plural.
      certain: value of a prediction where the object is certain.
    """

    find: Callable
    read: Callable
    write: Callable
    suffix: Callable
    name: str
    certain: int


def _read_volume(path):
    """A whole volume [D, H, W]; ValueError if memory cannot hold it and its prediction.

    Checked first, since running out of memory may kill the process and lose the other volumes.
    """
    reader = open_volume(path)
    on_host = LOGIT_BYTES if jax.default_backend() == "cpu" else 0
    each = reader.dtype.itemsize + MASK_BYTES + on_host
    memory.require(each * math.prod(reader.shape), path, "predict it")
    return read_whole(reader)


def _write_mask(path, prediction, source):
    write_like(path, prediction, source, origin=written_by("predict"))


def _write_map(path, prediction, _):
    pictures.write_map(path, prediction[0], origin=written_by("predict"))


VOLUMES = Kind(folder.find_images, _read_volume, _write_mask, suffix_like, "volumes", certain=1)
IMAGES = Kind(
    find=images.find_images,
    read=lambda path: pictures.read_image(path)[None],
    write=_write_map,
    suffix=lambda _: ".png",
    name="images",
    certain=255,
)
