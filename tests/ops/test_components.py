"""Sizes of connected components."""

import numpy as np

from jax_seg.ops import components


def test_sizes_are_counted_block_by_block(monkeypatch):
    monkeypatch.setattr(components, "BLOCK", 7)
    component = np.random.default_rng(0).integers(0, 9, (5, 4, 3)).astype(np.uint16)
    for order in "CF":
        found = components.sizes_of(np.asarray(component, order=order))
        np.testing.assert_array_equal(found, np.bincount(component.ravel()))
