"""Files appear whole or not at all: they are written beside their place, then renamed."""

import contextlib
import json
import os
from pathlib import Path


@contextlib.contextmanager
def replacing(path):
    """Yield a path beside `path`, with its extension, that takes its place when all went well.

    On an error, whatever was written is removed and a file that stood there stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_json(path):
    """What a JSON file holds.

    Raises:
      ValueError: it is no JSON.
      OSError: it cannot be read.
    """
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): remove it, or write it again.") from error


def write_json(path, content):
    """Write JSON types as an indented file."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n")
