"""What says that a block is done: a small file, renamed into place after the block's own.

It holds the digest of the settings, the size and checksum of what was written, and a digest of what
it was made from. Everything else, a shard alone or a record of other settings, is not done.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from pathlib import Path

from jax_seg.system.files import write_json, writing
from jax_seg.system.outputs import marked

SETTINGS = "settings.json"
PARTS = "parts"  # folder of locks


def name_of(index):
    """'2.0.11' of the block (2, 0, 11)."""
    return ".".join(map(str, index))


def index_of(name):
    """The block of such a name; None of another."""
    fields = name.split(".")
    return tuple(map(int, fields)) if all(field.isdigit() for field in fields) else None


def write(folder, index, content):
    """Write the record of a block, after its files.

    Neither waits for the disk, which would take longer than a quick block: after a power cut a
    damaged record is none, and the checksum in a whole one finds damaged files.
    """
    write_json(Path(folder) / f"{name_of(index)}.json", content, durable=False)


def read_all(folder, settings):
    """{index: content} of the whole records in a folder that are of these settings.

    Args:
      folder: of the records of one pass; it may be absent.
      settings: digest.
    """
    found = {
        index: _read(path, settings)
        for path in sorted(Path(folder).glob("*.json"))
        if (index := index_of(path.stem))
    }
    return {index: content for index, content in found.items() if content}


def read(folder, index, settings):
    """The record of a block; None where there is no whole one of these settings."""
    return _read(Path(folder) / f"{name_of(index)}.json", settings)


def _read(path, settings):
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # a ValueError: cut off by a power failure
        return None
    whole = isinstance(content, dict) and content.get("settings") == settings
    return content if whole else None


def is_done(record, sources, written):
    """Whether a block is done.

    Args:
      record: of the block, or None.
      sources: digest of what it has to be made from.
      written: function of nothing to its present size and checksum, or None; slow, as it reads.
    """
    if record is None or record["sources"] != sources:
        return False
    return written() == {key: record[key] for key in ("bytes", "blake2b")}


def digest_of(content):
    """Short digest of JSON types."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def sources_of(records, indices):
    """Digest of what a block is made from: the records of other blocks; absent ones count too."""
    return digest_of([records.get(index, {}).get("blake2b", "") for index in indices])


def write_settings(folder, settings):
    """Store the settings of a job."""
    write_json(Path(folder) / SETTINGS, marked(settings, "predict"))


@contextlib.contextmanager
def locked(folder, part=None):
    """Lock the records of an output, created if absent, for this process.

    Args:
      folder: of the records.
      part: a name; processes with different parts may hold the lock together.

    Raises:
      ValueError: another process holds it.
      OSError: the folder cannot be created.
    """
    folder = Path(folder)
    with writing(folder):
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        # A file, since network file systems do not tell other machines of a folder's lock.
        how = fcntl.LOCK_SH if part else fcntl.LOCK_EX
        held.enter_context(_lock(folder / PARTS / "all.lock", folder, how))
        if part:
            held.enter_context(_lock(folder / PARTS / f"{part}.lock", folder, fcntl.LOCK_EX))
        yield


@contextlib.contextmanager
def _lock(path, folder, how):
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder} is in use by another process, which writes this output: wait until it "
                "ends, or choose another --output."
            ) from error
        except OSError as error:  # a file system without locks
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise
        yield
    finally:
        os.close(descriptor)
