"""Which volume lies on another scale, by numbers worked out by hand."""

import numpy as np
import pytest

from jax_seg.data import intensities


@pytest.mark.parametrize("size", [50, 128])
def test_intensities_are_drawn_from_everywhere(size):
    """Every n-th voxel would be one column of a volume whose rows are n long."""
    voxels = np.zeros((size,) * 3, np.uint8)
    voxels[:, :, size // 2 :] = 200
    assert intensities.sample(voxels).mean() == pytest.approx(100, abs=2)
