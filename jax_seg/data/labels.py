"""Turn the label values of a data set into background, foreground and masked voxels."""

from typing import NamedTuple

import numpy as np

BACKGROUND, FOREGROUND, MASKED = 0, 1, 2
_UNNAMED = 255


class Counts(NamedTuple):
    """Voxels of each kind in an encoded label."""

    background: int
    foreground: int
    masked: int


def label_table(foreground=(1,), ignore=(2,), background=(0,), prefix="data."):
    """The lookup from a label value to BACKGROUND, FOREGROUND or MASKED.

    Args:
        foreground, ignore, background: the label values, 0 to 255, of each kind.
        prefix: of their names in errors: "data." are fields, "--" flags of a command line.

    Returns:
        uint8 [256]; values that are not named map to 255.

    Raises:
        ValueError: a value is out of range or named twice, or there is no foreground.
    """
    table = np.full(256, _UNNAMED, np.uint8)
    fields = {
        f"{prefix}background": (background, BACKGROUND),
        f"{prefix}foreground": (foreground, FOREGROUND),
        f"{prefix}ignore": (ignore, MASKED),
    }
    if not len(foreground):
        raise ValueError(f"{prefix}foreground names no label value: name the values to segment.")
    owner = {}
    for field, (values, kind) in fields.items():
        for value in values:
            if value not in range(256):
                raise ValueError(f"{field} names the label value {value}: use integers 0 to 255.")
            if value in owner:
                raise ValueError(
                    f"{owner[value]} and {field} both name the label value {value}: name it once."
                )
            owner[value] = field
            table[value] = kind
    return table


def encode(label, table, path, prefix="data."):
    """Label values to BACKGROUND, FOREGROUND and MASKED.

    Args:
        label: [D, H, W] of bool, integers, or floating point with integer values.
        table: uint8 [256] from `label_table`.
        path: where the label came from, for the error.
        prefix: as in `label_table`.

    Returns:
        uint8 [D, H, W].

    Raises:
        ValueError: a value is no integer or is not named in the table.
    """
    label = np.asarray(label)
    if label.dtype.kind not in "biuf":
        raise ValueError(f"{path} holds {label.dtype} labels: save them as uint8.")
    if label.dtype.kind == "f":
        broken = label != np.rint(label)  # NaN too; infinity falls out of range below
        if broken.any():
            raise ValueError(
                f"{path} holds the label value {label[broken][0]}, which is no integer: save "
                "labels as uint8."
            )
    if label.dtype.kind == "b":
        label = label.view(np.uint8)
    if label.dtype != np.uint8:
        outside = (label < 0) | (label > 255)
        if outside.any():
            raise _unnamed(path, label[outside][0], prefix)
        label = label.astype(np.uint8)
    encoded = table[label]
    if encoded.max(initial=0) == _UNNAMED:
        raise _unnamed(path, label.flat[encoded.argmax()], prefix)
    return encoded


def count(label):
    """The `Counts` of an encoded label."""
    return Counts(*(int(np.count_nonzero(label == kind)) for kind in range(3)))


def _unnamed(path, value, prefix):
    return ValueError(
        f"{path} holds the label value {value}, which none of {prefix}foreground, {prefix}ignore "
        f"and {prefix}background names: add it to one of them."
    )
