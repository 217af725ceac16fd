"""Which volume lies on another scale, by numbers worked out by hand."""

import numpy as np
import pytest

from jax_seg.data import intensities
from jax_seg.data.intensities import clipping, compare, masked_sentence, remarks, scan, span

LEVELS = np.arange(1, 202)  # 1 to 201: percentile p lies at 1 + 2 p


@pytest.mark.parametrize("size", [50, 128])
def test_intensities_are_drawn_from_everywhere(size):
    """Every n-th voxel would be one column of a volume whose rows are n long."""
    voxels = np.zeros((size,) * 3, np.uint8)
    voxels[:, :, size // 2 :] = 200
    assert intensities.sample(voxels).mean() == pytest.approx(100, abs=2)


def test_the_zeros_of_a_masked_scan_do_not_count():
    masked = np.concatenate([LEVELS, np.zeros(10_000)])
    np.testing.assert_array_equal(scan(masked), LEVELS)
    assert span(masked) == (2, 200)
    assert masked_sentence(masked).startswith("98.0 % of the training volumes' voxels are exactly")
    for ordinary in (
        np.concatenate([LEVELS, np.zeros(201)]),  # half
        np.repeat([0, 1], [1000, 10]),  # two values
        np.zeros(9),
    ):
        np.testing.assert_array_equal(scan(ordinary), ordinary)
        assert masked_sentence(ordinary) == ""


@pytest.mark.parametrize(
    ("values", "effect"),
    [
        (LEVELS, ""),
        (LEVELS + 50, ""),  # 50 of 201 above 201: 24.9 %
        (LEVELS + 51, "25 % of its voxels are clipped to one value"),
        (LEVELS + 500, "100 % of its voxels are clipped to one value"),
        (LEVELS * 3 - 201, "67 % of its voxels are clipped to the two ends"),  # 67 and 67
        (LEVELS / 10, "it fills 9.5 % of that range"),  # 1 to 20 of 1 to 201
        (LEVELS / 1000 + 60, "it fills 0.099 % of that range"),
        (np.concatenate([LEVELS, np.zeros(999)]), ""),  # masked
    ],
)
def test_what_clipping_does(values, effect):
    assert clipping(values, 1, 201) == effect


def test_a_volume_on_another_scale_is_named_with_both_ranges():
    assert compare("a.tif", LEVELS, 0, 210) == ""
    assert compare("a.tif", LEVELS * 256, 1, 201) == (
        "a.tif has intensities from 512 to 51200, but the run clips to 1 to 201, where 100 % of "
        "its voxels are clipped to one value: convert it to the scale of the training volumes."
    )
    for value in (0, 80):
        found = compare("a.tif", np.full(99, value), 1, 201)
        assert found == f"a.tif is constant (99 % of its voxels are {value}): check the file."


def test_one_training_volume_that_sets_the_range_of_all():
    """Of four volumes, one has 16 bits: the pooled percentiles reach up to it."""
    training = {name: LEVELS for name in "abc"} | {"d": LEVELS * 256}
    assert remarks(training, {"e": LEVELS}, 1, 51_200) == [
        "d has intensities from 512 to 51200, the typical training volume from 2 to 200; the run "
        "clips to 1 to 51200, where the typical volume fills 0.39 %: convert d to the scale of the "
        "others, or remove it."
    ]


def test_one_volume_that_is_clipped_by_the_range_of_many():
    training = {f"v{n}": LEVELS for n in range(9)}
    (found,) = remarks(training, {"w": LEVELS + 900}, 1, 201)
    assert found == (
        "w has intensities from 902 to 1100, the typical training volume from 2 to 200; the run "
        "clips to 1 to 201, where 100 % of its voxels are clipped to one value: convert w to the "
        "scale of the others, or remove it."
    )


def test_constant_and_masked_volumes_are_named():
    masked = np.concatenate([LEVELS, np.zeros(999)])
    found = remarks({"a": masked, "b": masked, "c": np.full(9, 7)}, {}, 1, 201)
    assert found[0] == "c is constant (99 % of its voxels are 7): check the file."
    assert found[1].startswith("82.9 % of the training volumes' voxels") and len(found) == 2
    assert remarks({"a": LEVELS, "b": LEVELS}, {"c": LEVELS}, 1, 201) == []


def test_many_are_counted():
    training = {f"v{n}": np.full(9, n) for n in range(1, 9)} | {f"w{n}": LEVELS for n in range(9)}
    found = remarks(training, {}, 1, 201)
    assert len(found) == 6 and found[5].startswith("3 more volumes differ")
