"""The files that a result rests on, recorded beside it, and what changed in them since.

A record holds a stamp of each file (number, bytes, time), which is compared in no time, and a
checksum of its bytes, which is computed again only where the stamp differs: a copy has another time
and the same bytes. A file that is not where it was, as after a run moved to another machine, proves
nothing.
"""

import zlib
from pathlib import Path

from jax_seg.system.files import channel_files, container, read_json, stamp, write_json

PARTS = ("image", "label")
CHUNK = 2**20  # bytes read at a time


def record(pairs):
    """What a result stores as 'sources'.

    Args:
      pairs: {id: (path of its image or None, path of its label)}.

    Returns:
      {id: {'image' and 'label': {'path', 'stamp', 'crc'}}} of JSON types.
    """
    return {
        name: {part: _of_file(path) for part, path in zip(PARTS, pair, strict=True) if path}
        for name, pair in pairs.items()
    }


def changed(content):
    """{id: parts that changed}, of PARTS, of the sources that a result records.

    Args:
      content: dict of the result; one of an older version records no sources.
    """
    found = {}
    for name, files in content.get("sources", {}).items():
        if parts := [part for part in PARTS if part in files and _differs(files[part])]:
            found[name] = parts
    return found


def since(content, moment, advice):
    """A sentence on what changed since a result was made; '' for nothing.

    Args:
      content: of `changed`.
      moment: as 'the steps were chosen'.
      advice: what to do, as 'run jax_seg.tune again'.
    """
    found = changed(content)
    return f"{in_words(found)} changed since {moment}: {advice}." if found else ""


def in_words(found):
    """'The image and label of v0 and 2 more' of a dict as `changed` returns it, not empty."""
    (first, parts), *others = found.items()
    more = f" and {len(others)} more" if others else ""
    return f"The {' and '.join(parts)} of {first}{more}"


def differing(before, now):
    """The PARTS that differ between two checksums of a `Task`.

    An older version stored the bytes of an image of the second kind alone, without their checksum.
    """
    return [
        part
        for part, a, b in zip(PARTS, before, now, strict=True)
        if a != b and not (isinstance(b, list) and a == b[0])
    ]


def refresh(path, checksums, pairs):
    """Record the present files in a file of scores, whose content they still have.

    Their stamps differ where they were copied or written again; an older version stored none.

    Args:
      path: of `validation/scores.json`.
      checksums: of a `Task`, those of the validation part.
      pairs: of `record`.
    """
    content = read_json(path) if path.exists() else {}
    stale = any(_stale(content.get("sources", {}).get(name), pair) for name, pair in pairs.items())
    if content and (stale or content.get("data") != checksums):
        write_json(path, content | {"data": checksums, "sources": record(pairs)})


def _stale(known, pair):
    """Whether the record of an image and its label has other stamps or places than they have."""
    if not known:
        return True
    paths = dict(zip(PARTS, pair, strict=True))
    return any(
        known[part]["path"] != str(Path(path).absolute()) or known[part]["stamp"] != stamp(path)
        for part, path in paths.items()
    )


def _of_file(path):
    return {"path": str(Path(path).absolute()), "stamp": stamp(path), "crc": _checksum(path)}


def _differs(file):
    path = Path(file["path"])
    present = all(container(one)[0].exists() for one in channel_files(path))
    if not present or stamp(path) == file["stamp"]:
        return False
    return _checksum(path) != file["crc"]


def _checksum(path):
    """CRC-32 of the bytes of a file, of all files in a folder, or of all channels of an image."""
    checksum, files = 0, []
    for one in channel_files(path):
        files += sorted(p for p in one.rglob("*") if p.is_file()) if one.is_dir() else [one]
    for one in files:
        with one.open("rb") as file:
            while chunk := file.read(CHUNK):
                checksum = zlib.crc32(chunk, checksum)
    return checksum
