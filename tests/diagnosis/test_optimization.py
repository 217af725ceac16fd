"""Checks of optimizer, schedule and control: silent where all is well, right where it is not."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from configs import base
from jax_seg.diagnosis import control, optimization, schedules, trials
from jax_seg.diagnosis.evidence import Evidence
from jax_seg.diagnosis.finding import CAUSES, Skipped
from jax_seg.training.settings import read_settings
from tests.conftest import tiny_config, write_volumes
from tests.diagnosis.epochs import decided, epoch, rollback

SAMPLES = 40  # of an epoch: 20 updates


def evidence_of(**fields):
    """Evidence of a configuration whose samples are never read."""
    config = tiny_config("nowhere")
    config.train.epochs = 10
    config.plateau.update(worse_epochs=0, rollback_fraction=0.0)
    config.update_from_flattened_dict(fields)
    task = SimpleNamespace(train=range(SAMPLES), validation_ids=["a", "b"], shape=(8, 8, 8, 1))
    return Evidence(config, given={"task": task})


def names(findings):
    for finding in findings:
        assert finding.name in CAUSES
        assert finding.advice[0].isupper() and finding.advice.endswith(".")
        json.dumps(finding.evidence, allow_nan=False)
    return [finding.name for finding in findings]


def bowl(curvature=0.1, floor=0.2):
    """Trials of gradient descent in floor + curvature · w² / 2 from w = 3, for `make_trials`."""

    def make(evidence):
        knobs = evidence.settings.programs["optimizer"]
        batches = np.linspace(-0.01, 0.01, trials.APART)

        def trial(rates, clip_norm=knobs["clip_norm"], momentum=knobs["momentum"], decay=0.0):
            weight, trace, norms, ways = 3.0, 0.0, [], [3.0]
            for rate in rates:
                gradient = curvature * weight
                norms.append(abs(gradient))
                gradient *= min(1.0, clip_norm / abs(gradient)) if clip_norm else 1.0
                trace = gradient + momentum * trace
                weight -= rate * (trace + decay * weight)
                ways.append(weight)
            loss = floor + curvature * weight**2 / 2 + batches
            kernels = tuple([np.full((4, 4), w)] for w in (ways[len(rates) // 2], weight))
            return trials.Trial(loss, np.array(norms), 0.0, kernels)

        start = trial([])
        return trials.Trials(trial, start, start.losses - 0.1)

    return make


@pytest.fixture
def in_a_bowl(monkeypatch):
    monkeypatch.setattr(optimization, "make_trials", bowl())


SGD = {"optimizer.name": "sgd", "optimizer.momentum": 0.0, "optimizer.clip_norm": 0.0}


@pytest.mark.parametrize("rate", [0.1, 1.0, 10.0])
def test_rates_that_reach_the_minimum_are_no_finding(in_a_bowl, rate):
    assert optimization.moves_the_weights(evidence_of(**SGD, **rate_of(rate))) == []


def rate_of(rate):
    return {"schedule.learning_rate": rate}


def test_a_rate_too_low_is_judged_by_the_updates_of_the_run(in_a_bowl):
    (found,) = optimization.moves_the_weights(evidence_of(**SGD, **rate_of(2e-4)))
    assert names([found]) == ["optimizer.rate_too_low"]
    assert found.evidence["sum_of_rates"] == pytest.approx(200 * 2e-4)
    # exp(-2 · 0.1 · 0.04) of the way: what 200 updates reach, from trials of 12
    assert found.evidence["loss"] == pytest.approx(0.2 + 0.45 * np.exp(-2 * 0.1 * 0.04), abs=1e-3)
    long = {"train.epochs": 10_000}
    assert optimization.moves_the_weights(evidence_of(**SGD, **rate_of(2e-4), **long)) == []


def test_momentum_counts_as_a_higher_rate(in_a_bowl):
    fields = SGD | {"optimizer.momentum": 0.99}
    assert optimization.moves_the_weights(evidence_of(**fields, **rate_of(1e-3))) == []


def test_a_rate_too_high_names_the_one_that_learns(in_a_bowl):
    (found,) = optimization.moves_the_weights(evidence_of(**SGD, **rate_of(50.0)))
    assert names([found]) == ["optimizer.rate_too_high"]
    assert found.evidence["better_rate"] == 5.0
    assert found.evidence["loss"] > found.evidence["loss_at_start"]


def test_a_trial_that_diverges_has_no_number(monkeypatch):
    monkeypatch.setattr(optimization, "make_trials", bowl(curvature=1e200))
    assert optimization.moves_the_weights(evidence_of(**SGD, **rate_of(1.0))) == []  # nothing helps
    monkeypatch.setattr(optimization, "make_trials", bowl(curvature=1e40))
    with np.errstate(all="ignore"):
        (found,) = optimization.moves_the_weights(evidence_of(**SGD, **rate_of(1e-39)))
    assert names([found]) == ["optimizer.rate_too_high"]


def test_clipping_is_named_where_it_makes_the_updates_small(in_a_bowl):
    fields = SGD | {"optimizer.clip_norm": 1e-4, "schedule.learning_rate": 1.0}
    (found,) = optimization.moves_the_weights(evidence_of(**fields))
    assert names([found]) == ["optimizer.clipped"]
    assert found.evidence["gradient_norm"] == pytest.approx(0.3, rel=0.05)
    fields["optimizer.clip_norm"] = 0.1
    assert optimization.moves_the_weights(evidence_of(**fields)) == []


def test_decay_is_compared_with_the_gradient_and_the_length(in_a_bowl):
    fields = SGD | rate_of(0.01)

    def found(decay, **more):
        fields_of = fields | {"optimizer.weight_decay": decay} | more
        return optimization.moves_the_weights(evidence_of(**fields_of))

    assert found(0.0) == []
    (decayed,) = found(2.0)
    assert names([decayed]) == ["optimizer.decay"]
    assert decayed.evidence["decay_of_gradient"] == pytest.approx(2.0 / 0.1, rel=0.05)
    assert found(2.0, **{"train.epochs": 1, "optimizer.momentum": 0.9}) == []  # it has no time
    assert found(0.4, **{"optimizer.momentum": 0.9}) == []  # the gradient is stronger


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Evidence and `Trials` of a real network of 2 filters, in Adam's hands."""
    root = write_volumes(tmp_path_factory.mktemp("trials"))
    config = tiny_config(root)
    config.optimizer.name = "adamw"
    evidence = Evidence(config)
    return evidence, trials.make_trials(evidence)


def test_trials_of_a_network_find_its_rates(real, monkeypatch):
    evidence, tried = real
    trial, start = tried.trial, tried.start
    learned = trial([0.02] * trials.STEPS)
    assert trials.clearly_below(learned.losses, start.losses)
    assert not trials.clearly_below(start.losses, learned.losses)
    assert trial([]).losses == pytest.approx(start.losses)  # each starts from the first weights
    assert 0 < learned.ratio < 1
    # Decay alone: 1 - 0.02 · 5 per update
    pulled = trial([0.02] * 2, decay=5.0).params[1]["encoder_0"]["conv_0"]["kernel"]
    free = trial([0.02] * 2).params[1]["encoder_0"]["conv_0"]["kernel"]
    assert np.linalg.norm(pulled) < 0.9 * np.linalg.norm(free)

    monkeypatch.setattr(optimization, "make_trials", lambda _: tried)
    for rate, expected in ((0.02, []), (2e-6, ["optimizer.rate_too_low"])):
        config = evidence.config.copy_and_resolve_references()
        config.update_from_flattened_dict({"schedule.learning_rate": rate, "train.epochs": 8})
        given = {"task": evidence.task}
        assert names(optimization.moves_the_weights(Evidence(config, given=given))) == expected


# The schedule


def test_schedules_that_fit_are_no_finding():
    for fields in (
        {"schedule.warmup_epochs": 5},
        {"schedule.name": "cosine_restarts", "schedule.t_0": 10},
        {"schedule.name": "cosine"},
        {"average.swa_every": 1, "average.swa_start": 6},
        {"schedule.warmup_epochs": 1, "train.epochs": 1, "schedule.name": "constant"},
        {"average.ema_decay": 0.9999},  # its first updates have a shorter memory
    ):
        fields = {"schedule.warmup_epochs": 0, **fields}
        assert schedules.fits_the_run(evidence_of(**fields)) == [], fields


@pytest.mark.parametrize("warmup, severity", [(6, "warning"), (10, "error")])
def test_a_long_warmup(warmup, severity):
    evidence = evidence_of(**{"schedule.name": "cosine", "schedule.warmup_epochs": warmup})
    (found,) = schedules.fits_the_run(evidence)
    assert names([found]) == ["schedule.unfinished"]
    assert found.severity == severity and found.evidence["warmup_epochs"] == warmup


def test_a_warmup_is_compared_with_the_schedule_of_its_stage():
    evidence = evidence_of(**{"schedule.warmup_epochs": 4})
    base.add_stage(evidence.config, "a", epochs=(0, 4))
    base.add_stage(evidence.config, "b", epochs=(5, 9), schedule={"warmup_epochs": 0})
    (found,) = schedules.fits_the_run(evidence)
    assert "stage 'a'" in found.says and found.evidence["epochs"] == 5
    assert found.advice == "Set schedule.warmup_epochs to 1."
    base.add_stage(config := evidence_of().config, "c", epochs=(0, 3))
    base.add_stage(config, "d", epochs=(4, 9), schedule={"warmup_epochs": 4})
    (found,) = schedules.fits_the_run(Evidence(config))
    assert found.field == "stages.d.schedule.warmup_epochs" and "stage 'd'" in found.says


def test_a_restart_before_the_end():
    restarts = {"schedule.name": "cosine_restarts", "schedule.t_0": 8, "schedule.t_mult": 2}
    (found,) = schedules.fits_the_run(evidence_of(**restarts))
    assert found.evidence["epochs_since_restart"] == 2 and "starts 2 epochs before" in found.says
    assert (
        schedules.fits_the_run(evidence_of(**restarts | {"schedule.t_0": 5, "schedule.t_mult": 1}))
        == []
    )


def test_an_average_of_one_set_of_weights():
    average = {"average.swa_every": 5, "average.swa_start": 8}
    (found,) = schedules.fits_the_run(evidence_of(**average))
    assert found.evidence["averaged"] == 1 and found.field == "average.swa_start"


def test_an_average_that_ends_the_schedule_early():
    average = {"average.swa_every": 1, "average.swa_start": 2, "average.swa_learning_rate": 1e-6}
    (found,) = schedules.fits_the_run(evidence_of(**average))
    assert found.evidence["swa_start"] == 2


def test_a_run_that_ended_before_its_stages():
    evidence = evidence_of(**{"schedule.name": "cosine", "train.minutes": 1.0})
    base.add_stage(evidence.config, "a", epochs=(0, 6))
    base.add_stage(evidence.config, "b", epochs=(7, 9))
    done = [epoch(n, rate=0.05) for n in range(4)]
    run = SimpleNamespace(scores={"raw": {}})
    evidence.__dict__.update(run=run, epochs=done)
    (found,) = schedules.ended_early(evidence)
    assert "stage 'b'" in found.says and found.field == "train.minutes"
    assert found.evidence["epochs"] == 4
    evidence.__dict__.update(epochs=[epoch(n, rate=0.05) for n in range(10)])
    assert schedules.ended_early(evidence) == []
    evidence.__dict__.update(run=SimpleNamespace(scores={}))
    with pytest.raises(Skipped):
        schedules.ended_early(evidence)


def test_an_average_worse_than_its_weights():
    evidence, last = evidence_of(), epoch(9, loss=0.4)
    evidence.__dict__["epochs"] = [last]
    with pytest.raises(Skipped):
        schedules.average_is_worse(evidence)
    last["validation swa"] = {"loss": 0.41, "standard_error": 0.01}
    assert schedules.average_is_worse(evidence) == []
    last["validation swa"] = {"loss": 0.5, "standard_error": 0.01}
    (found,) = schedules.average_is_worse(evidence)
    assert names([found]) == ["schedule.unfinished"] and found.evidence["average"] == 0.5


# Decisions after bad epochs


def judged(**fields):
    """Evidence of 3 validation volumes with 10, 20 and 30 % of foreground."""
    evidence = evidence_of(**fields)
    samples = []
    for number, share in enumerate((0.1, 0.2, 0.3)):
        label = (np.arange(512).reshape(8, 8, 8, 1) < 512 * share).astype(np.uint8)
        samples.append({"label": label, "volume": number})
    evidence.task.validation = samples
    return evidence


def test_rises_that_count_are_compared_with_the_noise():
    with pytest.raises(Skipped):
        control.would_act_on_noise(judged())
    waits = {"plateau.worse_epochs": 3, "plateau.noise_factor": 0.0}
    (found,) = control.would_act_on_noise(judged(**waits))
    assert names([found]) == ["control.acts_on_noise"]
    assert found.evidence["counts"] == 0 and found.evidence["standard_error"] > 0.001
    for enough in ({"plateau.noise_factor": 1.0}, {"plateau.threshold": 0.5}):
        assert control.would_act_on_noise(judged(**waits | enough)) == []
    returns = {"plateau.noise_factor": 0.0, "plateau.rollback_fraction": 1.0}
    assert control.would_act_on_noise(judged(**returns)) == []
    returns["plateau.rollback_fraction"] = 1e-4
    assert names(control.would_act_on_noise(judged(**returns))) == ["control.acts_on_noise"]


def test_a_constant_answers_at_every_level():
    fields = {"plateau.worse_epochs": 3, "plateau.noise_factor": 0.0, "model.poolings": 2}
    plain = control._losses_of_a_constant(judged(**fields))[0]
    fields["model.deep_supervision"] = 1
    fine, both = (
        control._losses_of_a_constant(judged(**fields, **{"loss.level_weights": weights}))[0]
        for weights in ((1.0, 0.0), (1.0, 1.0))
    )
    assert fine == pytest.approx(plain) and both.shape == plain.shape == (3,)
    assert both != pytest.approx(plain)  # a level below counts as foreground what touches it


def test_interventions_without_a_limit():
    with pytest.raises(Skipped):
        control.would_scale_without_limit(evidence_of())
    waits = {"plateau.worse_epochs": 3, "plateau.rule": "escape", "train.epochs": 40}
    (found,) = control.would_scale_without_limit(evidence_of(**waits))
    assert names([found]) == ["control.runaway"]
    assert found.evidence["first"] == 35 * 1.5
    assert found.evidence["largest"] == pytest.approx(35 * (1.5 + 0.85 * 9))  # 10 in 40 epochs
    for limit in ({"plateau.rule": "capped"}, {"plateau.maximum_scale": 4.0}):
        assert control.would_scale_without_limit(evidence_of(**waits | limit)) == []


def test_the_run_that_the_notes_describe():
    """Losses of .57 to .60 and interventions of up to 92 times the rate."""
    settings = read_settings(evidence_of(**{"plateau.worse_epochs": 1}).config)
    losses = [0.60, 0.5721, 0.5812, 0.5762, 0.5911]
    epochs = [epoch(n, loss=loss, error=0.03) for n, loss in enumerate(losses)]
    for number in (2, 3, 4):
        rolled = rollback(number, losses[number], best=0.5721)
        decided(epochs[number], rolled, {"kind": "intervention", "scale": 30.0 * number})
    (noise,) = control.decided_on_noise(epochs, settings)
    assert names([noise]) == ["control.acts_on_noise"]
    assert (noise.evidence["on_noise"], noise.evidence["decisions"]) == (3, 3)
    (scaled,) = control.scaled_without_limit(epochs, settings)
    assert names([scaled]) == ["control.runaway"] and scaled.evidence["scale"] == 120
    assert scaled.severity == "error"  # nothing after it was better
