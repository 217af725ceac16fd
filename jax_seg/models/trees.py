"""Compare trees of weights by the paths of their leaves."""

import jax
import numpy as np


def first_difference(ours, theirs):
    """The first path, in alphabetical order, at which two trees of arrays differ in shape.

    Args:
      ours, theirs: trees of arrays, or of what has a shape.

    Returns:
      (path, shape here, shape there), 'none' for a shape where there is no such leaf; None where
      all shapes agree.
    """
    here, there = _shapes(ours), _shapes(theirs)
    for path in sorted(here.keys() | there.keys()):
        if here.get(path) != there.get(path):
            return path, here.get(path, "none"), there.get(path, "none")
    return None


def _shapes(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
