"""Files appear whole or not at all: they are written beside their place, then renamed."""

import contextlib
import fcntl
import json
import os
import re
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


@contextlib.contextmanager
def locked(folder):
    """Hold a folder, made when absent, for this process alone; a process that ends lets it go.

    Raises:
      ValueError: another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder} is in use by another process: wait until it ends, or choose another "
                "--workdir."
            ) from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


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


def existing(path, field=""):
    """`path` as a Path.

    Args:
      path: of a file or folder.
      field: of the configuration that gave it, for the error.

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: it is the address of a server or an object store.
    """
    path = Path(path)
    if not path.exists():
        if address := re.match(r"(\w{2,}):/+(.*)", str(path)):  # Path has made one slash of "//"
            raise ValueError(
                f"{address[1]}://{address[2]} is an address, and only files of this machine are "
                "read: copy or mount it here first."
            )
        named = f"{field} is {path}, which" if field else path
        raise FileNotFoundError(f"{named} does not exist: check the path.")
    return path


def stamp(path):
    """[files, bytes, newest time in nanoseconds] of a file or folder: another when it changes."""
    path = Path(path)
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    status = [file.stat() for file in files]
    return [
        len(files),
        sum(s.st_size for s in status),
        max((s.st_mtime_ns for s in status), default=0),
    ]
