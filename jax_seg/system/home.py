"""The folder for caches kept between runs, also for users without a home folder.

In a container the user may be a bare number: no HOME, or one that cannot be written, and no entry
in the list of users. The caches then lie in a folder of that user under the temporary directory.
"""

import contextlib
import functools
import os
import stat
import tempfile
from pathlib import Path


@functools.cache
def cache_folder():
    """The folder of the project's caches, created if absent; None if nothing can be written."""
    with contextlib.suppress(RuntimeError, OSError):  # no home
        folder = Path.home() / ".cache" / "jax_seg"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    with contextlib.suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"jax_seg-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        # Compiled programs are executed, so nobody else may have put them there.
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o77:
            return folder
    return None


def has_home():
    """Whether the user has a writable home folder."""
    with contextlib.suppress(RuntimeError):
        return cache_folder() == Path.home() / ".cache" / "jax_seg"
    return False
