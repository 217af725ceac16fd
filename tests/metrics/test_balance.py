"""Class balance by hand, and against the figures that the notes report."""

import json

import numpy as np
import pytest

from jax_seg.metrics.balance import class_balance, constant_scores, require_target
from jax_seg.metrics.segmentation import Confusion, confusion, scores
from jax_seg.ops.classes import MASKED

# predicted 30 of 100, labelled 20 of 100; predicted 10 of 50, labelled 25 of 50
COUNTS = {"a": Confusion(15, 15, 5, 65), "b": Confusion(10, 0, 15, 25)}


def test_shares_by_hand():
    found = class_balance(COUNTS, target=(0.3, 0.7))
    a = found["volumes"]["a"]
    assert (a["predicted"], a["labelled"]) == (0.3, 0.2)
    assert a["over_estimation"] == pytest.approx(10)
    assert a["within_target"]  # background 70 %: the limits belong to the target
    assert found["volumes"]["b"]["over_estimation"] == pytest.approx(-30)
    assert not found["volumes"]["b"]["within_target"]  # background 80 %
    pooled = found["pooled"]  # 40 and 45 of 150
    assert pooled["over_estimation"] == pytest.approx(100 * (40 - 45) / 150)
    assert not pooled["within_target"]
    remarks = " ".join(found["remarks"])
    assert "under-estimated by 3.33 percentage points (26.67 % predicted, 30.00 % label" in remarks
    assert "largest error -30.00 (b)" in remarks
    assert "Predicted background is 73.33 %, outside the target of 30 to 70 % (1 of 2" in remarks
    assert "70.00 % is outside" not in remarks  # the labels' own background
    json.dumps(found, allow_nan=False)


def test_without_a_target_the_labels_are_the_reference():
    """The distance to the labels' share is the remark; no other share is spoken of."""
    found = class_balance(COUNTS)
    assert found["target"] is None
    assert not any("within_target" in v for v in (found["pooled"], *found["volumes"].values()))
    assert found["remarks"][0] == (
        "Foreground is under-estimated by 3.33 percentage points (26.67 % predicted, 30.00 % "
        "labelled) on 2 volumes; largest error -30.00 (b)."
    )
    assert "target" not in " ".join(found["remarks"])


@pytest.mark.parametrize("target", [(0.7, 0.3), (30, 70), (0.3,), (-0.1, 0.5)])
def test_a_target_is_two_rising_shares(target):
    with pytest.raises(
        ValueError, match=r"^validate\.background_target is .*two increasing shares"
    ):
        require_target(target, "validate.background_target")


def test_the_target_is_chosen_and_may_not_fit_the_labels():
    found = class_balance(COUNTS, target=(0.72, 0.8))
    assert found["pooled"]["within_target"] and found["target"] == [0.72, 0.8]
    assert "within the target of 72 to 80 %" in found["remarks"][1]
    assert "the labels' own 70.00 % is outside: choose another target" in found["remarks"][1]


def test_histogram_counts_every_volume_once():
    counts = {str(n): Confusion(n, 0, 100 - n, 0) for n in (0, 9, 10, 55, 100)}
    histogram = class_balance(counts)["histogram"]
    assert histogram["predicted"] == [2, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert histogram["labelled"] == [0] * 9 + [5]
    assert histogram["edges"] == pytest.approx(np.arange(11) / 10)


def test_constants_by_hand():
    """All foreground: Dice 2F / (F + N) and accuracy F / N; all background: 0 and 1 - F / N."""
    found = constant_scores(COUNTS.values())
    assert found["pooled"]["all_foreground"]["dice"] == pytest.approx(2 * 45 / (45 + 150))
    assert found["pooled"]["all_foreground"]["accuracy"] == pytest.approx(45 / 150)
    assert found["pooled"]["all_background"]["dice"] == 0
    assert found["pooled"]["all_background"]["accuracy"] == pytest.approx(105 / 150)
    assert found["mean"]["all_foreground"]["dice"] == pytest.approx((40 / 120 + 50 / 75) / 2)
    assert found["mean"]["model"]["dice"] == pytest.approx((30 / 50 + 20 / 35) / 2)


def test_constants_are_the_scores_of_constant_predictions():
    generator = np.random.default_rng(0)
    labels = [generator.choice([0, 1, MASKED], (4, 5, 6)) for _ in range(3)]
    counts = [confusion(generator.integers(0, 2, label.shape), label) for label in labels]
    found = constant_scores(counts)["pooled"]
    for name, value in (("all_foreground", 1), ("all_background", 0)):
        expected = sum(confusion(np.full(label.shape, value), label) for label in labels)
        assert found[name] == scores(expected)


def test_a_model_no_better_than_a_constant_is_told_so():
    """The notes' shares: labelled 60.9 %, predicted 95.65 % at recall 0.9649: Dice below 0.757."""
    labelled, predicted, both = 6090, 9565, round(0.9649 * 6090)
    notes = Confusion(both, predicted - both, labelled - both, 10000 - predicted - labelled + both)
    found = class_balance({"notes": notes})
    assert found["pooled"]["over_estimation"] == pytest.approx(34.75)
    remarks = [r for r in found["remarks"] if r.startswith("The model is no better")]
    dice = 2 * both / (labelled + predicted)
    assert remarks[0] == (
        f"The model is no better than a constant: its pooled Dice score is {dice:.4f}, that of "
        "foreground everywhere 0.7570."
    )
    assert len(remarks) == 4  # Dice and IoU, pooled and mean; the accuracy 0.616 beats 0.609


def test_accuracy_alone_calls_no_model_a_constant():
    """Rare foreground: accuracy .8 against .9 of background everywhere, which finds nothing."""
    found = class_balance({"a": Confusion(10, 20, 0, 70)})
    assert found["better_than_constants"]
    assert found["remarks"][1:] == [
        "The model is better than both constant predictors in Dice, IoU, pooled and averaged "
        "over volumes.",
        "Accuracy misleads here: background everywhere reaches 0.9000 and the model 0.8000, "
        "pooled, since 90.00 % of the labelled voxels are background; judge by Dice or IoU.",
    ]


def test_background_everywhere_wins_by_volumes_without_foreground_and_it_is_said():
    """Dice .8 on one volume, 0 on two that hold nothing; background everywhere: 0, 1, 1."""
    empty = Confusion(0, 1, 0, 99)
    found = class_balance({"a": Confusion(40, 10, 10, 40), "b": empty, "c": empty})
    lost = [r for r in found["remarks"] if r.startswith("The model is no better")]
    assert not found["better_than_constants"]
    assert [("mean Dice" in r, "mean IoU" in r) for r in lost] == [(True, False), (False, True)]
    assert lost[0].endswith(
        "its mean Dice score is 0.2667, that of background everywhere 0.6667 (without labelled "
        "foreground: 2 of 3 volumes)."
    )


def test_a_better_model_is_told_so_too():
    found = class_balance({"a": Confusion(50, 1, 1, 48)})
    assert found["remarks"][1:] == [
        "The model is better than both constant predictors in Dice, IoU, pooled and averaged "
        "over volumes."
    ]


def test_a_constant_answer_equals_its_constant():
    found = class_balance({"a": Confusion(60, 40, 0, 0)})
    assert found["constants"]["pooled"]["model"] == found["constants"]["pooled"]["all_foreground"]
    assert sum(r.startswith("The model is no better") for r in found["remarks"]) == 4
    assert not found["better_than_constants"]


def test_remarks_say_what_was_judged():
    found = class_balance(COUNTS, target=(0.3, 0.7), noun="training volume")
    assert all("training volumes" in remark for remark in found["remarks"])
