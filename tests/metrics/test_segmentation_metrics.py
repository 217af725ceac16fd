"""Counts and scores against numbers worked out by hand and a count voxel by voxel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jax_seg.metrics import threshold
from jax_seg.metrics.competition import competition_score
from jax_seg.metrics.foreground import foreground_scores
from jax_seg.metrics.segmentation import Confusion, as_json, confusion, count, from_json, scores
from jax_seg.ops.classes import MASKED, Classes

# label      1 1 1 0 0 0 0 0 masked, twice
# prediction 1 1 0 1 0 0 0 0 1 0   TP 2, FN 1, FP 1, TN 4, two voxels unlabelled
LABEL = np.array([1, 1, 1, 0, 0, 0, 0, 0, MASKED, MASKED], np.uint8).reshape(1, 2, 5)
PREDICTION = np.array([1, 1, 0, 1, 0, 0, 0, 0, 1, 0], np.uint8).reshape(1, 2, 5)


def test_counts_and_scores_by_hand():
    counts = confusion(PREDICTION, LABEL)
    assert counts == Confusion(2, 1, 1, 4)
    assert scores(counts) == pytest.approx(
        {
            "dice": 4 / 6,
            "iou": 2 / 4,
            "precision": 2 / 3,
            "recall": 2 / 3,
            "accuracy": 6 / 8,
            "foreground_predicted": 3 / 8,
            "foreground_label": 3 / 8,
        }
    )


def test_counts_of_classes_by_hand():
    """Classes that share voxels: code 1 is of the first alone, 2 of both."""
    classes = Classes(("whole", "core"), ((1, 2), (2,)), (1, 2))
    label = np.array([[[0, 1, 2, 2, MASKED]]], np.uint8)
    masks = np.zeros((1, 1, 5, 2), bool)
    masks[0, 0, :, 0] = [1, 1, 1, 0, 1]
    masks[0, 0, :, 1] = [0, 1, 1, 0, 1]
    found = count(masks, label, classes)
    assert found.each == {"whole": Confusion(2, 1, 1, 0), "core": Confusion(1, 1, 1, 1)}
    assert found.together == Confusion(2, 1, 1, 0) and found.labelled == 4
    assert from_json(as_json(found)) == found
    both = sum([found, found])
    assert both.each["core"] == Confusion(2, 2, 2, 2)
    scored = scores(both)
    assert scored["classes"]["whole"]["dice"] == pytest.approx(2 / 3)
    assert scored["classes"]["core"]["dice"] == pytest.approx(1 / 2)
    assert scored["dice"] == pytest.approx(7 / 12)
    assert scored["foreground_predicted"] == pytest.approx(3 / 4)  # of any class
    one = Classes(("sheet",), ((1,),), (4,))
    assert count(PREDICTION == 1, LABEL, one) == confusion(PREDICTION, LABEL)


def test_pooled_scores_are_not_the_mean_of_scores():
    a, b = Confusion(1, 0, 0, 9), Confusion(1, 8, 0, 1)  # Dice 1 and 0.2
    assert a + b == sum([a, b]) == Confusion(2, 8, 0, 10)
    assert scores(a + b)["dice"] == pytest.approx(4 / 12)


@pytest.mark.parametrize(
    ("counts", "dice", "precision", "recall"),
    [
        (Confusion(true_negative=5), 1, 1, 1),  # both empty
        (Confusion(false_positive=2, true_negative=3), 0, 0, 0),  # only the label is empty
        (Confusion(false_negative=2, true_negative=3), 0, 0, 0),  # only the prediction is empty
        (Confusion(true_positive=5), 1, 1, 1),  # both full
    ],
)
def test_empty_masks(counts, dice, precision, recall):
    got = scores(counts)
    assert (got["dice"], got["iou"]) == (dice, dice)
    assert (got["precision"], got["recall"]) == (precision, recall)


def test_nothing_labelled_is_an_error():
    counts = confusion(np.ones((2, 2, 2), np.uint8), np.full((2, 2, 2), MASKED, np.uint8))
    assert counts == Confusion()
    with pytest.raises(ValueError, match="No voxel is labelled"):
        scores(counts)


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 3\)"):
        confusion(np.zeros((2, 2)), np.zeros((2, 3)))


volumes = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)),
        hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, MASKED])),
    )
)


@given(volumes)
def test_counts_are_the_labelled_voxels_whatever_the_prediction_where_unlabeled(volume):
    prediction, label = volume
    counts = confusion(prediction, label)
    pairs = list(zip(prediction.ravel(), label.ravel(), strict=True))
    expected = [pairs.count(pair) for pair in [(1, 1), (1, 0), (0, 1), (0, 0)]]
    assert counts == Confusion(*expected)
    assert confusion(np.where(label == MASKED, 1 - prediction, prediction), label) == counts


@given(st.tuples(*[st.integers(0, 50)] * 4).filter(any))
def test_scores_lie_in_the_unit_interval_and_dice_is_a_function_of_iou(counts):
    got = scores(Confusion(*counts))
    assert all(0 <= value <= 1 for value in got.values())
    assert got["dice"] == pytest.approx(2 * got["iou"] / (1 + got["iou"]))


def test_a_label_that_is_not_encoded_is_refused():
    """As its file holds it, an unlabelled voxel would count as background."""
    label = np.where(LABEL == MASKED, 2, LABEL)
    for score in (confusion, competition_score, foreground_scores, threshold.count):
        with pytest.raises(ValueError, match=r"value 2, but an encoded one has .* 255 masked"):
            score(PREDICTION.astype(np.float32), label)
