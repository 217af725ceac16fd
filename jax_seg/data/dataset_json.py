"""What nnU-Net's dataset.json says, where it lies beside the volumes of a data set."""

from pathlib import Path

from jax_seg.ops.classes import MASKED
from jax_seg.system.files import read_json

NAME = "dataset.json"


def label_values(root):
    """{name: [label values]}, background and ignore included.

    {} where the folder has no such file, or it names no background or values that are no integers.
    """
    said = _read(root, "labels")
    try:
        values_of = {name: [v] if isinstance(v, int) else list(v) for name, v in said.items()}
    except TypeError:
        return {}
    integers = all(isinstance(v, int) for some in values_of.values() for v in some)
    return values_of if integers and "background" in values_of else {}


def region_order(root):
    """The entry regions_class_order; None without one."""
    return _read(root, "regions_class_order") or None


def channel_names(root):
    """The channels' names in their order, as ['CT'] or ['T1', 'T2']; [] where none are given."""
    return [*map(str, _read(root, "channel_names").values())]


def masked_although_named(root, table):
    """A sentence for each label value that has a name there, and is unlabelled in a `LabelTable`.

    The configurations' default masks the value 2, which is often a class.
    """
    masked = {v for v, code in zip(table.values, table.codes, strict=True) if code == MASKED}
    return [
        f"data.ignore masks the label value {value}, which {Path(root) / NAME} names '{name}': to "
        "learn it, name it in data.foreground or data.classes; configs/auto.py does so by itself."
        for name, values in label_values(root).items()
        if name not in ("background", "ignore")
        for value in values
        if value in masked
    ]


def _read(root, entry):
    try:
        return read_json(Path(root) / NAME).get(entry) or {}
    except (FileNotFoundError, AttributeError):
        return {}
