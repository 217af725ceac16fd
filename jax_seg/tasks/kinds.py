"""What can be segmented, volumes and images: how each is found, read and written."""

from collections.abc import Callable
from typing import NamedTuple

import tifffile

from jax_seg.data import folder, images
from jax_seg.data.readers import open_volume, pictures
from jax_seg.system.files import replacing


class Kind(NamedTuple):
    """What is segmented, and how it is read and written.

    Attributes:
      find: list of paths -> list of what has an 'id' and the path 'image'.
      read: path -> array, [D, H, W] or [1, H, W, 3].
      write: (path, prediction [D, H, W]).
      suffix: of the files that are written.
      name: in the plural.
    """

    find: Callable
    read: Callable
    write: Callable
    suffix: str
    name: str


def _read_volume(path):
    reader = open_volume(path)
    return reader.read((0, 0, 0), reader.shape)


def _write_mask(path, prediction):
    with replacing(path) as beside:
        tifffile.imwrite(beside, prediction, photometric="minisblack", compression="lzw")


VOLUMES = Kind(folder.find_images, _read_volume, _write_mask, ".tif", "volumes")
IMAGES = Kind(
    find=images.find_images,
    read=lambda path: pictures.read_image(path)[None],
    write=lambda path, prediction: pictures.write_map(path, prediction[0]),
    suffix=".png",
    name="images",
)
