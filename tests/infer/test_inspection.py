"""What is said of an input before it is segmented."""

import nrrd
import numpy as np
import tifffile

from jax_seg.infer.inspection import View, inspect, resampled_as_nnunet, spacing_as_nnunet

LEVELS = np.resize(np.arange(1, 202), (8, 8, 16)).astype(np.uint16)


def test_windows_and_warnings_over_all_networks():
    volume = np.concatenate([LEVELS, np.zeros_like(LEVELS)], -1)
    views = {View((8, 8, 8), 0.0), View((8, 8, 32), 0.0)}  # 2 of 4 windows are empty; 0 of 1
    found = inspect("a.tif", volume, views=views, ranges={(None, 1, 201), (None, 0, 210)})
    assert found == {"windows": 5, "empty_windows": 2, "warnings": []}
    found = inspect("a.tif", LEVELS * 257, views=views, ranges={(None, 1, 201), (None, 0, 65_000)})
    assert found["empty_windows"] == 0
    (warning,) = found["warnings"]
    assert warning.startswith("a.tif has intensities from ") and "clips to 1 to 201" in warning


def test_a_warning_names_the_channel():
    """The second channel alone is on another scale; a window is empty where both are zero."""
    second = np.concatenate([LEVELS * 257, np.zeros_like(LEVELS)], -1)
    first = np.concatenate([LEVELS, np.zeros_like(LEVELS)], -1)
    first[0, 0, 20] = 7
    ranges = {(0, 1, 201), (1, 1, 201)}
    found = inspect("a", np.stack([first, second], -1), views={View((8, 8, 8), 0.0)}, ranges=ranges)
    assert (found["windows"], found["empty_windows"]) == (4, 1)
    (warning,) = found["warnings"]
    assert warning.startswith("a (channel 1) has intensities from ")


def test_the_windows_are_those_of_the_grid_that_the_network_sees():
    """16×8×32 voxels, the last 16 along x zero: at twice the spacing along x 2 windows, 1 empty."""
    volume = np.concatenate([LEVELS, np.zeros_like(LEVELS)], -1).repeat(2, 0)
    pair = (1.0, 1.0, 1.0), (1.0, 1.0, 2.0)

    def counted(*views):
        found = inspect("a", volume, views=set(views), ranges=set())
        return found.pop("windows"), found.pop("empty_windows"), found

    assert counted(View((16, 8, 8), 0.0)) == (4, 2, {"warnings": []})
    found = {"warnings": [], "resampled_from": [1, 1, 1], "resampled_to": [[1, 1, 2]]}
    assert counted(View((16, 8, 8), 0.0, pair)) == (2, 1, found)
    finer = (1.0, 1.0, 1.0), (0.5, 1.0, 1.0)
    found["resampled_to"] = [[0.5, 1, 1], [1, 1, 2]]
    two = counted(View((16, 8, 8), 0.0, pair), View((16, 8, 8), 0.0, finer))
    assert two == (2 + 8, 1 + 4, found)


def test_what_lies_around_the_input_is_left_out():
    """Of 30 voxels along x, 5 to 25 are input: 20 voxels are 10 windows of 2, or 5 of twice."""
    volume = np.zeros((2, 2, 30), np.uint8)
    volume[..., 5:25] = 1
    pair = (1.0, 1.0, 1.0), (1.0, 1.0, 2.0)
    for view, windows in (
        (View((2, 2, 2), 0.0), 15),
        (View((2, 2, 2), 0.0, None, "after"), 10),
        (View((2, 2, 2), 0.0, pair, "before"), 5),
        # The nearest of 0, 1, … 14 are voxels 1, 3, … 29: 10 of them are input.
        (View((2, 2, 2), 0.0, pair, "after"), 5),
    ):
        found = inspect("a", volume, views={view}, ranges=set())
        assert (found["windows"], found["empty_windows"]) == (windows, 4 * (windows == 15)), view


def test_the_spacing_as_nnunet_reads_it(tmp_path):
    """Of TIFF as the JSON file beside it says, of NRRD in millimetres."""
    path = tmp_path / "case_0000.tif"
    tifffile.imwrite(path, np.zeros((5, 6, 7), np.uint8))
    assert spacing_as_nnunet(path) is None
    (tmp_path / "case.json").write_text('{"spacing": [30.0, 4.6, 4.6]}')
    assert spacing_as_nnunet(path) == (30, 4.6, 4.6)
    header = {"space directions": np.eye(3) * 2, "space dimension": 3, "space origin": np.zeros(3)}
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((4, 3, 2), np.uint8), header)
    assert spacing_as_nnunet(tmp_path / "a.nrrd") == (2, 2, 2)
    sentence = resampled_as_nnunet(path, (30, 4.6, 4.6), (45, 4.6, 4.6))
    assert "30 × 4.6 × 4.6" in sentence and "resampled to 45 × 4.6 × 4.6" in sentence
