"""How volumes and images are found, read and written in prediction."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jax_seg.data import folder, images
from jax_seg.data.cache import source
from jax_seg.data.preprocess import PerVolume, of_channels, stored
from jax_seg.data.readers import pictures, read_image
from jax_seg.data.readers.contract import channels_of
from jax_seg.data.write_like import suffix_like, write_like
from jax_seg.infer.inspection import View, inspect, resampled_as_nnunet
from jax_seg.system.outputs import written_by

MASK_BYTES = 2  # per voxel in host memory: the mask as bool and as uint8
LOGIT_BYTES = 4  # and float32 logits, if the host is the device


class Kind(NamedTuple):
    """A kind of input, and how it is found, read and written.

    Attributes:
      find: list of paths, channels of the images wanted, whether files have nnU-Net's names ->
        list of items with an 'id' and the path 'image'.
      read: path -> array, [D, H, W], [D, H, W, C] or [1, H, W, 3].
      write: (path, prediction [D, H, W], path of the input).
      suffix: path of the input -> suffix of the file that is written for it.
      name: its noun in the plural.
      certain: value of a prediction where the object is certain.
      inspect: (path, array, facts of the networks, for each of them the pair of spacings between
        which it resamples the input, or None) -> facts of the input for its sidecar.
      needs: (path, logits=1) -> bytes of memory to predict it, where each voxel has that many
        logits at once; a larger volume is predicted block by block.
      as_map: logits -> prediction, if that is the probability itself; None if a threshold and
        steps of post-processing decide.
    """

    find: Callable
    read: Callable
    write: Callable
    suffix: Callable
    name: str
    certain: int
    inspect: Callable
    needs: Callable
    as_map: Callable | None = None


def _bytes_of_volume(path, logits=1):
    reader = source(path)
    on_host = logits * LOGIT_BYTES if jax.default_backend() == "cpu" else 0
    voxel = reader.dtype.itemsize * channels_of(reader)
    return (voxel + MASK_BYTES + on_host) * math.prod(reader.shape)


def _write_mask(path, prediction, source):
    write_like(path, prediction, source, origin=written_by("predict"))


def _inspect_volume(path, array, networks, spacings):
    rules = [stored(each["preprocessing"]) for each in networks]
    views = {_view(*each) for each in zip(networks, rules, spacings, strict=True)}
    ranges = ranges_of(networks, array.shape[3] if array.ndim == 4 else 1)
    found = inspect(path, array, views=views, ranges=ranges)
    imported = {
        pair for each, pair in zip(networks, spacings, strict=True) if _imported(each) and pair
    }
    sentences = [resampled_as_nnunet(path, *pair) for pair in sorted(imported)]
    return found | {"warnings": found["warnings"] + sentences}


def _view(network, rule, spacings):
    """The `View` of a network: nnU-Net leaves out what lies around the input, then resamples."""
    boxed = (isinstance(rule, PerVolume) and rule.region != "all") or _imported(network)
    order = "before" if _imported(network) else "after"
    return View(tuple(network["patch"]), network["overlap"], spacings, order if boxed else "")


def _imported(network):
    return "convention" in network


def ranges_of(networks, channels):
    """{(channel, low, high)} to which networks clip; channel is None of the only one.

    A volume that is normalised by its own intensities has no range that it could miss.

    Args:
      networks: their facts, with 'preprocessing'.
      channels: number of them.
    """
    rules = [stored(each["preprocessing"]) for each in networks]
    return {
        (number if channels > 1 else None, one.low, one.high)
        for rule in rules
        if not isinstance(rule, PerVolume)
        for number, one in enumerate(of_channels(rule, channels))
    }


def _write_map(path, prediction, _):
    pictures.write_map(path, prediction[0], origin=written_by("predict"))


VOLUMES = Kind(
    find=folder.find_images,
    read=read_image,
    write=_write_mask,
    suffix=suffix_like,
    name="volumes",
    certain=1,
    inspect=_inspect_volume,
    needs=_bytes_of_volume,
)
IMAGES = Kind(
    find=lambda paths, *_: images.find_images(paths),
    read=lambda path: pictures.read_image(path)[None],
    write=_write_map,
    suffix=lambda _: ".png",
    name="images",
    certain=255,
    inspect=lambda path, array, networks, spacings: {},
    needs=lambda _path, logits=1: 0,
    as_map=lambda logits: pictures.as_map(np.asarray(jax.nn.sigmoid(logits))),
)
