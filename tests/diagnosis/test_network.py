"""Checks of the network: silent on answers that follow from the input, and on a healthy network."""

import math
import types

import jax
import numpy as np
import pytest

from jax_seg.diagnosis import depth, first_answer, fitting, network, plain_fit, reach
from jax_seg.diagnosis.evidence import Evidence, Example, Trained
from jax_seg.diagnosis.finding import Skipped
from jax_seg.models import unet
from tests.conftest import tiny_config


def names(findings):
    return [(finding.name, finding.severity) for finding in findings]


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def answered(generator, logits=None, spread=None):
    """`Answers` of calibrated logits, of layers with four channels."""
    label = generator.random((4, 8, 8, 8, 1)) < 0.4
    own = 2.0 * label[..., 0] - 1 + generator.normal(0, 1, label.shape[:-1])
    first = generator.normal(0, 0.3, own.shape)
    batch = {"label": label.astype("f4"), "mask": np.ones(label.shape, "f4")}
    layers = {"encoder": np.ones(4), "decoder": np.full(4, 0.5)}
    return network.Answers(
        batch, own if logits is None else logits(own), first, layers | (spread or {}), layers
    )


def under(**weights):
    """Evidence of a loss with these weights, of terms without options."""
    settings = types.SimpleNamespace(programs={"loss": {"level_weights": ()}})
    return types.SimpleNamespace(loss_weights=weights, settings=settings)


def test_answers_that_follow_from_the_input_are_healthy(generator):
    found = answered(generator)
    assert not network.ignores_input(found)
    assert not network.saturated(found, under(dice=1.0))
    assert not network.dead(found)


def test_the_same_answer_to_every_input(generator):
    pattern = generator.normal(0, 2, (8, 8, 8))
    found = answered(
        generator,
        lambda own: pattern + 1e-4 * own,
        {"encoder": np.zeros(4)},
    )
    (finding,) = network.ignores_input(found)
    assert (finding.name, finding.severity) == ("model.ignores_input", "error")
    assert finding.evidence["between_inputs"] == pytest.approx(1.4e-4, rel=0.2)
    assert finding.evidence["between_inputs_of_first_weights"] == pytest.approx(0.3, rel=0.1)
    assert "'encoder' is the first layer" in finding.says


def test_logits_too_large_for_a_gradient(generator):
    found = answered(generator, lambda own: 60 * own)
    (finding,) = network.saturated(found, under(dice=1.0))
    assert finding.name == "model.saturated"
    scale = finding.evidence["scale_that_fits"]
    assert scale == pytest.approx(2 / 60, rel=0.15)  # 2 is right for means of ±1, variance 1
    assert finding.evidence["slope_at_wrong_voxels"] < 0.01 * finding.evidence["slope_if_scaled"]


def test_platt_finds_scale_and_offset(generator):
    logits = generator.normal(0, 2, 40000)
    label = generator.random(40000) < 1 / (1 + np.exp(-(0.5 * logits + 1)))
    assert network.platt(logits, label) == pytest.approx((0.5, 1.0), abs=0.05)


def test_channels_that_have_become_constant(generator):
    found = answered(generator, spread={"decoder": np.array([0.5, 0, 0, 0.4])})
    (finding,) = network.dead(found)
    assert names([finding]) == [("model.dead", "warning")]
    assert (finding.evidence["channels"], finding.evidence["of"]) == (2, 4)
    whole = answered(generator, spread={"decoder": np.zeros(4)})
    assert names(network.dead(whole)) == [("model.dead", "error")]


def prior(value, generator):
    label = (generator.random((8, 8, 8)) < 0.2).astype("u1")
    batch = {"label": label[None, ..., None].astype("f4"), "mask": np.ones((1, 8, 8, 8, 1), "f4")}
    return types.SimpleNamespace(
        field={"model.foreground_prior": value}.get,
        part=lambda name: [types.SimpleNamespace(label=label)],
        batch=lambda: batch,
        **vars(under(dice=1.0)),
    )


def test_first_answers_without_a_gradient(generator):
    assert not first_answer.find_prior(prior(0.5, generator))
    assert not first_answer.find_prior(prior(0.01, generator))  # Lin et al.'s own value
    (finding,) = first_answer.find_prior(prior(1e-6, generator))
    assert (finding.name, finding.severity) == ("model.saturated", "error")
    assert finding.evidence["foreground_share"] == pytest.approx(0.2, abs=0.05)
    assert finding.field == "model.foreground_prior"


def test_the_gradient_is_that_of_the_finest_level(generator):
    batch, found = answered(generator).batch, answered(generator).logits
    everywhere = np.ones(found.shape, bool)
    entropy = under(cross_entropy=2.0, deep_cross_entropy=0.5, load_balance=0.1)
    size = first_answer.loss_gradient(entropy, found, batch, everywhere)
    p = 1 / (1 + np.exp(-found))
    assert size == pytest.approx(2 * np.abs(p - batch["label"][..., 0]).mean() / p.size, rel=1e-4)
    with pytest.raises(Skipped, match="no term of the finest level"):
        first_answer.loss_gradient(under(deep_cross_entropy=1.0), found, batch, everywhere)
    with pytest.raises(KeyError):  # a mistake is no unknown gradient
        first_answer.loss_gradient(entropy, found, {"label": batch["label"]}, everywhere)


def predicted(probabilities, label):
    run = types.SimpleNamespace(probabilities={"v": "v.tif"})
    return types.SimpleNamespace(run=run, predictions=[("v", probabilities, label, None)])


def test_probabilities_after_two_sigmoids(generator):
    label = (generator.random((8, 8, 8)) < 0.3).astype("u1")
    p = np.clip(label + generator.normal(0, 0.2, label.shape), 0.01, 0.99)
    assert not network.find_twice(predicted(p, label))
    (finding,) = network.find_twice(predicted(1 / (1 + np.exp(-p)), label))
    assert (finding.name, finding.severity) == ("model.saturated", "error")
    assert finding.evidence["cross_entropy_without"] < finding.evidence["cross_entropy"]
    alike = np.full(label.shape, 0.53)  # of an untrained network, say
    assert not network.find_twice(predicted(alike, label))


def shaped(patch, **fields):
    task = types.SimpleNamespace(shape=(*patch, 1))
    model = unet.Model(**fields)
    return types.SimpleNamespace(
        task=task, model=model, field={"model.poolings": model.poolings}.get
    )


def test_a_bottom_level_one_voxel_wide():
    assert not reach.find_bottom(shaped((32, 32, 32), poolings=4))
    assert not reach.find_bottom(shaped((1, 96, 96), poolings=3, planar_levels=3))
    (finding,) = reach.find_bottom(shaped((16, 16, 16), poolings=4))
    assert finding.name == "model.receptive_field" and finding.evidence["bottom_voxels"] == 1
    (finding,) = reach.find_bottom(shaped((16, 64, 64), poolings=4))
    assert "1×4×4" in finding.says and "model.poolings to 3" in finding.advice
    with pytest.raises(Skipped):
        reach.find_bottom(types.SimpleNamespace(model=None))


def outlined(seed):
    """A ball whose outline alone shows, and its label."""
    generator = np.random.default_rng(seed)
    offsets = np.indices((24, 24, 24)) - generator.uniform(10, 14, 3)[:, None, None, None]
    depth = 8 - np.sqrt((offsets**2).sum(axis=0))
    image = generator.normal(90, 10, depth.shape) + 80 * (np.abs(depth) < 1)
    return image.astype("f4"), (depth > 0).astype("u1")


def looking(radius, monkeypatch, examples):
    monkeypatch.setattr(reach, "sight", lambda _: radius)
    return types.SimpleNamespace(
        task=types.SimpleNamespace(shape=(32, 32, 32, 1)),
        part=lambda name: examples,
        field=lambda path, default=None: 0,
    )


def test_a_network_that_sees_less_than_the_labels_need(monkeypatch):
    shape = (24, 24, 24)
    pairs = [outlined(seed) for seed in range(3)]
    hollow = [
        Example(f"v{n}", "training", "", *pair, (0, 0, 0), shape, None, None)
        for n, pair in enumerate(pairs)
    ]
    (finding,) = reach.find_context(looking(2, monkeypatch, hollow))
    assert finding.name == "model.receptive_field" and finding.evidence["radius"] == 2
    assert finding.evidence["dice_wider"] > finding.evidence["dice_within"] + reach.WORTH
    assert finding.evidence["share_deeper"] > 0.3
    assert not reach.find_context(looking(16, monkeypatch, hollow))
    bright = [e._replace(image=e.image + 80 * e.label) for e in hollow]
    assert not reach.find_context(looking(2, monkeypatch, bright))


def test_a_plain_fit_finds_a_threshold(generator):
    x = generator.normal(size=(4000, 1))
    answer = plain_fit.fit(x, x[:, 0] > 1)
    assert plain_fit.dice(answer(x), x[:, 0] > 1) > 0.9


@pytest.fixture(scope="module")
def evidence(volumes_folder):
    """A network of two filters and one level below, on volumes with one bright plane each."""
    return Evidence(tiny_config(volumes_folder))


def test_sight_reaches_as_far_as_the_convolutions(evidence):
    assert 2 < reach.sight(evidence) < 12


def test_gradients_by_depth(evidence):
    first = evidence.fresh.variables

    def found(factor):
        """Findings where the second convolution of the first level has other weights."""
        params = jax.tree.map(np.array, first["params"])
        params["encoder_0"]["conv_1"]["kernel"] *= factor
        trained = Trained({"params": params, "batch_stats": {}}, 0, 0)
        vars(evidence)["best"] = trained
        return depth.find(evidence)

    names, (own, plain) = depth.relative_gradients(evidence, first, first)
    assert "encoder_0/conv_1" in names and len(names) == 8  # two per level, up and output
    np.testing.assert_array_equal(own, plain)
    assert found(1.0) == found(3.0) == []
    (vanished,) = found(100.0)  # behind it a norm divides the gradient by as much
    assert vanished.name == "model.dead" and "'encoder_0/conv_1'" in vanished.says
    left = vanished.evidence["gradient_of_weights"] / own[names.index("encoder_0/conv_1")]
    assert left == pytest.approx(1e-4, rel=0.1) and "too little" in vanished.says
    assert vanished.evidence["layers"] == 1
    (exploded,) = found(0.005)
    assert "'encoder_0/conv_1'" in exploded.says and "too much" in exploded.says
    evidence.__dict__.pop("best")


def fake_fits(monkeypatch, evidence, dice):
    """`fitting` with the Dice that a fit would reach: {(own_loss, frozen): Dice}."""
    monkeypatch.setattr(
        fitting,
        "_make_fit",
        lambda *_: lambda own_loss, rates: fitting.Fit(dice[own_loss, not all(rates.values())], 60),
    )
    return fitting.find_fit(evidence)


def test_what_keeps_a_network_from_fitting_a_batch(monkeypatch, evidence):
    assert not fake_fits(monkeypatch, evidence, {(False, False): 0.9, (True, False): 0.85})
    (finding,) = fake_fits(monkeypatch, evidence, {(False, False): 0.1})
    assert finding.field == "model.filters"
    assert finding.evidence["dice_of_regression"] > 0.6
    (finding,) = fake_fits(monkeypatch, evidence, {(False, False): 0.9, (True, False): 0.3})
    assert finding.field == "loss.weights" and finding.severity == "warning"


def test_frozen_random_weights(monkeypatch, volumes_folder):
    config = tiny_config(volumes_folder)
    with config.unlocked():
        config.parts = {
            "body": {"pattern": "conv_", "rate": 0.0},
            "rest": {"pattern": "", "rate": 1.0},
        }
    dice = {(False, False): 0.9, (True, False): 0.9, (True, True): 0.4}
    (finding,) = fake_fits(monkeypatch, Evidence(config), dice)
    assert finding.field == "parts.body.rate" and finding.severity == "error"
    assert finding.evidence["dice_if_trained"] == 0.9


def test_a_healthy_network_fits_a_batch(evidence, monkeypatch):
    monkeypatch.setattr(fitting, "SECONDS", math.inf)
    batch = fitting._cropped(evidence)
    fit = fitting._make_fit(evidence, batch)
    assert fit(own_loss=False, rates={"all": 1.0}).dice >= fitting.FITTED
    assert fit(own_loss=True, rates={"all": 0.0}).dice < fitting.FITTED - fitting.SHORT
