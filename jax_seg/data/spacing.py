"""The spacing of the volumes of a run: what states it, the run's own, and resampling to it.

What states a volume's spacing, the first that does: the field data.spacing, for all volumes; the
column `spacing` of the data set's table; the field `spacing` of NAME.json beside NAME.tif, as
nnU-Net has it; the file itself. Where nothing does, it is unknown, and the volume is taken as it
is. Units are not converted: table and JSON give the unit of the files, micrometres where these
name one.
"""

import hashlib
import math
from typing import NamedTuple

import numpy as np
import tifffile

from jax_seg.data.cache import source as opened
from jax_seg.data.folder import Volume
from jax_seg.data.labels import encode
from jax_seg.data.names import EXTENSION
from jax_seg.data.readers import read_image, read_volume
from jax_seg.data.readers.contract import channels_of
from jax_seg.data.readers.remote import is_address
from jax_seg.data.readers.spacing import differ, in_words, three_positive
from jax_seg.data.resample import new_shape, resample_classes, resample_image
from jax_seg.data.writers import CLASSIC_BYTES
from jax_seg.system.files import (
    channel_files,
    channels_path,
    container,
    read_json,
    replacing,
    stamp,
)

CHOICES = ("auto", "never")
CODE = 1  # raised when the same volume would be resampled otherwise, so that it is done again
FARTHEST = 20.0  # times: a larger ratio of spacings is one of units


class Rule(NamedTuple):
    """What a configuration says of spacing.

    Attributes:
      voxels: data.spacing.
      target: data.target_spacing.
      resample: data.resample.
    """

    voxels: tuple = ()
    target: tuple = ()
    resample: str = CHOICES[0]


def check(rule):
    """Raise a ValueError where a field of a `Rule` is not valid."""
    for name, field, otherwise in (
        ("spacing", rule.voxels, "take what the files say"),
        ("target_spacing", rule.target, "train at the median"),
    ):
        if tuple(field) and three_positive(field) is None:
            raise ValueError(
                f"data.{name} is {tuple(field)}: give three numbers above 0, depth first, or () to "
                f"{otherwise}."
            )
    if rule.resample not in CHOICES:
        raise ValueError(f"data.resample is {rule.resample!r}: choose 'auto' or 'never'.")


def stated(image, of_table=None):
    """The spacing (z, y, x) of a volume as its table, its JSON or its file states it, else None.

    Args:
      image: path of the volume, or the address of one.
      of_table: what the table of the data set says, or None.

    Raises:
      ValueError: the JSON states no three numbers above 0; or the volume is damaged.
    """
    if of_table:
        return of_table
    return (None if is_address(image) else _beside(image)) or opened(image).spacing


def of_run(spacings, target):
    """The spacing on which a run trains: the field's, else the median of the known ones, else None.

    Args:
      spacings: (z, y, x) or None of each volume, those held out included, so that all folds train
        at one.
      target: data.target_spacing.
    """
    if target:
        return tuple(float(number) for number in target)
    known = [three for three in spacings if three]
    return tuple(np.median(known, 0).tolist()) if known else None


def to_resample(image, found, target, resample):
    """Whether a volume is to be resampled.

    Args:
      image: its path, for errors.
      found, target: (z, y, x) of the volume and of the network, or None where unknown.
      resample: data.resample.

    Raises:
      ValueError: the spacings differ and `resample` is 'never', or they differ as units do.
    """
    if not found or not target or not differ(found, target):
        return False
    if resample == "never":
        raise ValueError(
            f"{_both(image, found, target)}, but data.resample is 'never': train with "
            "data.resample='auto', or resample the volume."
        )
    require_one_unit(image, found, target)
    return True


def require_one_unit(image, found, target):
    """Raise a ValueError where spacings differ as those in two units do.

    Args:
      image: path of the volume, for the error.
      found, target: (z, y, x) of the volume and of the network.
    """
    if any(max(a / b, b / a) > FARTHEST for a, b in zip(found, target, strict=True)):
        raise ValueError(
            f"{_both(image, found, target)}, more than {FARTHEST:g} times as much or as little: "
            "state the spacing of all volumes in one unit, in NAME.json beside the file, in the "
            "table or in data.spacing, or set data.target_spacing (files that name a unit are read "
            "in micrometres)."
        )


def _both(image, found, target):
    here, there = in_words(found), in_words(target)
    return f"{image} has a spacing of {here}, and the network's is {there}"


class Copy(NamedTuple):
    """A labelled volume at another spacing.

    Attributes:
      source: Volume as found.
      found: its spacing, (z, y, x).
      volume: Volume of the copy, whose files `write` writes.
    """

    source: Volume
    found: tuple
    volume: Volume


def copy_of(volume, found, target, table, directory):
    """The `Copy` of a labelled volume at the spacing `target`, in files of a folder.

    Their names follow from the volume and the spacings, the label's from the `LabelTable` too:
    whoever gives label values another meaning shares the images.
    """

    def file(part, path, *facts):
        facts = opened(path).dtype, *facts
        key = repr([CODE, found, target, str(path), stamp(path), *map(str, facts)]).encode()
        return directory / f"{volume.id}-{hashlib.sha256(key).hexdigest()[:16]}.{part}.tif"

    image, label = file("image", volume.image), file("label", volume.label, table.tobytes())
    if (count := channels_of(opened(volume.image))) > 1:
        image = channels_path(image.with_name(image.name.replace(".image", ".image_0000")), count)
    return Copy(volume, found, volume._replace(image=image, label=label, spacing=target))


def files_of(copy):
    """The files of a `Copy`, whether they are there or not."""
    return [*channel_files(copy.volume.image), copy.volume.label]


def bytes_of(copy):
    """Bytes of the voxels of a `Copy`; reads headers only."""
    total = 0
    for path in (copy.source.image, copy.source.label):
        reader = opened(path)
        voxels = math.prod(new_shape(reader.shape, copy.found, copy.volume.spacing))
        total += voxels * channels_of(reader) * np.dtype(reader.dtype).itemsize
    return total


def write(copy, table):
    """Write the files of a `Copy` that are not there yet; its source is read as a whole.

    Args:
      copy: Copy.
      table: `LabelTable`; every voxel of the label becomes a value of the class that it has there.

    Returns:
      its `volume`.

    Raises:
      ValueError, OSError: a damaged volume, or a full disk.
    """
    source, (*files, label), spacings = (
        copy.source,
        files_of(copy),
        (copy.found, copy.volume.spacing),
    )
    if not all(file.exists() for file in files):
        voxels = read_image(source.image)
        for number, file in enumerate(files):
            one = voxels if len(files) == 1 else voxels[..., number]
            _write(file, resample_image(one, *spacings))
    if not label.exists():
        values = read_volume(source.label)
        classes = encode(values, table, source.label)
        _, first = np.unique(classes, return_index=True)
        value_of = np.zeros(256, values.dtype)
        value_of[classes.ravel()[first]] = values.ravel()[first]
        _write(label, value_of[resample_classes(classes, *spacings)])
    return copy.volume


def _write(path, voxels):
    """Uncompressed, which is read at any place without decoding."""
    with replacing(path) as beside:
        tifffile.imwrite(
            beside,
            voxels,
            photometric="minisblack",
            bigtiff=voxels.nbytes > CLASSIC_BYTES,
            metadata={"axes": "ZYX"},
        )


def _beside(image):
    """The spacing that NAME.json beside NAME.tif or NAME_0000.tif states; None where there is none.

    Other files of this name, as those in which predict records its settings, have no such field.
    """
    file = channel_files(container(image)[0])[0]
    name = EXTENSION.sub("", file.name)
    for stem in dict.fromkeys((name, name.removesuffix("_0000"))):
        path = file.with_name(f"{stem}.json")
        found = read_json(path) if path.is_file() else {}
        if isinstance(found, dict) and "spacing" in found:
            if three := three_positive(found["spacing"]):
                return three
            raise ValueError(
                f"{path} states the spacing {found['spacing']!r}: write three numbers above 0, "
                'depth first, as {"spacing": [2, 0.5, 0.5]}.'
            )
    return None
