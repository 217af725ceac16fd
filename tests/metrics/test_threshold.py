"""Sweeps, hysteresis grids and calibration: against the plain computation, and by hand."""

import numpy as np
import pytest

from jax_seg.infer.postprocess import components
from jax_seg.metrics import threshold
from jax_seg.metrics.segmentation import Confusion, confusion, scores
from jax_seg.ops.classes import MASKED

# probability  .2 .2 .4 .6 .6 .6 .9 1
# label         0  0  1  0  1  1  1 masked
PROBABILITY = np.array([[[0.2, 0.2, 0.4, 0.6, 0.6, 0.6, 0.9, 1.0]]], np.float16)
LABEL = np.array([[[0, 0, 1, 0, 1, 1, 1, MASKED]]], np.uint8)


def random_volume(seed=0, shape=(9, 10, 11), dtype=np.float16):
    generator = np.random.default_rng(seed)
    probability = generator.random(shape).astype(dtype)
    probability[generator.random(shape) < 0.2] = 0.25  # exactly a threshold
    probability[0, 0, :3] = 0, 1, 6e-8
    return probability, generator.choice(np.array([0, 1, MASKED], np.uint8), shape)


def test_values_are_all_floats_from_0_to_1():
    assert threshold.VALUES[0] == 0 and threshold.VALUES[-1] == 1
    assert (np.diff(threshold.VALUES) > 0).all() and len(threshold.VALUES) == 15361


def test_sweep_by_hand():
    rows = threshold.sweep(threshold.count(PROBABILITY, LABEL), (0.5, 0.95))
    assert rows[0] == {
        "threshold": 0.5,
        "dice": pytest.approx(6 / 8),
        "iou": pytest.approx(3 / 5),
        "precision": pytest.approx(3 / 4),
        "recall": pytest.approx(3 / 4),
        "accuracy": pytest.approx(5 / 7),
        "foreground_predicted": pytest.approx(4 / 7),
        "foreground_label": pytest.approx(4 / 7),
    }
    assert rows[1]["dice"] == rows[1]["recall"] == 0


def test_sweep_equals_cutting_at_each_threshold():
    volumes = [random_volume(seed) for seed in range(3)]
    counts = sum(threshold.count(*volume) for volume in volumes)
    thresholds = (0.0, 1e-7, 0.25, 0.3, 0.5, 0.999, 1.0)
    for row in threshold.sweep(counts, thresholds):
        cut = row.pop("threshold")
        parts = [confusion(p > np.float64(cut), label) for p, label in volumes]
        assert row == scores(sum(parts))
    assert [row["threshold"] for row in threshold.sweep(counts)] == list(threshold.THRESHOLDS)


def test_float32_counts_like_its_float16():
    probability, label = random_volume(dtype=np.float32)
    np.testing.assert_array_equal(
        threshold.count(probability, label), threshold.count(probability.astype(np.float16), label)
    )
    np.testing.assert_array_equal(
        threshold.count(-0.0 * probability, label), threshold.count(0 * probability, label)
    )


@pytest.mark.parametrize("connectivity", [6, 26])
def test_hysteresis_equals_the_step(connectivity):
    volumes = [random_volume(seed) for seed in range(2)]
    lows, highs = (0.25, 0.5, 0.8), (0.5, 0.85, 0.999)
    counts = sum(threshold.hysteresis_counts(*v, lows, highs, connectivity) for v in volumes)
    grid = threshold.hysteresis_grid(counts, lows, highs)
    assert [(row["low"], row["high"]) for row in grid] == [
        (low, high) for low in lows for high in highs if low <= high
    ]
    for row in grid:
        setting = {"low": row.pop("low"), "high": row.pop("high"), "connectivity": connectivity}
        parts = [
            confusion(components.hysteresis(p.astype(np.float32), **setting), label)
            for p, label in volumes
        ]
        assert row == scores(sum(parts))


def test_hysteresis_where_nothing_is_above():
    counts = threshold.hysteresis_counts(np.zeros((2, 2, 2)), np.ones((2, 2, 2)), [0.5], [0.6])
    assert counts.tolist() == [[[0, 0, 8, 0]]]
    assert Confusion(*counts[0, 0].tolist()).labelled == 8


def test_unlabeled_voxels_connect_components_but_do_not_count():
    probability = np.array([[[0.9, 0.6, 0.6]]], np.float16)
    label = np.array([[[MASKED, MASKED, 1]]], np.uint8)
    counts = threshold.hysteresis_counts(probability, label, [0.5], [0.8])
    assert counts.tolist() == [[[1, 0, 0, 0]]]


def test_calibration_by_hand():
    found = threshold.calibration(threshold.count(PROBABILITY, LABEL), bins=5)
    values = [[row[k] for k in ("low", "high", "voxels", "foreground")] for row in found["bins"]]
    # float16 holds 0.2 just below and 0.4, 0.6 and 0.9 beside: all but 0.6, which is above.
    assert values == [
        [0.0, 0.2, 2, 0.0],
        [0.2, 0.4, 1, 1.0],
        [0.6, 0.8, 3, pytest.approx(2 / 3)],
        [0.8, 1.0, 1, 1.0],
    ]
    by_hand = (2 * 0.2 + 1 * 0.6 + 3 * (2 / 3 - 0.6) + 1 * 0.1) / 7
    assert found["expected_calibration_error"] == pytest.approx(by_hand, abs=5e-4)


def test_calibration_of_labels_drawn_from_the_probabilities():
    generator = np.random.default_rng(0)
    probability = generator.random((60, 60, 60)).astype(np.float16)
    drawn = (generator.random(probability.shape) < probability).astype(np.uint8)
    counts = threshold.count(probability, drawn)
    assert threshold.calibration(counts)["expected_calibration_error"] < 0.01
    overconfident = threshold.count((probability > 0.5).astype(np.float16), drawn)
    # Sure of one half each, and right in three of four.
    error = threshold.calibration(overconfident)["expected_calibration_error"]
    assert error == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("probability", "label", "message"),
    [
        (PROBABILITY[..., :3], LABEL, r"shape \(1, 1, 3\)"),
        (PROBABILITY * 2, LABEL, "hold the value 1.2"),
        (np.where(LABEL == 1, np.nan, PROBABILITY), LABEL, "hold the value nan"),
        (PROBABILITY, np.full_like(LABEL, MASKED), "No voxel is labelled"),
    ],
)
def test_bad_input(probability, label, message):
    for function in (threshold.count, lambda p, q: threshold.hysteresis_counts(p, q, [0.5], [0.5])):
        with pytest.raises(ValueError, match=message):
            function(probability, label)
