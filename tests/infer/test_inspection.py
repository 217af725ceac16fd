"""What is said of an input before it is segmented."""

import nrrd
import numpy as np
import tifffile

from jax_seg.infer.inspection import inspect, other_spacing

LEVELS = np.resize(np.arange(1, 202), (8, 8, 16)).astype(np.uint16)


def test_windows_and_warnings_over_all_networks():
    volume = np.concatenate([LEVELS, np.zeros_like(LEVELS)], -1)
    grids = {((8, 8, 8), 0.0), ((8, 8, 32), 0.0)}  # 2 of 4 windows are empty; 0 of 1
    found = inspect("a.tif", volume, grids=grids, ranges={(None, 1, 201), (None, 0, 210)})
    assert found == {"windows": 5, "empty_windows": 2, "warnings": []}
    found = inspect("a.tif", LEVELS * 257, grids=grids, ranges={(None, 1, 201), (None, 0, 65_000)})
    assert found["empty_windows"] == 0
    (warning,) = found["warnings"]
    assert warning.startswith("a.tif has intensities from ") and "clips to 1 to 201" in warning


def test_a_warning_names_the_channel():
    """The second channel alone is on another scale; a window is empty where both are zero."""
    second = np.concatenate([LEVELS * 257, np.zeros_like(LEVELS)], -1)
    first = np.concatenate([LEVELS, np.zeros_like(LEVELS)], -1)
    first[0, 0, 20] = 7
    ranges = {(0, 1, 201), (1, 1, 201)}
    found = inspect("a", np.stack([first, second], -1), grids={((8, 8, 8), 0.0)}, ranges=ranges)
    assert (found["windows"], found["empty_windows"]) == (4, 1)
    (warning,) = found["warnings"]
    assert warning.startswith("a (channel 1) has intensities from ")


def test_another_spacing_than_that_of_an_imported_network(tmp_path):
    """Of TIFF as the JSON file beside it says, of NRRD in millimetres."""
    path = tmp_path / "case_0000.tif"
    tifffile.imwrite(path, np.zeros((5, 6, 7), np.uint8))
    assert other_spacing(path, (45, 4.6, 4.6)) == ""
    (tmp_path / "case.json").write_text('{"spacing": [30.0, 4.6, 4.6]}')
    assert other_spacing(path, (30, 4.6, 4.6)) == "" == other_spacing(path, ())
    sentence = other_spacing(path, (45, 4.6, 4.6))
    assert "30 × 4.6 × 4.6" in sentence and "resampled to 45 × 4.6 × 4.6" in sentence
    header = {"space directions": np.eye(3) * 2, "space dimension": 3, "space origin": np.zeros(3)}
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((4, 3, 2), np.uint8), header)
    assert other_spacing(tmp_path / "a.nrrd", (2, 2, 2)) == ""
    assert "2 × 2 × 2 (z, y, x)" in other_spacing(tmp_path / "a.nrrd", (1, 1, 1))
