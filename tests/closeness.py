"""How close results have to be to those of another way to compute them."""

import jax
import numpy as np


def assert_close(actual, expected, tolerance=1e-5):
    """The largest error is below `tolerance` of the largest value, and shapes agree."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
