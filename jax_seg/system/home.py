"""A place for what libraries keep between runs, for users without a home folder, too.

Containers run under a user's number alone: no HOME, or one that cannot be written, and no entry in
the list of users. Then a folder of that user under the temporary directory stands in.
"""

import contextlib
import functools
import os
import stat
import tempfile
from pathlib import Path


@functools.cache
def cache_folder():
    """The folder of the project's caches, made when absent; None where nothing can be written."""
    with contextlib.suppress(RuntimeError, OSError):  # no home
        folder = Path.home() / ".cache" / "jax_seg"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    with contextlib.suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"jax_seg-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        # Compiled programs are run: nobody else may have put them there.
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o77:
            return folder
    return None


def has_home():
    """Whether there is a home folder that can be written."""
    with contextlib.suppress(RuntimeError):
        return cache_folder() == Path.home() / ".cache" / "jax_seg"
    return False
