"""What is said of an input before it is segmented."""

import numpy as np

from jax_seg.infer.inspection import inspect

LEVELS = np.resize(np.arange(1, 202), (8, 8, 16)).astype(np.uint16)


def test_windows_and_warnings_over_all_networks():
    volume = np.concatenate([LEVELS, np.zeros_like(LEVELS)], -1)
    grids = {((8, 8, 8), 0.0), ((8, 8, 32), 0.0)}  # 2 of 4 windows are empty; 0 of 1
    found = inspect("a.tif", volume, grids=grids, ranges={(1, 201), (0, 210)})
    assert found == {"windows": 5, "empty_windows": 2, "warnings": []}
    found = inspect("a.tif", LEVELS * 257, grids=grids, ranges={(1, 201), (0, 65_000)})
    assert found["empty_windows"] == 0
    (warning,) = found["warnings"]
    assert warning.startswith("a.tif has intensities from ") and "clips to 1 to 201" in warning
