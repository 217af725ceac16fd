"""Names of volumes and images where two lists are matched: files, tables, command lines."""

import re
import unicodedata
import warnings
from pathlib import Path

SHOWN = 5  # names in a sentence
_OF_DESKTOPS = ("thumbs.db", "desktop.ini")
_OF_PREDICT = "probabilities"  # a folder beside the masks
EXTENSION = re.compile(  # of a volume
    r"(\.ome)?\.(tiff?|zarr|nii|nii\.gz|nrrd|mrc|rec|h5|hdf5|n5)$", re.IGNORECASE
)
_EXTENSION = re.compile(
    r"(\.ome)?\.(tiff?|zarr|nii|nii\.gz|nrrd|mrc|rec|mha|h5|hdf5|n5|npy|png|jpe?g|bmp|webp)$"
)


def plain(text):
    """A name without blanks at its ends and with composed letters (Unicode's NFC).

    Spreadsheets add blanks; macOS writes a letter and its accent apart.
    """
    return unicodedata.normalize("NFC", text).strip()


def file_name(path):
    """The plain last part of a path, also of '.' and '..'."""
    return plain(path.name if path.name not in ("", "..") else path.resolve().name)


def some(names, noun="id"):
    """'1 id (a)', '7 ids (a, b, c, d, e, …)'."""
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({shown(names)})"


def shown(names):
    """'a, b, c, d, e, …' of a list."""
    return ", ".join(map(str, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def alike(names, others):
    """Pairs of names that differ only in spelling.

    Spelling means extensions, blanks, hyphens, underscores, case, leading zeros, the '.0' of
    spreadsheets and the channel '_0000' of nnU-Net.

    Args:
      names, others: two lists; a name that is in both makes no pair with itself.

    Returns:
      [(name, other)] in the order of `names`.
    """
    written = {}
    for other in others:
        written.setdefault(_outline(other), []).append(other)
    return [
        (name, other)
        for name in names
        for other in written.get(_outline(name), ())
        if other != name
    ]


def side_by_side(pairs):
    """ "'7' and '0007', '8' and '0008', …"."""
    return shown([f"'{a}' and '{b}'" for a, b in pairs])


def entries(folder):
    """The entries of a folder, sorted, without hidden and desktop files."""
    return sorted(
        child
        for child in folder.iterdir()
        # macOS leaves "._name.tif" beside the files it copies.
        if not child.name.startswith(".") and child.name.lower() not in _OF_DESKTOPS
    )


def require_two_folders(one, other, what=("images", "labels")):
    """Raise a ValueError where two paths lead to one folder: its files would match themselves."""
    if Path(one).resolve() == Path(other).resolve():
        raise ValueError(
            f"{one} is given for the {what[0]} and for the {what[1]}: name two folders."
        )


def warn_of_rest(folder, rest, ids, noun):
    """Warn of the entries of a folder that are not read.

    Args:
      folder: its path.
      rest: paths in it that are not read.
      ids: of the files read; JSON files of the same names are sidecars of predict.
      noun: for the files read, in the plural.
    """
    names = [
        path.name
        for path in rest
        if path.name != _OF_PREDICT and not (path.suffix == ".json" and plain(path.stem) in ids)
    ]
    if names:
        entry = "1 entry that is" if len(names) == 1 else f"{len(names)} entries that are"
        warnings.warn(
            f"{folder} holds {entry} not read as {noun} ({shown(names)}): convert those to be "
            "read and move the rest elsewhere.",
            stacklevel=2,
        )


def _outline(name):
    """A name without the spelling variations of `alike`."""
    text = _EXTENSION.sub("", unicodedata.normalize("NFKC", name).casefold().strip())
    text = re.sub(r"(_0000|\.0)$", "", text)
    text = re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\s_-]+", " ", text))
    return re.sub(r"(?<!\d) | (?!\d)", "", text)  # between two numbers a blank is significant
