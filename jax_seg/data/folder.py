"""Find the volumes of a data set: an image folder, a label folder and a table of scrolls."""

import html
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import tifffile

from jax_seg.data.grouping import base_of, grouped
from jax_seg.data.names import (
    EXTENSION,
    alike,
    entries,
    file_name,
    require_two_folders,
    side_by_side,
    some,
    warn_of_rest,
)
from jax_seg.data.readers import recognised
from jax_seg.data.table import is_table, read_scrolls, read_spacings
from jax_seg.system.files import channel_files, container, existing, without_channels

NNUNET = ("imagesTr", "imagesTs")  # folders of nnU-Net's names
LAYOUTS = (("train_images", "train_labels"), ("imagesTr", "labelsTr"), ("images", "labels"))
_OTHER_FILES = re.compile(r"\b(?:FileName|MetadataFile)\s*=\s*[\"']([^\"']+)")  # in OME's XML


class Volume(NamedTuple):
    """One volume on disk; `label` is None where there is only an image to predict.

    `spacing` is (z, y, x) where the table of the data set gives it, else None. Where each channel
    of the image has a file of its own, `image` stands for them all, see `files.channel_files`.
    """

    id: str
    image: Path
    label: Path | None
    scroll_id: str
    spacing: tuple | None = None


def find_volumes(root, images="", labels="", table=""):
    """Pairs every image of a data set with its label.

    Args:
        root: the folder of the data set.
        images, labels: folder names inside `root` (or absolute paths); both empty means the one
            pair of `LAYOUTS` that exists.
        table: a CSV file inside `root` with columns id and scroll_id, and perhaps spacing; empty
            means train.csv where it exists. Without a table every volume is a scroll of its own.

    Returns:
        [Volume], sorted by id. The id is the file name without its extension, in composed letters
        (NFC), and in nnU-Net's imagesTr and imagesTs without the channel suffix _0000. Images
        NAME_0000, NAME_0001, … with one label NAME are the channels of one. A warning names the
        entries of a folder that are not volumes.

    Raises:
        FileNotFoundError: `root`, a named folder or a named table is missing, or is empty.
        ValueError: images and labels do not pair one to one, a channel is missing, or the table
            does not fit them.
    """
    root = existing(root)
    images, labels = _folders(root, images, labels)
    require_two_folders(images, labels)
    files = _volumes_in(images)
    label_of = _by_id(_volumes_in(labels))
    image_of = _by_id(_with_channels(files, label_of))
    _require_pairs(images, labels, image_of, label_of)
    table = existing(root / table) if table else root / "train.csv"
    known = table.exists()
    scroll_of = read_scrolls(table, images, image_of) if known else {}
    spacing_of = read_spacings(table) if known else {}
    return [
        Volume(id, image_of[id], label_of[id], scroll_of.get(id, id), spacing_of.get(id))
        for id in sorted(image_of)
    ]


def find_images(source, channels=1, nnunet=False):
    """The volumes to predict, without labels: [Volume], sorted by id.

    The table of a data set states the spacing of its images here too, where they lie in the folder
    of one of `LAYOUTS`.

    Args:
        source: a TIFF file, a Zarr folder, a folder of either, or a list of these.
        channels: of the images that are wanted. Where there are several, NAME_0000, NAME_0001, …
            are those of one image; in nnU-Net's imagesTr and imagesTs they always are.
        nnunet: whether NAME_0000 has the id NAME everywhere, as in those two folders.

    Raises:
        FileNotFoundError: a path is missing, or holds no volume.
        ValueError: two volumes have the same id, so their predictions would have the same name; or
            a channel is missing.
    """
    sources = [source] if isinstance(source, str | Path) else source
    paths = [path for one in sources for path in _volumes_in(existing(one))]
    if not paths:
        raise ValueError("The list of images is empty: name a volume or a folder of volumes.")
    image_of = _by_id(_with_channels(paths, several=channels > 1), nnunet)
    folders = {path.parent for path in image_of.values()}
    spacing_of = {folder: _spacings_of_data_set(folder) for folder in folders}
    return [
        Volume(id, path, None, id, spacing_of[path.parent].get(id))
        for id, path in sorted(image_of.items())
    ]


def _spacings_of_data_set(folder):
    """{id: spacing} by the table of the data set whose images lie in a folder; {} without one."""
    if file_name(folder) not in [images for images, _ in LAYOUTS]:
        return {}
    table = folder.parent / "train.csv"
    return read_spacings(table) if table.is_file() and is_table(table) else {}


def _with_channels(paths, label_of=(), several=False):
    """`paths`, where files that are the channels of one image become one path.

    Args:
        paths: of images.
        label_of: ids of labels: files NAME_0000 and so on are channels where NAME has a label.
        several: all files of such names are channels.
    """
    present = {(path.parent, _stem(path)) for path in paths}

    def is_channel(path):
        name = base_of(_stem(path))
        if file_name(path.parent) in NNUNET and (path.parent, f"{name}_0000") in present:
            return True
        return several or (name in label_of and _stem(path) not in label_of)

    return grouped(paths, is_channel)


def _folders(root, images, labels):
    if images and labels:
        return existing(root / images), existing(root / labels)
    if images or labels:
        raise ValueError(
            f"data.images={images!r} and data.labels={labels!r} name only one folder of {root}: "
            "set both, or neither to find them automatically."
        )
    found = [pair for pair in LAYOUTS if all((root / name).is_dir() for name in pair)]
    names = ", ".join("+".join(pair) for pair in found or LAYOUTS)
    if not found:
        raise FileNotFoundError(
            f"{root} holds none of the folder pairs {names}: name yours in data.images and "
            "data.labels."
        )
    if len(found) > 1:
        raise ValueError(
            f"{root} holds several folder pairs, {names}: choose one with data.images and "
            "data.labels."
        )
    return root / found[0][0], root / found[0][1]


def _require_pairs(images, labels, image_of, label_of):
    """Raise a ValueError for images without a label and labels without an image."""
    unlabelled = sorted(image_of.keys() - label_of.keys())
    without_image = sorted(label_of.keys() - image_of.keys())
    if pairs := alike(unlabelled, without_image):
        raise ValueError(
            f"{images} and {labels} spell ids differently, {side_by_side(pairs)}: give each image "
            "and its label the same name."
        )
    if unlabelled:
        raise ValueError(
            f"{images} has {some(unlabelled)} without a label in {labels}: add the labels or move "
            "the images elsewhere."
        )
    if without_image:
        raise ValueError(
            f"{labels} has {some(without_image)} without an image in {images}: add the images or "
            "move the labels elsewhere."
        )


def _volumes_in(path):
    """The volume at `path`, or all volumes of the folder `path`; warns of other entries."""
    if path.is_file() or recognised(path):
        return [path if path.name.strip(".") else path.resolve()]  # '.' and '..' are not names
    children = entries(path)
    found = [child for child in children if recognised(child)]
    rest = [child for child in children if child not in found and child.name != "train.csv"]
    if not found:
        held = f" in place of {', '.join(child.name for child in rest[:5])}" if rest else ""
        raise FileNotFoundError(
            f"{path} holds no volume: put .tif, .zarr, .nii.gz, .nrrd, .mrc, .h5 or .n5 volumes "
            f"there{held}, or name another folder."
        )
    ids = {_id(child) for child in found}
    warn_of_rest(path, rest, ids | {base_of(id) for id in ids}, "volumes")
    return found


def _by_id(paths, nnunet=False):
    """{id: path}, as in nnU-Net's folders where `nnunet` is set.

    ValueError where an id, or a volume of several files, occurs twice.
    """
    ids = [_id(path, nnunet) for path in paths]
    if repeated := sorted(id for id, count in Counter(ids).items() if count > 1):
        same = [path for path, id in zip(paths, ids, strict=True) if id == repeated[0]]
        folders = list(dict.fromkeys(str(path.parent) for path in same))
        have = "has" if len(folders) == 1 else "have"
        raise ValueError(
            f"{' and '.join(folders)} {have} {some(repeated)} more than once, as "
            f"{' and '.join(map(str, same))}: keep one file per id."
        )
    _refuse_parts([file for path in paths for file in channel_files(path)])
    return dict(zip(ids, paths, strict=True))


def _refuse_parts(paths):
    """Raise a ValueError where two of the files are parts of one OME-TIFF.

    Each part is read as the whole, so it would occur twice, in training and in validation.
    """
    present = {path.absolute(): path for path in paths if path.is_file()}
    for path in paths:
        others = {path.absolute().parent / name for name in _files_of(path)} - {path.absolute()}
        if parts := sorted(present.keys() & others):
            raise ValueError(
                f"{path} and {parts[0]} are parts of one OME-TIFF of {len(others) + 1} files, each "
                "of which is read as the whole: save it as one file."
            )


def _files_of(path):
    """The names of the files that the metadata of an OME-TIFF lists, including its own."""
    if not path.is_file():
        return []
    try:
        with tifffile.TiffFile(path) as tiff:
            text = tiff.pages.first.description if tiff.is_ome else ""
            return [html.unescape(name) for name in _OTHER_FILES.findall(text)]
    except Exception:  # tifffile has many errors for damage; opening the volume reports it
        return []


def _id(path, nnunet=False):
    file, dataset = container(path)
    id = _stem(file)
    if dataset:  # several volumes of one file have different names
        id += dataset.rstrip("/").replace("/", "_")
    return id.removesuffix("_0000") if nnunet or file_name(path.parent) in NNUNET else id


def _stem(path):
    """The plain name of a volume without its extension, and of an image without its channels."""
    return EXTENSION.sub("", without_channels(file_name(path))).strip()
