"""NumPy's files, opened by one thread at a time.

NumPy parses a file's header with `ast`, and CPython counts the depth of that parser for all
threads together: where the garbage collector lets another thread run in between, as JAX's hook in
it does, the one or the other ends in "SystemError: AST constructor recursion depth mismatch"
(CPython's issue 106905; seen in 3.11, where a run's reading threads opened volumes at once).
"""

import threading
from pathlib import Path

import numpy as np

_ONE_PARSER = threading.Lock()


def load_arrays(path):
    """{name: array} of an .npz file.

    Raises:
      ValueError, EOFError, zipfile.BadZipFile, zlib.error: the file is damaged.
    """
    # Opened here, because NumPy leaves a damaged file open.
    with _ONE_PARSER, Path(path).open("rb") as file, np.load(file) as arrays:
        return dict(arrays)


def map_array(path):
    """The array of an .npy file, read-only and mapped into memory.

    Raises:
      ValueError, EOFError: the file is damaged.
    """
    with _ONE_PARSER:
        return np.load(path, mmap_mode="r")
