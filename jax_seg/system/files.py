"""Files appear whole or not at all: they are written beside their place, then renamed."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path

ABANDONED_SECONDS = 3600  # an unfinished file untouched for this long is abandoned
NAMES = (
    r"\.(?!_).+\.(?P<pid>\d+)@(?P<host>\w+?)(-\w+)?(\.\w+)?",  # of `unfinished`
    r"\..+\.(partial|replaced)-(?P<pid>\d+)",  # of `data.synthetic`
    # Of older versions, which did not name the machine; a hidden file of the user's may look so.
    r"\.(?!_).+\.(?P<pid>\d+)\.(html|json|jsonl|md|npz|png|tif|zip)",
    r"tmp\w+\.part",
)
"""Names of unfinished files. Those that start with '._' belong to the macOS file manager."""
_CHANNELS = re.compile(r"(.+)_\{0000\.\.(\d{4})\}(.*)")  # a range of names, as a shell writes it
ADVICE = {
    errno.ENOSPC: "free some disk space, then run the same command again",
    errno.EDQUOT: "free some of your quota, then run the same command again",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another file system",
    errno.EACCES: "correct its permissions, or choose another folder",
    errno.EPERM: "correct its permissions, or choose another folder",
    errno.EROFS: "choose a folder that is not read-only",
}


@contextlib.contextmanager
def replacing(path, durable=True):
    """Yield a path beside `path`, with its extension; rename it to `path` on success.

    On an error the unfinished file is removed and an existing one is kept.

    Args:
      path: of the file.
      durable: flush the content to the disk before the rename, so that a power cut leaves either
        the old or the new file. That takes milliseconds; without it, whoever reads the file has to
        know a damaged one.

    Raises:
      OSError: of `writing`.
    """
    path = Path(path)
    beside = unfinished(path)
    try:
        with writing(path, beside):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            if durable:
                to_disk(beside)
            beside.replace(path)
            if durable:
                to_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


@contextlib.contextmanager
def replacing_folder(path):
    """Yield a new folder beside `path`; rename it to `path` on success, in place of an older one.

    On an error the unfinished folder is removed and an existing one is kept.

    Raises:
      OSError: of `writing`.
    """
    path = Path(path)
    beside, before = unfinished(path, ""), unfinished(path, "-replaced")
    try:
        with writing(path, beside):
            beside.mkdir(parents=True)
            yield beside
            for one in beside.rglob("*"):
                to_disk(one)
            if path.exists():
                path.replace(before)
            beside.replace(path)
            to_disk(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if before.exists() and not path.exists():  # interrupted between the two renames
            before.replace(path)
        shutil.rmtree(before, ignore_errors=True)


def unfinished(path, suffix=None):
    """The name of an unfinished file beside `path`, which records its process and machine."""
    path = Path(path)
    suffix = path.suffix if suffix is None else suffix
    return path.with_name(f".{path.stem}.{os.getpid()}@{_host()}{suffix}")


@contextlib.contextmanager
def writing(path, *others):
    """Name `path` and what to do in an error of the operating system while it is written.

    Args:
      path: file that is written.
      others: files that an error may name instead, such as one beside it.

    Raises:
      OSError: of the same class and number, in a sentence. An error of another file stays as it is.
    """
    path = Path(path)
    ours = {str(file) for file in (path, *path.parents, *others)}
    try:
        yield
    except OSError as error:
        # A full disk is reported without a name.
        if error.errno is None or str(error.filename or path) not in ours:
            raise
        raise unwritable(path, error) from error


def unwritable(path, error):
    """The OSError that says in a sentence why `path` could not be written, and what to do."""
    advice = ADVICE.get(error.errno, "check the path and its disk, then run the same command again")
    sentence = type(error)(f"{path} could not be written ({error.strerror or error}): {advice}.")
    sentence.errno = error.errno
    return sentence


def to_disk(path):
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not Path(path).is_dir():  # not every file system does this for folders
            raise
    finally:
        os.close(descriptor)


def remove_unfinished(folder, *, shared=False):
    """Remove what interrupted writes left in a folder and its subfolders.

    A file of a running process is kept unless it has not been touched for an hour.

    Args:
      folder: one that this process alone writes to, as `locked` ensures; it may be absent. Nothing
        of this process is under way there.
      shared: other machines may write there: a file that is not known to be of this one stays for
        an hour.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _remove_abandoned(Path(place, name), NAMES, shared)


def remove_unfinished_beside(path):
    """Remove what interrupted writes of a file or folder left beside it, and nothing else there.

    The folder around it may hold anything, and other machines may write there.
    """
    path = Path(path)
    for one in path.parent.glob(f".{glob.escape(path.stem)}.*"):
        _remove_abandoned(one, NAMES[:1], shared=True)


def _remove_abandoned(path, names, shared):
    found = next(filter(None, (re.fullmatch(pattern, path.name) for pattern in names)), None)
    if found is None:
        return
    writer = found.groupdict()
    with contextlib.suppress(OSError):  # finished meanwhile, or another user's
        old = time.time() - path.lstat().st_mtime > ABANDONED_SECONDS
        if not (old or _is_dead(writer.get("pid"), writer.get("host"), shared)):
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_dead(pid, host, shared):
    if shared and (pid is None or host not in (None, _host())):
        return False
    # In a container every start may have the same number.
    if pid is None or int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's
        pass
    return False


def _host():
    return re.sub(r"\W", "_", socket.gethostname())[:40]


@contextlib.contextmanager
def locked(folder):
    """Lock a folder, created if absent, for this process; the lock ends with the process.

    Raises:
      ValueError: another process holds it, or it is an address.
      OSError: it cannot be created.
    """
    folder = refuse_address(folder)
    with writing(folder):
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
    """The object that a JSON file holds, as a dict.

    Raises:
      ValueError: it is not valid JSON, or not an object.
      OSError: it cannot be read.
    """
    try:
        content = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}): restore it from a copy, or remove it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds no JSON object ({type(content).__name__}): restore it from a copy, or "
            "remove it."
        )
    return content


def write_json(path, content, durable=True):
    """Write JSON types as an indented file; `durable` is of `replacing`."""
    with replacing(path, durable) as beside:
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
    if absent := [one for one in channel_files(path) if not container(one)[0].exists()]:
        refuse_address(path)
        named = f"{field} is {path}, which" if field else absent[0]
        raise FileNotFoundError(f"{named} does not exist: check the path.")
    return path


def container(path):
    """(the file or folder, name of a dataset in it) of 'FILE.h5:/DATASET'; '' without a dataset."""
    found = re.fullmatch(r"(.+\.(?:h5|hdf5|n5)):(/.*)", str(path), re.IGNORECASE)
    return (Path(found[1]), found[2]) if found else (Path(path), "")


def channel_files(path):
    """The files of an image, those of its channels in order, or its only one: [Path].

    NAME_{0000..0002}.EXT stands for the channels NAME_0000.EXT, NAME_0001.EXT and NAME_0002.EXT of
    one image, unless a file has that very name.
    """
    path = Path(path)
    found = _CHANNELS.fullmatch(path.name)
    if not found or path.exists():
        return [path]
    name, last, rest = found.groups()
    return [path.with_name(f"{name}_{number:04}{rest}") for number in range(int(last) + 1)]


def channels_path(first, count):
    """The path that stands for the channels NAME_0000.EXT, NAME_0001.EXT, … of one image.

    Args:
      first: path of NAME_0000.EXT.
      count: number of channels.
    """
    name, _, rest = first.name.rpartition("_0000")
    return first.with_name(f"{name}_{{0000..{count - 1:04}}}{rest}")


def without_channels(name):
    """NAME.EXT of a name NAME_{0000..0002}.EXT; others as they are."""
    found = _CHANNELS.fullmatch(name)
    return found[1] + found[3] if found else name


def refuse_address(path):
    """`path` as a Path.

    Raises:
      ValueError: it is the address of a server or an object store, such as s3://bucket/folder.
    """
    if address := re.match(r"(\w{2,}):/+(.*)", str(path)):  # Path has made one slash of "//"
        raise ValueError(
            f"{address[1]}://{address[2]} is an address, and only files of this machine are read "
            "and written: copy or mount it here first."
        )
    return Path(path)


def stamp(path):
    """[files, bytes, time in nanoseconds] of a file or folder; differs after a change.

    Of several files the last is a digest of all their times, sizes and names: files that have
    changed places are other voxels.
    """
    each = []
    for number, one in enumerate(channel_files(container(path)[0])):
        files = [p for p in one.rglob("*") if p.is_file()] if one.is_dir() else [one]
        status = {(number, str(file.relative_to(one))): file.stat() for file in files}
        each += sorted((*name, s.st_size, s.st_mtime_ns) for name, s in status.items())
    size, times = sum(size for *_, size, _ in each), [time for *_, time in each]
    if len(each) < 2:
        return [len(each), size, *(times or [0])]
    digest = hashlib.blake2b(repr(each).encode(), digest_size=6).digest()
    return [len(each), size, int.from_bytes(digest)]
