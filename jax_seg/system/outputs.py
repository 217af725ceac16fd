"""Where a command may write: outside its inputs, and never over a file it did not write itself.

Every file that a command writes carries a mark, `written_by(command)`: JSON as its first field
"origin" (`marked`), TIFF and PNG as the tag Software, HDF5 as the attribute "software", which an N5
folder has in its attributes.json, HTML as its generator, zips as their comment.
A file without the mark is somebody's work, and no flag allows replacing it.
"""

import os
import tempfile
from pathlib import Path

from jax_seg.system.files import refuse_address

HEAD, TAIL = 65536, 1024  # bytes of a file that may hold its mark


def written_by(command):
    """The mark of a command, such as 'predict'."""
    return f"written by jax_seg.{command}"


def marked(content, command):
    """A dict of JSON types with the mark as its first field."""
    return {"origin": written_by(command)} | content


def is_own(path, command):
    """Whether a file, or the folder of an N5, carries the mark of a command."""
    path, mark = Path(path), written_by(command).encode()
    if path.is_dir():
        path /= "attributes.json"
        if not path.is_file():
            return False
    with path.open("rb") as file:
        if mark in file.read(HEAD):
            return True
        file.seek(max(os.fstat(file.fileno()).st_size - TAIL, 0))
        return mark in file.read()


def require_own(paths, command, flag="--output"):
    """Refuse to replace files that a command did not write.

    Args:
      paths: files to write; those that do not exist are allowed.
      command: name of the command.
      flag: command-line flag that names the place, for the error.

    Raises:
      FileExistsError: naming the first such file.
    """
    foreign = [p for p in map(Path, paths) if os.path.lexists(p) and not _own_file(p, command)]
    if foreign:
        others = f" (and {len(foreign) - 1} more files)" if foreign[1:] else ""
        raise FileExistsError(
            f"{foreign[0]}{others} was not written by jax_seg.{command}, which replaces only its "
            f"own files: move it away, or choose another {flag}."
        )


def require_apart(path, *, inside=(), same=(), flag="--output"):
    """Refuse to write among the inputs; links are followed.

    Args:
      path: file or folder to write.
      inside: folders of inputs, in which it must not lie.
      same: folders that it must not equal, though it may lie in them.
      flag: command-line flag that names the place, for the error.

    Raises:
      ValueError: naming the folder.
    """
    target = Path(path).resolve()
    for folder in map(Path, inside):
        if folder.resolve() in (target, *target.parents):
            raise ValueError(
                f"{flag} {path} lies in {folder}, which holds inputs: choose a place outside of it."
            )
    for folder in map(Path, same):
        if folder.resolve() == target:
            raise ValueError(
                f"{flag} {path} is the folder {folder} of the inputs: choose another folder."
            )


def require_folder(folder, flag="--output"):
    """Require that a folder can be written, or created; nothing is created yet.

    Raises:
      ValueError: it is an address.
      NotADirectoryError: it is something else, or lies below a file.
      OSError: it cannot be written.
    """
    folder = refuse_address(folder)
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not nearest.is_dir():
        raise NotADirectoryError(f"{flag} {folder}: {nearest} is not a folder; name a folder.")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise type(error)(
            f"{flag} {folder} cannot be written ({error.strerror}): choose another place."
        ) from error


def require_file(path, command, *, inside=(), flag="--output"):
    """Run all of these checks for one file, before computing its content.

    Args:
      path: file to write; None for no file.
      command, inside, flag: of `require_own` and `require_apart`.

    Raises:
      ValueError, OSError: it cannot or must not be written.
    """
    if path is None:
        return
    path = refuse_address(path)
    if path.is_dir():
        raise IsADirectoryError(f"{flag} {path} is a folder: name a file.")
    require_apart(path, inside=inside, flag=flag)
    require_own([path], command, flag)
    require_folder(path.parent, flag)


def _own_file(path, command):
    return (path.is_file() or path.is_dir()) and is_own(path, command)
