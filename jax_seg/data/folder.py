"""Find the volumes of a data set: an image folder, a label folder and a table of scrolls."""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from jax_seg.data.readers.zarr import is_zarr
from jax_seg.system.files import existing

LAYOUTS = (("train_images", "train_labels"), ("imagesTr", "labelsTr"), ("images", "labels"))
_EXTENSION = re.compile(r"(\.ome)?\.(tiff?|zarr)$", re.IGNORECASE)


class Volume(NamedTuple):
    """One volume on disk; `label` is None where there is only an image to predict."""

    id: str
    image: Path
    label: Path | None
    scroll_id: str


def find_volumes(root, images="", labels="", table=""):
    """Pairs every image of a data set with its label.

    Args:
        root: the folder of the data set.
        images, labels: folder names inside `root` (or absolute paths); both empty means the one
            pair of `LAYOUTS` that exists.
        table: a CSV file inside `root` with columns id and scroll_id; empty means train.csv where
            it exists. Without a table every volume is a scroll of its own.

    Returns:
        [Volume], sorted by id. The id is the file name without its extension, and in nnU-Net's
        imagesTr and imagesTs without the channel suffix _0000.

    Raises:
        FileNotFoundError: `root`, a named folder or a named table is missing, or holds nothing.
        ValueError: images and labels do not pair one to one, or the table does not fit them.
    """
    root = existing(root)
    images, labels = _folders(root, images, labels)
    image_of, label_of = _by_id(_volumes_in(images)), _by_id(_volumes_in(labels))
    if without := sorted(image_of.keys() - label_of.keys()):
        raise ValueError(
            f"{images} has {_some(without)} without a label in {labels}: add the labels or move "
            "the images out."
        )
    if without := sorted(label_of.keys() - image_of.keys()):
        raise ValueError(
            f"{labels} has {_some(without)} without an image in {images}: add the images or move "
            "the labels out."
        )
    table = existing(root / table) if table else root / "train.csv"
    scroll_of = _read_table(table, images, image_of) if table.exists() else {}
    return [
        Volume(id, image_of[id], label_of[id], scroll_of.get(id, id)) for id in sorted(image_of)
    ]


def find_images(source):
    """The volumes to predict, without labels: [Volume], sorted by id.

    Args:
        source: a TIFF file, a Zarr folder, a folder of either, or a list of these.

    Raises:
        FileNotFoundError: a path is missing, or holds no volume.
        ValueError: two volumes have the same id, so their predictions would have the same name.
    """
    sources = [source] if isinstance(source, str | Path) else source
    paths = [path for one in sources for path in _volumes_in(existing(one))]
    if not paths:
        raise ValueError("The list of images is empty: name a volume or a folder of volumes.")
    image_of = _by_id(paths)
    return [Volume(id, image_of[id], None, id) for id in sorted(image_of)]


def _folders(root, images, labels):
    if images and labels:
        return existing(root / images), existing(root / labels)
    if images or labels:
        raise ValueError(
            f"data.images={images!r} and data.labels={labels!r} name only one folder of {root}: "
            "set both, or neither to have them found."
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


def _volumes_in(path):
    """The volume at `path`, or all volumes of the folder `path`."""
    if path.is_file() or is_zarr(path):
        return [path if path.name.strip(".") else path.resolve()]  # '.' and '..' are no names
    found = [
        child
        for child in path.iterdir()
        # macOS leaves "._name.tif" beside the files it copies: names with a dot are never volumes.
        if _EXTENSION.search(child.name) and not child.name.startswith(".")
    ]
    if not found:
        raise FileNotFoundError(
            f"{path} holds no volume: put .tif, .tiff, .zarr or .ome.zarr volumes there or name "
            "another folder."
        )
    return found


def _by_id(paths):
    ids = [_id(path) for path in paths]
    if repeated := sorted(id for id, count in Counter(ids).items() if count > 1):
        folders = dict.fromkeys(str(p.parent) for p in paths if _id(p) in repeated)
        raise ValueError(
            f"{' and '.join(folders)} {'have' if len(folders) > 1 else 'has'} {_some(repeated)} "
            "more than once: keep one file of each id."
        )
    return dict(zip(ids, paths, strict=True))


def _id(path):
    id = _EXTENSION.sub("", path.name)
    return id.removesuffix("_0000") if path.parent.name in ("imagesTr", "imagesTs") else id


def _read_table(table, images, image_of):
    """{id: scroll_id} of a CSV file that must have one row for each image."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = reader.fieldnames or []
        if missing := [name for name in ("id", "scroll_id") if name not in columns]:
            raise ValueError(
                f"{table} has no column {' and no column '.join(missing)}: give it the columns id "
                "and scroll_id."
            )
        rows = [(row["id"] or "", row["scroll_id"] or "") for row in reader]
    scroll_of = dict(rows)
    if incomplete := [row for row in rows if not all(row)]:
        raise ValueError(
            f"{table} has a row {incomplete[0]} without id or scroll_id: fill both in every row."
        )
    if repeated := sorted(id for id, count in Counter(id for id, _ in rows).items() if count > 1):
        raise ValueError(f"{table} has {_some(repeated)} in several rows: keep one row per id.")
    if without := sorted(scroll_of.keys() - image_of.keys()):
        raise ValueError(
            f"{table} has {_some(without)} without an image in {images}: add the images or remove "
            "the rows."
        )
    if without := sorted(image_of.keys() - scroll_of.keys()):
        raise ValueError(
            f"{table} has no row for {_some(without)} of {images}: add the rows, so that no scroll "
            "is split over folds."
        )
    return scroll_of


def _some(ids):
    """'1 id (a)', '7 ids (a, b, c, d, e, …)'."""
    shown = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
    return f"{len(ids)} id{'s' if len(ids) > 1 else ''} ({shown})"
