"""The plateau controller against the scales that were recorded, and against stories by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jax_seg.training.plateau import Options, State, standard_error, step, warning_sign


def options_of(**fields):
    defaults = dict(
        rule="conservative",
        maximum_scale=0,
        worse_epochs=3,
        rollback_fraction=0.15,
        substantial_progress=0,
        threshold=0.0,
        noise_factor=0.0,
        patience=0,
    )
    return Options(**defaults | fields)


def run(losses, *, state=None, noise=0.0, gradient_norm=0.05, first_epoch=0, **fields):
    """The last state and the decisions of each epoch."""
    state, options, log = state or State(), options_of(**fields), []
    for epoch, loss in enumerate(losses, first_epoch):
        state, decisions = step(state, loss, noise, gradient_norm, epoch, options=options)
        log.append(decisions)
    return state, log


def kinds(log):
    return [[decision["kind"] for decision in decisions] for decisions in log]


def interventions(log):
    return [d for decisions in log for d in decisions if d["kind"] == "intervention"]


def scale_at(p, *, rule, gradient_norm):
    """The scale of the p-th intervention of a run that never improves on its first loss."""
    _, log = run([0.5721] + [0.59] * 3 * p, rule=rule, gradient_norm=gradient_norm)
    return interventions(log)[p - 1]["scale"]


def test_the_recorded_scales_of_v5():
    # Interventions 15 to 19, gradients of 0.04 to 0.06: 25 · (1 + 0.15 (p − 1)), p = 15 … 19.
    scales = [scale_at(p, rule="conservative", gradient_norm=0.05) for p in range(15, 20)]
    assert scales == pytest.approx([77.5, 81.25, 85.0, 88.75, 92.5])
    assert scale_at(2, rule="conservative", gradient_norm=0.05) == pytest.approx(25 * 1.15)


@pytest.mark.parametrize(
    "p, rule, gradient_norm, recorded",
    [
        (2, "aggressive", 0.05, 32.5),  # v2_optimized at epoch 12: 25 · 1.3
        (5, "aggressive", 0.05, 55.0),  # batch8 at epoch 22: 25 · 2.2
        (1, "escape", 0.3, 30.0),  # escape at epoch 5: 20 · 1.5
        (3, "escape", 0.05, 80.0),  # escape at epoch 11: 25 · 3.2
        (5, "escape", 0.05, 122.5),  # announced after it as 122: 25 · 4.9
    ],
)
def test_other_recorded_scales(p, rule, gradient_norm, recorded):
    assert scale_at(p, rule=rule, gradient_norm=gradient_norm) == pytest.approx(recorded)


@pytest.mark.parametrize(
    "gradient_norm, base",
    [(0.0, 35), (0.0099, 35), (0.01, 25), (0.0999, 25), (0.1, 20), (0.5, 20), (0.51, 12), (9, 12)],
)
def test_the_first_conservative_scale_is_the_base(gradient_norm, base):
    assert scale_at(1, rule="conservative", gradient_norm=gradient_norm) == base


def test_the_capped_rule_by_hand():
    state, log = run([0.5] + [0.52] * 18, rule="capped")
    scales = [d["scale"] for d in interventions(log)]
    assert scales == pytest.approx([2.0, 1.5 * 1.1, 1.2 * 1.2, 1.2 * 1.3, 1.2 * 1.3, 1.2 * 1.3])
    assert state.scale == scales[-1] and (state.plateaus, state.interventions) == (6, 6)


@given(st.lists(st.floats(0.4, 0.7), max_size=60), st.floats(0, 2))
def test_capped_never_passes_5_and_maximum_scale_holds(losses, gradient_norm):
    capped, log = run(losses, rule="capped", gradient_norm=gradient_norm)
    assert all(d["scale"] <= 5 for d in interventions(log)) and capped.scale <= 5
    _, log = run(losses, rule="escape", gradient_norm=gradient_norm, maximum_scale=15)
    assert all(d["scale"] <= 15 for d in interventions(log))


def test_three_worse_epochs_restore_the_best_and_then_intervene():
    # v2_optimized's epochs 9 to 12
    state, log = run([0.5602, 0.5671, 0.57, 0.5768], first_epoch=9, rule="aggressive")
    assert kinds(log) == [
        ["new_best"],
        ["degradation"],
        ["degradation"],
        ["degradation", "rollback", "intervention"],
    ]
    _, rollback, intervention = log[-1]
    assert rollback["reason"] == "plateau"
    assert (rollback["best_epoch"], rollback["scale"], rollback["epoch"]) == (9, 1.0, 12)
    assert (intervention["base"], intervention["p"], intervention["n"]) == (25, 1, 1)
    assert state.scale == 25 and state.worse_in_a_row == 0


def test_an_epoch_that_is_not_worse_breaks_the_row():
    _, log = run([0.5, 0.51, 0.52, 0.5, 0.51, 0.52, 0.49, 0.5, 0.5])
    assert not interventions(log)


def test_a_catastrophe_returns_to_the_scale_of_the_best_without_intervening():
    state, _ = run([0.5, 0.51, 0.51, 0.51])  # intervention: scale 25
    state, log = run([0.576, 0.574], state=state, first_epoch=4)
    assert kinds(log) == [["rollback"], ["degradation"]]  # 0.575 is the limit
    assert log[0][0]["reason"] == "catastrophic" and log[0][0]["best_epoch"] == 0
    assert state.scale == 1.0 and state.plateaus == 1

    raised, _ = run([0.5, 0.51, 0.51, 0.51, 0.49])  # the new best was made at scale 25
    raised, log = run([math.nan, math.inf], state=raised, first_epoch=5)
    assert kinds(log) == [["rollback"], ["rollback"]] and raised.scale == 25


def test_differences_within_the_noise_are_no_degradation():
    losses = [0.5, 0.502, 0.503, 0.502, 0.503, 0.506]
    assert interventions(run(losses)[1])
    state, log = run(losses, noise=0.002, noise_factor=2)
    assert kinds(log) == [["new_best"], [], [], [], [], ["degradation"]]
    assert state.worse_in_a_row == 1 and log[-1][0]["margin"] == 0.004
    assert kinds(run(losses, noise=0.002, threshold=0.0055)[1])[1:-1] == [[]] * 4
    # a jump that the noise explains is no catastrophe
    assert kinds(run([0.5, 0.6], noise=0.1, noise_factor=2)[1])[1] == []


def test_an_improvement_within_the_noise_is_saved_but_does_not_postpone_the_stop():
    losses = [0.5, 0.499, 0.498, 0.497]
    _, log = run(losses, noise=0.01, noise_factor=1, patience=3)
    assert kinds(log) == [["new_best"]] * 3 + [["new_best", "early_stop"]]
    assert log[-1][-1]["best_epoch"] == 3 and log[-1][-1]["improved_epoch"] == 0
    assert kinds(run(losses, patience=3)[1])[-1] == ["new_best"]


def test_early_stop_counts_epochs_and_leaves_no_intervention_behind():
    _, log = run([0.5, 0.51, 0.51, 0.51], patience=3)
    assert kinds(log)[-1] == ["degradation", "early_stop"]


def test_substantial_progress_withholds_the_intervention_and_restarts_n():
    worse = [0.7] * 3
    state, log = run(
        [0.7, 0.65, *worse, *worse, 0.63, *worse], substantial_progress=0.02, rule="capped"
    )
    plateaus = [names for names in kinds(log) if "rollback" in names]
    assert [names[-1] for names in plateaus] == [
        "substantial_progress",  # 0.65 is 7 % below the first epoch
        "intervention",  # 0.65 again
        "substantial_progress",  # 0.63 is 3 % below
    ]
    assert (state.plateaus, state.interventions, state.plateau_loss) == (1, 0, 0.63)
    # p goes on, n starts again: 2.0 · 1.1
    state, log = run(worse, state=state, first_epoch=13, substantial_progress=0.02, rule="capped")
    assert interventions(log)[0]["scale"] == pytest.approx(2.2)


def test_zeros_switch_rules_off():
    off = dict(worse_epochs=0, rollback_fraction=0)
    assert kinds(run([0.5, 0.9, 0.9, 0.9, 0.9], **off)[1])[1:] == [["degradation"]] * 4


def test_a_changed_loss_starts_a_new_comparison():
    state, _ = run([0.5, 0.51, 0.51, 0.51])
    state, log = run([0.8], state=state._replace(best_loss=None), first_epoch=4, patience=3)
    assert kinds(log) == [["new_best"]]
    assert (state.best_loss, state.improved_epoch, state.scale, state.plateaus) == (0.8, 4, 25, 1)


@given(st.lists(st.floats(0.4, 0.7), max_size=40), st.floats(0, 0.05))
def test_state_and_decisions_survive_json(losses, noise):
    options = options_of(noise_factor=1.0, substantial_progress=0.02, patience=30)
    state = State()
    for epoch, loss in enumerate(losses):
        state, decisions = step(state, loss, noise, 0.05, epoch, options=options)
        assert State(**json.loads(json.dumps(state._asdict()))) == state
        assert json.loads(json.dumps(decisions)) == decisions


def test_array_scalars_become_plain_numbers():
    state, decisions = step(
        State(), np.float32(0.5), np.float32(0), np.float32(1), np.int64(0), options=options_of()
    )
    json.dumps([state._asdict(), decisions])


def test_the_noise_is_the_standard_error():
    losses = np.random.default_rng(1).normal(0.5, 0.1, 80)
    found = standard_error(losses)
    # of the mean of N draws with replacement: σ/√N, with the population's σ
    assert found == pytest.approx(losses.std() / math.sqrt(80))
    oracle = stats.bootstrap((losses,), np.mean, method="percentile", n_resamples=4000, rng=0)
    assert found == pytest.approx(oracle.standard_error, rel=0.05)
    assert standard_error([0.25, 0.75]) == pytest.approx(0.25 / math.sqrt(2))
    assert standard_error([0.5, 0.5]) == 0


@pytest.mark.parametrize("losses", [[], [0.5], [0.5, math.nan], [[0.5, 0.6]]])
def test_the_noise_refuses_what_has_no_spread(losses):
    with pytest.raises(ValueError, match="at least two volumes"):
        standard_error(losses)


def test_errors_name_the_field():
    with pytest.raises(ValueError, match=r"plateau.rule is 'bold'; choose one of aggressive"):
        options_of(rule="bold")
    for field in ("patience", "threshold", "maximum_scale", "rollback_fraction"):
        with pytest.raises(ValueError, match=rf"plateau\.{field} is -1; set it to 0 or more\."):
            options_of(**{field: -1})
    with pytest.raises(ValueError, match="first validation loss, of epoch 0, is nan"):
        run([math.nan])


@pytest.mark.parametrize(
    ("losses", "ious", "sign"),
    [
        ([0.2156, 0.2089, 0.2034], [0.6445, 0.6401, 0.6356], True),  # the notes' warning
        ([0.2156, 0.2134, 0.2098], [0.6445, 0.6478, 0.6512], False),  # the notes' healthy run
        ([0.9, 0.3, 0.2156, 0.2089, 0.2034], [0.1, 0.2, 0.6445, 0.6401, 0.6356], True),
        ([0.2156, 0.2089, 0.2034], [0.6445, 0.6401, 0.6401], False),
        ([0.2, 0.21, 0.2034], [0.6445, 0.6401, 0.6356], False),
        ([0.2156, 0.2089], [0.6445, 0.6401], False),
        ([], [], False),
    ],
)
def test_warning_sign(losses, ious, sign):
    assert warning_sign(losses, ious) is sign
