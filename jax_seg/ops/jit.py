"""Loops over voxels, compiled by numba."""

import numba

from jax_seg.system import home

# Without a home numba would refuse to keep its programs, or make a folder named '~'.
if not (home.has_home() or numba.config.CACHE_DIR):
    numba.config.CACHE_DIR = str(home.cache_folder() or "")


def jit(function):
    """`function` compiled at its first call, and kept for the next start where there is a place."""
    return numba.njit(cache=home.cache_folder() is not None, nogil=True)(function)
