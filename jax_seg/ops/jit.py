"""Loops over voxels, compiled by numba."""

import numba

from jax_seg.system import home

# Without a home folder numba would not cache its programs, or would create a folder named '~'.
if not (home.has_home() or numba.config.CACHE_DIR):
    numba.config.CACHE_DIR = str(home.cache_folder() or "")


def jit(function):
    """`function` compiled at its first call, and cached for the next start where possible."""
    return numba.njit(cache=home.cache_folder() is not None, nogil=True)(function)
