"""Turn the label values of a data set into background, foreground and masked voxels."""

import functools
import numbers
from typing import NamedTuple

import numpy as np

from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED, ONE, Classes

REST = "rest"  # in a field: all label values that no field names
BLOCK = 1 << 18  # voxels encoded at once: to look one up takes eight bytes for its index
UNLABELLED = (2,)  # by default: the value that the competition masks
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
      codes: of `ops.classes`, of each of them.
      rest: the code of all others, None where they are an error.
      classes: `Classes` that the codes belong to.
    """

    values: tuple
    codes: tuple
    rest: int | None
    classes: Classes = ONE

    @property
    def foreground(self):
        """The values of all classes."""
        named = zip(self.values, self.codes, strict=True)
        return tuple(value for value, code in named if code not in (BACKGROUND, MASKED))

    def together(self):
        """The table in which all classes are foreground."""
        known = BACKGROUND, MASKED
        codes = tuple(code if code in known else FOREGROUND for code in self.codes)
        return self._replace(codes=codes, classes=ONE)

    def tobytes(self):
        """Bytes that identify the table."""
        return repr(tuple(self)).encode()

    def __str__(self):
        """'{0: background, 1: foreground, 2: unlabelled}', for errors."""
        kinds = {BACKGROUND: "background", MASKED: "unlabelled"}
        for name, codes in zip(self.classes.names, self.classes.codes, strict=True):
            for code in codes:
                kinds[code] = f"{kinds[code]} and {name}" if code in kinds else name
        found = [f"{v}: {kinds[c]}" for v, c in zip(self.values, self.codes, strict=True)]
        rest = [] if self.rest is None else [f"{REST}: {kinds[self.rest]}"]
        return f"{{{', '.join(found + rest)}}}"


def label_table(foreground=(1,), ignore=UNLABELLED, background=(0,), classes=(), prefix="data."):
    """Which label values are BACKGROUND, FOREGROUND or MASKED, or of which class.

    Args:
        foreground, ignore, background: the label values of each kind: integers, negative ones and
            instance numbers included; 'rest' in one of them means all values not named. A value
            that `ignore` holds by default is what another one of them names it.
        classes: several kinds of foreground instead, each as 'name=value' or 'name=value,value';
            they may share values.
        prefix: of their names in errors: "data." are fields, "--" flags of a command line.

    Returns:
        LabelTable.

    Raises:
        ValueError: a value is not an integer or is named twice, there is no foreground, or classes
            are not told apart.
    """
    told_apart, code_in = ONE, {}
    background, foreground, ignore = map(_listed, (background, foreground, ignore))
    if classes:
        field = f"{prefix}classes"
        told_apart, code_in = _several(_listed(classes), field)
        if set(foreground) - {1, *code_in}:
            raise ValueError(
                f"{prefix}foreground and {field} both say what is segmented: leave the former out."
            )
    if tuple(ignore) == UNLABELLED and {*background, *(code_in or foreground)} & {*UNLABELLED}:
        ignore = ()
    fields = {
        f"{prefix}background": [(value, BACKGROUND) for value in background],
        f"{prefix}foreground": [(value, FOREGROUND) for value in foreground],
        f"{prefix}ignore": [(value, MASKED) for value in ignore],
    }
    if classes:
        del fields[f"{prefix}foreground"]
        fields = {field: code_in.items()} | fields
    code_of, owner = {}, {}
    for field, named in fields.items():
        for value, code in named:
            value = _checked(field, value)
            if value in owner:
                twice = "'rest'" if value == REST else f"the label value {value}"
                raise ValueError(f"{owner[value]} and {field} both name {twice}: name it once.")
            owner[value], code_of[value] = field, code
    if 0 in told_apart.values:
        name = told_apart.names[told_apart.values.index(0)]
        raise ValueError(
            f"{prefix}classes begins '{name}' with the label value 0, which predictions have where "
            "no class is: begin it with another, or change it in the files."
        )
    if not set(code_of.values()) - {BACKGROUND, MASKED}:
        raise ValueError(f"{prefix}foreground names no label value: name the values to segment.")
    rest = code_of.pop(REST, None)
    values = sorted(code_of)
    return LabelTable(tuple(values), tuple(code_of[v] for v in values), rest, told_apart)


def class_names(classes):
    """The names in a field of classes, see `label_table`; () for one class without a name."""
    return tuple(text.partition("=")[0].strip() for text in _listed(classes))


def _several(classes, field):
    """(`Classes`, {label value: code}) of classes as 'name=value,value'."""
    values_of = {}
    for text in classes:
        name, _, values = str(text).partition("=")
        name = name.strip()
        try:
            found = tuple(int(value) for value in values.split(","))
        except ValueError:
            raise ValueError(
                f"{field} holds {text!r}: write a name and label values, as 'sheet=1' or "
                "'sheet=1,3'."
            ) from None
        if not name or name in values_of:
            raise ValueError(
                f"{field} names {name!r} twice: give every class a name of its own."
                if name
                else f"{field} holds {text!r}, a class without a name: write 'sheet=1'."
            )
        values_of[name] = found
    sets = {}
    for name, values in values_of.items():
        for value in dict.fromkeys(values):
            sets.setdefault(value, []).append(name)
    codes = {}  # of every set of classes, in the order in which they occur
    for names in sets.values():
        codes.setdefault(tuple(names), len(codes) + 1)
    if len(codes) >= _UNNAMED:
        raise ValueError(
            f"{field} makes {len(codes)} sets of classes; up to {_UNNAMED - 1} are held."
        )
    written = tuple(values[0] for values in values_of.values())
    if len(set(written)) < len(written):
        raise ValueError(
            f"{field} begins two classes with one label value, which predictions of both would "
            "have: begin each with a value of its own."
        )
    codes_of = {
        name: tuple(code for names, code in codes.items() if name in names) for name in values_of
    }
    classes = Classes(tuple(values_of), tuple(codes_of.values()), written)
    return classes, {value: codes[tuple(names)] for value, names in sets.items()}


def label_value(text):
    """The label value of a command line's word: an integer, or 'rest'.

    Raises:
        ValueError: it is neither.
    """
    return text if text == REST else int(text)


def encode(label, table, path, prefix="data."):
    """Label values to codes of `ops.classes`.

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
                named = "foreground" if table.classes == ONE else "classes"
                raise ValueError(
                    f"{path} holds the label value {int(values[unnamed][0])}, which none of "
                    f"{prefix}{named}, {prefix}ignore and {prefix}background names: add it to "
                    f"one of them, or '{REST}' for all unnamed values."
                )
            classes[...] = found
    return encoded


def require_labelled(label, path):
    """Raise a ValueError where no voxel of an encoded label is labelled; `path` is its file."""
    if (label == MASKED).all():
        raise ValueError(f"{path} has no labelled voxel: remove this volume.")


def count(label):
    """The `Counts` of an encoded label; every class counts as foreground."""
    background, masked = (int(np.count_nonzero(label == kind)) for kind in (BACKGROUND, MASKED))
    return Counts(background, label.size - background - masked, masked)


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
    code_of = dict(zip(table.values, table.codes, strict=True))
    codes = np.array([code_of[v] for v in named], np.uint8)
    named = np.array(named, values.dtype)
    place = np.minimum(np.searchsorted(named, values), len(named) - 1)
    return np.where(named[place] == values, codes[place], rest)
