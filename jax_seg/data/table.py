"""The table of a data set, train.csv: the scroll of each volume, and its spacing."""

import codecs
import csv
import io
import re
import warnings
from collections import Counter

from jax_seg.data.names import alike, plain, side_by_side, some
from jax_seg.data.readers.spacing import three_positive

COLUMNS = ("id", "scroll_id")
SPACING = "spacing"  # a column that may be absent
_MARKS = (  # UTF-32's begins like UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = ",;\t|"


def read_scrolls(table, images, ids):
    """The scroll of every volume.

    Args:
      table: path of a text file with the columns id and scroll_id, in UTF-8, UTF-16 or
        Windows-1252, separated by commas, semicolons, tabs or bars.
      images: folder of the images, for errors.
      ids: of the images, as `names.plain` leaves them; each has one row.

    Returns:
      {id: scroll_id}.

    Raises:
      ValueError: it is not such a table, or its ids do not match.
    """
    rows = _rows(table)
    if incomplete := [row for row in rows if not all(row)]:
        raise ValueError(
            f"{table} has a row {incomplete[0]} without id or scroll_id: fill both in every row."
        )
    if repeated := sorted(id for id, count in Counter(id for id, _ in rows).items() if count > 1):
        raise ValueError(f"{table} has {some(repeated)} in several rows: keep one row per id.")
    scroll_of = dict(rows)
    unknown, missing = sorted(scroll_of.keys() - ids), sorted(set(ids) - scroll_of.keys())
    if pairs := alike(unknown, missing):
        raise ValueError(
            f"{table} and {images} spell ids differently, {side_by_side(pairs)}: write them in the "
            "table as the files are named, without extension."
        )
    if unknown:
        raise ValueError(
            f"{table} has {some(unknown)} without an image in {images}: add the images or remove "
            "the rows."
        )
    if missing:
        raise ValueError(
            f"{table} has no row for {some(missing)} of {images}: add the rows, so that no scroll "
            "is split over folds."
        )
    scrolls = sorted(set(scroll_of.values()))
    if pairs := [pair for pair in alike(scrolls, scrolls) if pair[0] < pair[1]]:
        warnings.warn(
            f"{table} has scroll names that differ only in spelling, {side_by_side(pairs)}: if "
            "they are the same scroll, spell them alike, or a fold may split it.",
            stacklevel=2,
        )
    return scroll_of


def is_table(path):
    """Whether a file has any column of a data set's table, and is not one of something else.

    Raises:
      ValueError: it is not a table.
    """
    return bool({*COLUMNS, SPACING} & {*_lines(path)[0]})


def read_spacings(table):
    """{id: (z, y, x)} of the column `spacing`; ids with an empty cell, or all, may be absent.

    Args:
      table: of `read_scrolls`; a cell holds three numbers as '2 0.5 0.5', between spaces, commas or
        semicolons.

    Raises:
      ValueError: a cell holds something else.
    """
    header, lines = _header_and_lines(table)
    if SPACING not in header:
        return {}
    place, found = header.index(SPACING), {}
    for line in lines:
        if text := line[place] if place < len(line) else "":
            id = line[header.index("id")]
            found[id] = three_positive(re.split(r"[\s,;]+", text.strip()))
            if found[id] is None:
                raise ValueError(
                    f"{table} has the spacing {text!r} for {id}: write three numbers above 0, "
                    "depth first, as '2 0.5 0.5'."
                )
    return found


def _rows(table):
    """[(id, scroll_id)] of a table, without its empty rows."""
    header, lines = _header_and_lines(table)
    places = [header.index(name) for name in COLUMNS]
    return [tuple(line[place] if place < len(line) else "" for place in places) for line in lines]


def _header_and_lines(table):
    """(header, rows that are not empty) of a table that has COLUMNS, as lists of plain texts."""
    header, *lines = _lines(table)
    if missing := [name for name in COLUMNS if name not in header]:
        instead = f" instead of {', '.join(map(repr, header))}" if header else ""
        raise ValueError(
            f"{table} has no column {' and no column '.join(missing)}: give it the columns id "
            f"and scroll_id{instead}."
        )
    return header, lines


def _lines(table):
    """The rows of a table that are not empty, the header first, as lists of plain texts."""
    text = _text(table)
    if text[:4].lower() == "sep=":  # Excel's own line
        text = text.partition("\n")[2]
    try:
        separator = max(_SEPARATORS, key=lambda separator: _found(text, separator))
        lines = [[plain(cell) for cell in line] for line in _reader(text, separator)]
    except csv.Error as error:
        raise ValueError(f"{table} is not a table ({error}): export it as CSV again.") from error
    return [line for line in lines if any(line)] or [[]]


def _reader(text, separator):
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)


def _found(text, separator):
    """How many of COLUMNS the first line has with a separator."""
    return len(set(COLUMNS) & {plain(cell) for cell in next(_reader(text, separator), ())})


def _text(table):
    if table.is_dir():
        raise ValueError(
            f"{table} is a folder, but this name is reserved for the table: rename the folder."
        )
    content = table.read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:2]:
        encoding = "utf-16-be" if content.startswith(b"\0") else "utf-16-le"
    for known in (encoding, "cp1252"):
        try:
            text = content.decode(known)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            continue
        if known != encoding:
            warnings.warn(
                f"{table} is not UTF-8 and is read as Windows-1252: save it as UTF-8 if letters "
                "are wrong.",
                stacklevel=2,
            )
        return text
    raise ValueError(f"{table} is not text of a known encoding: save it as UTF-8.")
