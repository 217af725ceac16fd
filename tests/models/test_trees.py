"""Trees of weights, compared by the shapes of their leaves."""

import numpy as np

from jax_seg.models.trees import first_difference


def test_the_first_difference_by_name():
    tree = {"b": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}, "a": np.zeros(1)}
    assert first_difference(tree, {"b": dict(tree["b"]), "a": np.ones(1)}) is None
    other = {"b": {"kernel": np.zeros((3, 4))}, "a": np.zeros(1)}
    assert first_difference(tree, other) == ("b/bias", (2,), "none")
    assert first_difference(other, tree) == ("b/bias", "none", (2,))
    assert first_difference(tree, other | {"b": tree["b"] | other["b"]}) == (
        "b/kernel", (3, 2), (3, 4),
    )  # fmt: skip
