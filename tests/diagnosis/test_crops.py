"""Parts of arrays, by hand."""

import numpy as np

from jax_seg.diagnosis import crops


def test_the_balanced_part_holds_half():
    mask = np.zeros((6, 8), bool)
    mask[4:, 5:] = True  # 2×3 elements in a corner
    assert crops.balanced(mask, (2, 2)) == (slice(3, 5), slice(5, 7))  # the first with 2 of 4
    assert crops.balanced(mask, (3, 4)) == (slice(3, 6), slice(4, 8))  # 6 of 12
    assert crops.balanced(mask, (6, 8)) == (slice(0, 6), slice(0, 8))
    assert crops.balanced(np.ones((4, 4), bool), (3, 3)) == (slice(0, 3), slice(0, 3))


def test_rare_foreground_is_in_the_part():
    mask = np.zeros((20, 20, 20), bool)
    mask[17, 2:4, 9] = True
    part = crops.balanced(mask, (5, 4, 3))
    assert mask[part].sum() == 2 and mask[part].shape == (5, 4, 3)
