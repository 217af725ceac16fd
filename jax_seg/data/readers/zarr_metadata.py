"""Find the array of a Zarr folder that is the volume, and its axes, from the metadata.

Zarr v2 and v3; OME-Zarr 0.1 to 0.5; groups of bioformats2raw.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

_CHANNEL_TIME = {"channel": "c", "time": "t"}
_FIRST_AXES = ("t", "c", "z", "y", "x")  # of every OME-Zarr image before 0.3, which names none


class Array(NamedTuple):
    """One array of a Zarr folder.

    Attributes:
        folder: where it lies.
        metadata: the content of its .zarray or zarr.json.
        names: of its axes; empty where nothing names them.
        scale, units: of its axes; empty where nothing gives them.
        notes: sentences about assumptions.
    """

    folder: Path
    metadata: dict
    names: tuple = ()
    scale: tuple = ()
    units: tuple = ()
    notes: tuple = ()

    @property
    def version(self):
        """2 or 3."""
        return 2 if (self.folder / ".zarray").is_file() else 3

    @property
    def shape(self):
        """Elements along each axis."""
        return tuple(self.metadata["shape"])


def is_zarr(path):
    """Whether `path` is the folder of a Zarr array or group."""
    return any((Path(path) / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def find_array(path):
    """The Array that the Zarr folder `path` stands for.

    That is the array itself; the finest level of an OME-Zarr image; or the only member of a group,
    and so on down.

    Raises:
        ValueError: `path` holds none or several, or metadata of another form.
    """
    if (array := _array(path)) is not None:
        return _named_from_above(array)
    if images := _images(path):
        array = _finest(path, _levels(path, images[0]))
        if len(images) == 1:
            return array
        note = f"{path} describes {len(images)} OME-Zarr images: the first is read."
        return array._replace(notes=(note,))
    return find_array(_only_member(path))


def _array(folder):
    """The array in `folder`, or None."""
    if (folder / ".zarray").is_file():
        metadata = read_object(folder / ".zarray")
        names = read_object(folder / ".zattrs").get("_ARRAY_DIMENSIONS")  # as xarray writes it
    else:
        metadata = read_object(folder / "zarr.json")
        names = metadata.get("dimension_names")
        if metadata.get("node_type") != "array":
            return None
    shape = metadata.get("shape")
    if not isinstance(shape, list) or not all(isinstance(length, int) for length in shape):
        raise ValueError(f"{folder} has metadata without the shape of its array: write it again.")
    return Array(folder, metadata, tuple(names) if isinstance(names, list) else ())


def _named_from_above(array):
    """An array that was named by its own path, with the axes that the image around it names."""
    folder = array.folder.absolute()
    for above in folder.parents[:2]:
        try:
            levels = [level for image in _images(above) for level in _levels(above, image)]
        except ValueError:  # a fault of another file is no reason to reject this array
            continue
        for level in levels:
            if level.folder.absolute() == folder:
                return _described(array, level)
    return array


def _images(path):
    """The list of OME-Zarr multiscales of a group; empty where there is none."""
    attributes = _attributes(path)
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, dict):
        raise ValueError(
            f"{path} has metadata whose field ome holds {_kind(ome)} instead of an object: write "
            "it again."
        )
    images = ome.get("multiscales") or []
    if not isinstance(images, list):
        raise ValueError(
            f"{path} has OME-Zarr multiscales that are {_kind(images)} instead of a list: write "
            "its metadata again."
        )
    return images


def _attributes(path):
    v3 = read_object(path / "zarr.json")
    attributes = v3.get("attributes", {}) if v3 else read_object(path / ".zattrs")
    if not isinstance(attributes, dict):
        raise ValueError(f"{path} has attributes that are {_kind(attributes)}: write them again.")
    return attributes


class _Level(NamedTuple):
    folder: Path
    names: tuple
    scale: tuple
    units: tuple


def _levels(path, image):
    """The _Levels that a multiscales entry describes, in its order."""
    try:
        axes = [
            axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", [])
        ]
        names = tuple(_CHANNEL_TIME.get(axis.get("type"), axis["name"]) for axis in axes)
        units = tuple(axis.get("unit") for axis in axes)
        levels = [
            _Level(path / dataset["path"], names, _scale(dataset, image), units)
            for dataset in image["datasets"]
        ]
        if not levels:
            raise KeyError("datasets")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} has OME-Zarr multiscales that name no dataset or do not follow the standard: "
            "write its metadata again."
        ) from error
    return levels


def _scale(dataset, image):
    """The scale of each axis; empty where none is given."""
    scales = [
        transformation["scale"]
        for described in (dataset, image)
        for transformation in described.get("coordinateTransformations", [])
        if transformation.get("type") == "scale" and "scale" in transformation
    ]
    return tuple(math.prod(factors) for factors in zip(*scales, strict=True))


def _finest(path, levels):
    """The Array of the finest level by scale, or by shape where scales do not decide.

    Without scales the standard's order is finest first, but writers differ; so every level that
    could be finer than the one that is read must exist.
    """
    if all(level.scale for level in levels):
        finest = min(math.prod(level.scale) for level in levels)
        levels = [level for level in levels if math.prod(level.scale) == finest]
    arrays = [_array(level.folder) for level in levels]
    sizes = [-1 if array is None else math.prod(array.shape) for array in arrays]
    best = sizes.index(max(sizes))
    absent = [level for level, array in zip(levels, arrays, strict=True) if array is None]
    if arrays[0] is None or (best and absent):
        raise ValueError(
            f"{path} names {absent[0].folder.name} among its OME-Zarr levels, perhaps the finest, "
            "but its array is missing: copy it again."
        )
    return _described(arrays[best], levels[best])


def _described(array, level):
    names = level.names
    if not names:
        names = _FIRST_AXES if len(array.shape) == len(_FIRST_AXES) else array.names
    return array._replace(names=names, scale=level.scale, units=level.units)


def _only_member(path):
    attributes = _attributes(path)
    converted = "bioformats2raw.layout" in {**attributes, **(attributes.get("ome") or {})}
    members = sorted(
        child.name
        for child in path.iterdir()
        if child.is_dir() and is_zarr(child) and not (converted and child.name == "OME")
    )
    if len(members) == 1:
        return path / members[0]
    held = f"{len(members)} members ({', '.join(members[:5])})" if members else "no array"
    raise ValueError(
        f"{path} is a Zarr group without OME-Zarr multiscales that holds {held}: give the path of "
        "the array."
    )


def read_object(path):
    """The object in a JSON file, or {} where there is no file; ValueError for anything else."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): copy or write it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {_kind(content)} instead of an object: write it again.")
    return content


def _kind(content):
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(content), "a number")
