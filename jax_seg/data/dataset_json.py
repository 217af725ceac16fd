"""What nnU-Net's dataset.json says, where it lies beside the volumes of a data set."""

from pathlib import Path

from jax_seg.ops.classes import MASKED
from jax_seg.system.files import read_json

NAME = "dataset.json"


def label_values(root):
    """{name: [label values]}, background and ignore included.

    {} where the folder has no such file, or it names no background or values that are no integers.
    """
    try:
        said = _read(root).get("labels", {}).items()
        values_of = {name: [v] if isinstance(v, int) else list(v) for name, v in said}
    except (AttributeError, TypeError):
        return {}
    integers = all(isinstance(v, int) for some in values_of.values() for v in some)
    return values_of if integers and "background" in values_of else {}


def region_order(root):
    """The entry regions_class_order; None without one."""
    return _read(root).get("regions_class_order")


def channel_names(root):
    """The channels' names in their order, as ['CT'] or ['T1', 'T2']; [] where none are given."""
    names = _read(root).get("channel_names")
    return [*map(str, names.values())] if isinstance(names, dict) else []


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


def _read(root):
    """The file as a dict; {} where there is none, or one of something else."""
    try:
        said = read_json(Path(root) / NAME)
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
