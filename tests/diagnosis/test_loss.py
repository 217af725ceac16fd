"""Checks of the loss: the answers that it asks for, its floor, and its terms' gradients."""

import types

import numpy as np
import pytest

from jax_seg.diagnosis import loss, loss_answers, loss_gradients, loss_terms
from jax_seg.diagnosis.finding import Skipped
from jax_seg.losses import variance_floor
from jax_seg.ops.classes import MASKED

OPTIONS = {
    "level_weights": (),
    "focal_alpha": 0.5,
    "focal_gamma": 2.0,
    "foreground_weight": 1.0,
    "background_weight": 1.0,
    "variance_target_entropy": 0.5,
    "entropy_target_entropy": 0.3,
}


def sheet(size=14, thickness=3):
    """An encoded label [D, H, W]: a sheet, and a part without labels."""
    label = np.zeros((size,) * 3, np.uint8)
    label[5 : 5 + thickness] = 1
    label[:, :, :3] = MASKED
    return label


def evidence(weights, label=None, fields=None, predictions=None, **options):
    label = sheet() if label is None else label
    fields = {"validate.threshold": 0.5} | (fields or {})
    return types.SimpleNamespace(
        loss_weights=weights,
        settings=types.SimpleNamespace(programs={"loss": OPTIONS | options}),
        samples={"label": label[None, ..., None]},
        quick=True,
        workdir="run" if predictions else None,
        epochs=[{"validation": {"loss": 0.9}}, {"validation": {"loss": 0.7}}],
        predictions=predictions,
        field=lambda path, default=None: fields.get(path, default),
    )


def answers(given):
    return {finding.name: finding for finding in loss_answers.prefers(given)}


def gradients(given):
    return {finding.name: finding for finding in loss_gradients.shares_the_gradient(given)}


def examine(given):
    found = []
    for check in loss.CHECKS:
        try:
            found += check.find(given)
        except Skipped:
            continue
    return found


@pytest.mark.parametrize(
    "weights",
    [{"dice": 0.5, "cross_entropy": 0.5}, {"dice": 0.8, "focal": 1.0}],
)
def test_a_healthy_loss_says_nothing(weights):
    assert not examine(evidence(weights))


def test_terms_that_a_network_supplies_are_left_out():
    weights = {"dice": 0.5, "cross_entropy": 0.5, "deep_cross_entropy": 0.4, "load_balance": 0.1}
    assert not examine(evidence(weights))
    with pytest.raises(Skipped, match="no term of the finest level"):
        loss_terms.terms_of(evidence({"dice": 0.0, "deep_cross_entropy": 1.0}))


def test_the_floor_of_the_variance_term_is_told():
    floor = answers(evidence({"dice": 0.3, "focal": 0.15, "variance": 0.5}))["loss.floor"]
    assert floor.severity == "error" and floor.field == "loss.weights.variance"
    assert 0.5 * variance_floor() < floor.evidence["floor"] < floor.evidence["best_constant"]
    assert floor.evidence["floor_of_variance"] >= 0.5 * variance_floor()
    assert floor.evidence["floor_without"] < 0.01
    assert "perfect prediction still pays 0." in floor.says


def test_the_floor_is_blamed_on_what_makes_it_not_on_what_pays_it():
    weights = {"dice": 0.5, "cross_entropy": 0.5, "entropy": 2.0}
    found = answers(evidence(weights, entropy_target_entropy=0.69))
    assert found["loss.floor"].field == "loss.weights.entropy"


def test_a_floor_is_compared_with_the_best_loss_of_the_run():
    label = sheet()
    run = evidence(
        {"dice": 0.3, "variance": 0.5}, predictions=[("v", 0.9 * (label == 1), label, None)]
    )
    found = answers(run)["loss.floor"]
    assert found.evidence["best_validation_loss"] == 0.7
    assert "best validation loss is 0.700" in found.says


def test_the_answer_for_a_voxel_that_is_foreground_half_of_the_time():
    """Weighted cross entropy, in closed form: 5 q / (5 q + 1 - q), which is 0.83 at q = 1/2."""
    found = answers(evidence({"focal": 1.0}, focal_gamma=0.0, foreground_weight=5.0))["loss.biased"]
    assert found.severity == "warning" and found.field == "loss.focal_alpha"
    assert found.evidence["at_half"] == pytest.approx(5 / 6, abs=0.01)
    assert found.picture["kind"] == "answer"
    share = np.array(found.picture["probability"])
    # Of the uncertain voxels a whole number is foreground.
    np.testing.assert_allclose(found.picture["preferred"], 5 * share / (4 * share + 1), atol=0.02)
    assert "33 % of the time" in found.says


def test_a_bias_towards_background_and_a_graver_one():
    found = answers(evidence({"focal": 1.0}, focal_gamma=0.0, focal_alpha=0.05))["loss.biased"]
    assert found.severity == "error" and "become background" in found.says
    assert found.evidence["at_half"] == pytest.approx(0.05, abs=0.01)


def test_a_threshold_may_make_up_for_a_bias():
    weights, options = {"focal": 1.0}, {"focal_gamma": 0.0, "foreground_weight": 3.0}
    assert "loss.biased" in answers(evidence(weights, **options))
    made_up = evidence(weights, fields={"validate.threshold": 0.75}, **options)
    assert "loss.biased" not in answers(made_up)


def test_class_weights_the_wrong_way_round_are_noted_where_other_terms_make_up_for_them():
    found = answers(evidence({"dice": 0.8, "focal": 0.5}, focal_alpha=0.1))["loss.biased"]
    assert found.severity == "note" and "foreground is the rarer class" in found.says
    assert found.evidence["weight_of_foreground"] == pytest.approx(0.1)
    assert "loss.biased" not in answers(evidence({"dice": 0.8, "focal": 0.5}, focal_alpha=0.9))


def test_masked_voxels_count_nowhere():
    label = sheet()
    masked, cropped = (
        loss_terms.Ground(*loss_terms.ground([one])) for one in (label, label[:, :, 3:])
    )
    terms = loss_terms.terms_of(evidence({"dice": 0.3, "cross_entropy": 0.2, "variance": 0.5}))
    assert masked.share == cropped.share
    for kind in (loss_answers.perfect, loss_answers.constant):
        first, second = kind(terms, masked), kind(terms, cropped)
        assert first.loss == pytest.approx(second.loss, rel=1e-5)
    start = np.random.default_rng(0).normal(size=masked.label.shape)
    end = terms.optimise(start, masked)
    np.testing.assert_array_equal(end[masked.mask == 0], start[masked.mask == 0].astype("f4"))


def test_a_term_that_holds_the_gradient():
    found = gradients(evidence({"dice": 0.5, "focal": 0.5}, focal_gamma=9.0))["loss.dominated"]
    assert found.severity == "warning" and "'dice' holds nearly all of it" in found.says
    assert found.evidence["share_of_weights"] == 0.5
    assert min(found.evidence["share_at_start"], found.evidence["share_later"]) > 0.9
    assert found.picture["kind"] == "gradients" and sum(found.picture["start"]) == pytest.approx(1)


def test_a_term_that_has_no_effect():
    weights = {"dice": 0.5, "cross_entropy": 0.5, "focal": 0.001}
    found = gradients(evidence(weights))["loss.dominated"]
    assert found.severity == "note" and found.field == "loss.weights.focal"


def test_a_term_that_pulls_away_from_the_label():
    label = sheet()
    weights = {"dice": 0.3, "cross_entropy": 0.2, "variance": 0.5}
    found = gradients(evidence(weights))["loss.conflict"]
    assert found.field == "loss.weights.variance" and found.evidence["cosine"] < 0
    probability = np.where(label == 1, 0.97, 0.03)
    run = evidence(weights, predictions=[("v", probability, label, None)])
    found = gradients(run)["loss.conflict"]
    assert found.evidence["cosine_at_checkpoint"] < 0 and "at the checkpoint" in found.says


def test_a_loss_that_leaves_the_label():
    (found,) = loss_answers.prefers_wrong(evidence({"focal": 1.0}, focal_alpha=1.0))
    assert found.severity == "error" and "more than the 21 %" in found.says
    assert found.evidence["dice"] < 0.8 < found.evidence["dice_of_cross_entropy"]


def test_a_loss_of_one_term_shares_no_gradient():
    with pytest.raises(Skipped, match="one term"):
        loss_gradients.shares_the_gradient(evidence({"dice": 1.0}))


def test_labels_of_one_class_say_nothing():
    with pytest.raises(Skipped, match="foreground and background"):
        loss_answers.prefers(evidence({"dice": 1.0}, label=np.zeros((8, 8, 8), np.uint8)))


def test_images_have_two_dimensions():
    label = np.zeros((40, 40), np.uint8)
    label[10:25, 12:30] = 1
    weights = {"cross_entropy": 5.0, "soft_iou": 3.0, "edge": 2.0}
    assert not examine(evidence(weights, label=label, fields={"model.foreground_prior": 0.05}))


def test_a_crop_holds_both_classes():
    label = np.zeros((60, 60, 60), np.uint8)
    label[1, 1, 1] = 1
    cropped = loss_terms.crop(label)
    assert cropped.size <= loss_terms.VOXELS and set(np.unique(cropped)) == {0, 1}
    where = loss_terms.crop(label, np.arange(label.size).reshape(label.shape))
    assert where[cropped == 1] == 3661
