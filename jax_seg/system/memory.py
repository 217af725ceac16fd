"""Available memory, checked before something large is read: running out may kill the process."""

import resource
import sys
from pathlib import Path

import psutil

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def available():
    """Bytes that this process may still take: of the machine, or of its container."""
    left = psutil.virtual_memory().available
    for path in map(Path, LIMITS):
        if path.is_file() and (limit := path.read_text().strip()).isdigit():
            left = min(left, int(limit) - psutil.Process().memory_info().rss)
    return left


def peak():
    """Bytes that this process has taken at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def require(needed, path, what):
    """Refuse what does not fit in memory.

    Args:
      needed: least number of bytes.
      path: file that needs them.
      what: purpose, such as 'read it'.

    Raises:
      ValueError: it is more than `available`.
    """
    if needed > (left := available()):
        raise ValueError(
            f"{path} needs {needed / 2**30:,.1f} GiB of memory to {what}, but "
            f"{left / 2**30:,.1f} GiB are available: cut it into parts, or use a machine with more "
            "memory."
        )
