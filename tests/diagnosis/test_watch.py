"""Checks of a run under way: on figures of its epochs alone, and each cause is said once."""

import json

import numpy as np
import pytest

from jax_seg.diagnosis import figures, watch
from jax_seg.diagnosis.finding import Skipped
from jax_seg.training.settings import read_settings
from tests.conftest import tiny_config
from tests.diagnosis.epochs import decided, epoch, rollback


def settings_of(**fields):
    config = tiny_config("nowhere")
    config.update_from_flattened_dict(fields)
    return read_settings(config)


def found(epochs, settings):
    findings = []
    for check in watch.CHECKS:
        try:
            findings += check(epochs, settings)
        except Skipped:
            continue
    return [finding.name for finding in findings]


def learning(count=10, **figures):
    """Epochs of a run that learns, with noise between them."""
    noise = np.random.default_rng(0).normal(0, 0.01, count)
    losses = 0.3 + 0.4 * np.exp(-np.arange(count) / 3) + noise
    return [epoch(n, float(loss), **figures) for n, loss in enumerate(losses)]


@pytest.mark.parametrize("count", range(1, 11))
def test_a_run_that_learns_is_no_finding(count):
    assert found(learning(count), settings_of()) == []


def test_clipping_counts_for_gradient_descent_alone():
    epochs = learning(clipped=1.0, norm=20.0)
    assert found(epochs, settings_of()) == ["optimizer.clipped"]
    assert found(epochs, settings_of(**{"optimizer.name": "adamw"})) == []
    assert found(learning(clipped=1.0, norm=0.6), settings_of()) == []


def test_a_loss_that_rises_with_the_rate():
    epochs = learning(12)
    for number, one in enumerate(epochs[8:]):
        one["train"].update(loss=0.6 + 0.02 * number, learning_rate=0.5)
    (name,) = found(epochs, settings_of())
    assert name == "optimizer.rate_too_high"
    for one in epochs:
        one["train"]["learning_rate"] = 0.01  # the rate is not what has changed
    assert found(epochs, settings_of()) == []


def test_a_new_loss_of_another_stage_is_no_rise():
    epochs = learning(12)
    for one in epochs[6:]:
        one["train"].update(loss=0.9, learning_rate=0.5, stage="later")
    assert found(epochs, settings_of()) == []


def test_the_floor_of_the_variance_term():
    fields = {"loss.weights.variance": 0.5}
    epochs = [epoch(0, 0.57, variance=0.95)]
    assert found(epochs, settings_of(**fields)) == ["loss.floor"]
    (finding,) = figures.unavoidable_term(epochs, settings_of(**fields))
    assert finding.evidence["floor"] == pytest.approx(0.828, abs=1e-3)
    assert finding.severity == "error"
    assert found(epochs, settings_of(**{"loss.weights.variance": 0.1})) == []


def test_an_examination_looks_for_what_a_run_looks_for():
    watched = {"optimizer.clipped", "optimizer.rate_too_high", "model.saturated"}
    assert watched == {cause for check in figures.CHECKS for cause in check.causes}


def test_a_gradient_that_has_vanished():
    epochs = learning(4) + [epoch(n, 0.5, norm=1e-5) for n in range(4, 9)]
    assert found(epochs, settings_of()) == ["model.saturated"]
    learned = learning(4) + [epoch(n, 1e-3, norm=1e-5) for n in range(4, 9)]
    assert found(learned, settings_of()) == []


def test_decisions_within_the_noise_and_without_a_limit():
    epochs = learning(6)
    for number in (3, 4):
        loss = epochs[number]["validation"]["loss"]
        back = rollback(number, loss, best=loss - 0.001, reason="catastrophic")
        decided(epochs[number], back, {"kind": "intervention", "scale": 30.0})
    assert found(epochs, settings_of()) == ["control.acts_on_noise", "control.runaway"]


def test_updates_are_not_parsed(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"kind": "update", "step": 1, \n')
    assert watch.new_findings(tmp_path, settings_of()) == []


def test_a_finding_is_said_once(tmp_path):
    events = [
        {"kind": kind, "step": 20 * n + 20, "epoch": n, **one[kind]}
        for n, one in enumerate(learning(clipped=1.0, norm=20.0))
        for kind in ("train", "validation")
    ]
    assert watch.new_findings(tmp_path, settings_of()) == []  # before the first epoch

    def write(events):
        lines = "".join(json.dumps(event) + "\n" for event in events)
        (tmp_path / "events.jsonl").write_text(lines)

    write([*events, {"kind": "update", "step": 200, "epoch": 9}])
    (finding,) = watch.new_findings(tmp_path, settings_of())
    write([*events, {"kind": "finding", "step": 200, "epoch": 9, **finding.as_json()}])
    assert watch.new_findings(tmp_path, settings_of()) == []

    write(events)
    (tmp_path / "doctor.json").write_text('{"findings": [{"name": "optimizer.clipped"}]}')
    assert watch.new_findings(tmp_path, settings_of()) == []  # said before the run
    (tmp_path / "doctor.json").write_text("{")
    assert [one.name for one in watch.new_findings(tmp_path, settings_of())] == [finding.name]
