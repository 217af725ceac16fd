"""Turn the label values of a data set into background, foreground and masked voxels."""

import functools
import numbers
from typing import NamedTuple

import numpy as np

from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED

REST = "rest"  # in a field: all label values that no field names
BLOCK = 1 << 18  # voxels encoded at once: to look one up takes eight bytes for its index
_UNNAMED = 254  # while values are looked up; no class


class Counts(NamedTuple):
    """Voxels of each kind in an encoded label."""

    background: int
    foreground: int
    masked: int


class LabelTable(NamedTuple):
    """The meaning of label values.

    Attributes:
      values: the named ones, ascending.
      classes: of `ops.classes`, of each of them.
      rest: the class of all others, None where they are an error.
    """

    values: tuple
    classes: tuple
    rest: int | None

    def tobytes(self):
        """Bytes that identify the table."""
        return repr(tuple(self)).encode()

    def __str__(self):
        """'{0: background, 1: foreground, 2: unlabelled}', for errors."""
        kinds = {BACKGROUND: "background", FOREGROUND: "foreground", MASKED: "unlabelled"}
        found = [f"{v}: {kinds[c]}" for v, c in zip(self.values, self.classes, strict=True)]
        rest = [] if self.rest is None else [f"{REST}: {kinds[self.rest]}"]
        return f"{{{', '.join(found + rest)}}}"


def label_table(foreground=(1,), ignore=(2,), background=(0,), prefix="data."):
    """Which label values are BACKGROUND, FOREGROUND or MASKED.

    Args:
        foreground, ignore, background: the label values of each kind: integers, negative ones and
            instance numbers included; 'rest' in one of them means all values not named.
        prefix: of their names in errors: "data." are fields, "--" flags of a command line.

    Returns:
        LabelTable.

    Raises:
        ValueError: a value is not an integer or is named twice, or there is no foreground.
    """
    fields = {
        f"{prefix}background": (background, BACKGROUND),
        f"{prefix}foreground": (foreground, FOREGROUND),
        f"{prefix}ignore": (ignore, MASKED),
    }
    class_of, owner = {}, {}
    for field, (values, kind) in fields.items():
        for value in map(functools.partial(_checked, field), _listed(values)):
            if value in owner:
                named = "'rest'" if value == REST else f"the label value {value}"
                raise ValueError(f"{owner[value]} and {field} both name {named}: name it once.")
            owner[value], class_of[value] = field, kind
    if FOREGROUND not in class_of.values():
        raise ValueError(f"{prefix}foreground names no label value: name the values to segment.")
    rest = class_of.pop(REST, None)
    values = sorted(class_of)
    return LabelTable(tuple(values), tuple(class_of[value] for value in values), rest)


def label_value(text):
    """The label value of a command line's word: an integer, or 'rest'.

    Raises:
        ValueError: it is neither.
    """
    return text if text == REST else int(text)


def encode(label, table, path, prefix="data."):
    """Label values to BACKGROUND, FOREGROUND and MASKED.

    Args:
        label: [D, H, W] of bool, integers, or floating point with integer values.
        table: `LabelTable`.
        path: of the label's file, for errors.
        prefix: as in `label_table`.

    Returns:
        uint8 [D, H, W].

    Raises:
        ValueError: a value is not an integer or is not named in the table.
    """
    label = np.asarray(label)
    if label.dtype.kind not in "biuf":
        raise ValueError(f"{path} holds {label.dtype} labels: save them as integers.")
    if label.dtype.kind == "b":
        label = label.view(np.uint8)
    small = label.dtype.kind != "f" and label.dtype.itemsize <= 2
    lookup = _lookup(table, label.dtype.newbyteorder("=")) if small else None
    encoded = np.empty(label.shape, np.uint8)
    blocks = np.nditer(
        (label, encoded),
        ("external_loop", "buffered", "zerosize_ok"),
        (("readonly",), ("writeonly",)),
        order="C",
        buffersize=BLOCK,
    )
    with blocks:
        for values, classes in blocks:
            if label.dtype.kind == "f":
                _require_integers(values, path)
            # A negative value counts from the end of the lookup, where its class is.
            found = lookup[values] if small else _search(values, table)
            if table.rest is None and (unnamed := found == _UNNAMED).any():
                raise ValueError(
                    f"{path} holds the label value {int(values[unnamed][0])}, which none of "
                    f"{prefix}foreground, {prefix}ignore and {prefix}background names: add it to "
                    f"one of them, or '{REST}' for all unnamed values."
                )
            classes[...] = found
    return encoded


def require_labelled(label, path):
    """Raise a ValueError where no voxel of an encoded label is labelled; `path` is its file."""
    if (label == MASKED).all():
        raise ValueError(f"{path} has no labelled voxel: remove this volume.")


def count(label):
    """The `Counts` of an encoded label."""
    kinds = (BACKGROUND, FOREGROUND, MASKED)
    return Counts(*(int(np.count_nonzero(label == kind)) for kind in kinds))


def _listed(values):
    """A field's values as a tuple; a single value becomes a tuple of one."""
    return (values,) if isinstance(values, str | numbers.Number) else values


def _checked(field, value):
    """The label value as an int, 1.0 as 1; or 'rest'."""
    if value == REST:
        return REST
    if isinstance(value, numbers.Real) and value == value // 1:  # of NaN and infinity neither
        return int(value)
    raise ValueError(
        f"{field} names the label value {value!r}: use integers, or '{REST}' for all values that "
        "are not named."
    )


def _require_integers(values, path):
    broken = ~np.isfinite(values) | (values != np.rint(values))
    if broken.any():
        raise ValueError(
            f"{path} holds the label value {values[broken][0]}, which is not an integer: save "
            "labels as integers."
        )


@functools.lru_cache(maxsize=16)
def _lookup(table, dtype):
    """uint8 [256 or 65536], the class of each value of a small integer type, 0, 1, … -2, -1."""
    return _search(np.arange(1 << 8 * dtype.itemsize).astype(dtype), table)


def _search(values, table):
    """The class of each of `values` [N], of any real dtype, by bisection."""
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        named = [v for v in table.values if abs(v) < 2**63 and float(v) == v]
    else:
        limits = np.iinfo(values.dtype)
        named = [v for v in table.values if limits.min <= v <= limits.max]
    rest = np.uint8(_UNNAMED if table.rest is None else table.rest)
    if not named:
        return np.full(values.shape, rest)
    class_of = dict(zip(table.values, table.classes, strict=True))
    classes = np.array([class_of[v] for v in named], np.uint8)
    named = np.array(named, values.dtype)
    place = np.minimum(np.searchsorted(named, values), len(named) - 1)
    return np.where(named[place] == values, classes[place], rest)
