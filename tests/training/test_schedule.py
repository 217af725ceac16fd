"""Schedules against PyTorch's own numbers and against points worked out by hand."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_seg.training.schedule import (
    NAMES,
    ReduceOnPlateau,
    make_reduce_on_plateau,
    make_schedule,
    weight_noise,
)
from tests.conftest import GOLDEN

SCHEDULES = json.loads((GOLDEN / "schedules.json").read_text())


def golden(kind):
    return [case for case in SCHEDULES if case["kind"] == kind]


def schedule_of(name, **fields):
    defaults = dict(
        learning_rate=1e-2, epochs=100, warmup_epochs=0, t_0=10, t_mult=2, eta_min=0, power=0.9
    )
    return make_schedule(name, **defaults | fields)


def reduction(**fields):
    defaults = dict(patience=1, factor=0.5, threshold=0.0, cooldown=0, min_scale=0.0, mode="min")
    return make_reduce_on_plateau(**defaults | fields)


def scales(update, values):
    """The scale in force during each epoch, and after the last."""
    states = [ReduceOnPlateau()]
    for value in values:
        states.append(update(states[-1], value))
    return [state.scale for state in states]


@pytest.mark.parametrize("case", golden("cosine_warm_restarts"))
@pytest.mark.parametrize("warmup", [0, 5])
def test_restarts_equal_pytorch_and_count_from_the_end_of_warm_up(case, warmup):
    schedule = schedule_of(
        "cosine_restarts",
        learning_rate=case["base_lr"],
        epochs=300,
        warmup_epochs=warmup,
        t_0=case["T_0"],
        t_mult=case["T_mult"],
        eta_min=case["eta_min"],
    )
    rates = [schedule(warmup + t) for t in range(len(case["lr_by_epoch"]))]
    assert rates == pytest.approx(case["lr_by_epoch"], rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_equals_the_recorded_one_under_every_name(name):
    (case,) = golden("warmup")
    warmup = case["warmup_epochs"]
    schedule = schedule_of(name, learning_rate=case["base_lr"], warmup_epochs=warmup)
    rates = [schedule(epoch) for epoch in range(warmup)]
    assert rates == pytest.approx(case["lr_by_epoch"], rel=1e-12)
    assert schedule(warmup) == case["base_lr"]


def test_cosine_by_hand():
    schedule = schedule_of("cosine", learning_rate=1.0, epochs=14, warmup_epochs=2, eta_min=0.2)
    # T = 12; t = 4 is a third of the way: 0.2 + 0.8·(1 + cos 60°)/2 = 0.8
    assert schedule(6) == pytest.approx(0.8)
    assert schedule(8) == pytest.approx(0.6)
    assert schedule(14) == schedule(40) == pytest.approx(0.2)
    assert schedule(6.5) == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi * 4.5 / 12)))


def test_polynomial_by_hand():
    schedule = schedule_of("polynomial", learning_rate=0.01, epochs=1000)
    assert schedule(0) == 0.01
    # nnU-Net half way: 0.01 · 0.5^0.9 = 0.01 · exp(−0.9 ln 2)
    assert schedule(500) == pytest.approx(0.005358867, rel=1e-6)
    assert schedule(1000) == schedule(2000) == 0


def test_plateau_and_constant_hold_the_rate():
    for name in ("plateau", "constant"):
        assert {schedule_of(name)(epoch) for epoch in (0, 7, 99, 500)} == {1e-2}


def test_a_run_may_be_all_warm_up():
    assert schedule_of("cosine", epochs=4, warmup_epochs=4)(3) == 1e-2


@given(st.sampled_from(NAMES), st.integers(0, 20), st.integers(1, 5), st.integers(1, 4))
def test_rates_stay_between_zero_and_the_base(name, warmup, t_0, t_mult):
    schedule = schedule_of(name, epochs=20, warmup_epochs=warmup, t_0=t_0, t_mult=t_mult)
    assert all(0 <= schedule(quarter / 4) <= 1e-2 for quarter in range(120))


@pytest.mark.parametrize("case", golden("reduce_on_plateau"))
def test_reduction_equals_pytorch(case):
    update = reduction(
        patience=case["patience"], factor=case["factor"], threshold=case["threshold"]
    )
    rates = [case["base_lr"] * scale for scale in scales(update, case["val_loss"])[:-1]]
    assert rates == pytest.approx(case["lr_by_epoch"], rel=1e-12)


def test_cooldown_floor_and_a_growing_score_by_hand():
    # bad at every epoch, patience 1, cooldown 2: two bad epochs reduce, two are not counted
    values = [1.0] + [2.0] * 10
    assert scales(reduction(cooldown=2, min_scale=0.2), values)[1:] == (
        [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.2]
    )
    assert scales(reduction(mode="max"), values)[-1] == 2**-4  # 9 bad epochs after the best 2.0
    # 10 % better than 2 is asked for: 1.9 and 1.82 are bad, 1.78 is good
    assert scales(reduction(threshold=0.1), [2, 1.9, 1.82, 1.78, 1.76])[1:] == [1, 1, 0.5, 0.5, 0.5]
    assert scales(reduction(threshold=0.1), [2, 1.85, 1.78])[1:] == [1, 1, 1]
    assert scales(reduction(), [math.nan, math.nan, 1.0])[1:] == [1, 0.5, 0.5]


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(0, 2))
def test_reduction_survives_json(values, cooldown):
    update, state, restored = reduction(cooldown=cooldown), ReduceOnPlateau(), ReduceOnPlateau()
    for value in values:
        state, restored = update(state, value), update(restored, value)
        restored = ReduceOnPlateau(**json.loads(json.dumps(restored._asdict())))
        assert restored == state


def test_weight_noise_by_hand():
    fields = dict(start_epoch=30, every=10, std=1e-3, decay=0.9)
    noise = {epoch: weight_noise(epoch, **fields) for epoch in range(60)}
    assert {epoch: std for epoch, std in noise.items() if std} == pytest.approx(
        {30: 1e-3, 40: 9e-4, 50: 8.1e-4}
    )


@pytest.mark.parametrize(
    "make, fields, named",
    [
        (schedule_of, dict(name="cosin"), "schedule.name"),
        (schedule_of, dict(name="cosine_restarts", t_0=0), "schedule.t_0"),
        (schedule_of, dict(name="cosine_restarts", t_mult=0.5), "schedule.t_mult"),
        (schedule_of, dict(name="cosine", epochs=4, warmup_epochs=5), "schedule.warmup_epochs"),
        (schedule_of, dict(name="cosine", warmup_epochs=-1), "schedule.warmup_epochs"),
        (schedule_of, dict(name="constant", learning_rate=-1e-3), "schedule.learning_rate"),
        (schedule_of, dict(name="constant", learning_rate=math.nan), "schedule.learning_rate"),
        (schedule_of, dict(name="cosine", eta_min=-1e-6), "schedule.eta_min"),
        (schedule_of, dict(name="polynomial", power=-1), "schedule.power"),
        (reduction, dict(factor=1.0), "reduction.factor"),
        (reduction, dict(factor=0.0), "reduction.factor"),
        (reduction, dict(patience=-1), "reduction.patience"),
        (reduction, dict(threshold=-1), "reduction.threshold"),
        (reduction, dict(cooldown=-1), "reduction.cooldown"),
        (reduction, dict(min_scale=2), "reduction.min_scale"),
        (reduction, dict(mode="minimum"), "reduction.mode"),
        (weight_noise, dict(epoch=0, start_epoch=0, every=0, std=1, decay=1), "noise.every"),
        (weight_noise, dict(epoch=0, start_epoch=0, every=1, std=-1, decay=1), "noise.std"),
    ],
)
def test_errors_name_the_field_in_one_sentence(make, fields, named):
    with pytest.raises(ValueError, match=named) as error:
        make(**fields)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
