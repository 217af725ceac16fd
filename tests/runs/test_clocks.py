"""Schedules of the learning rate: where each begins, restarts and ends."""

import pytest

from jax_seg.runs.clocks import clocks
from jax_seg.training.schedule import make_schedule

RESTARTS = {"name": "cosine_restarts", "warmup_epochs": 1, "t_0": 3, "t_mult": 2}


def test_a_run_without_stages_has_one_clock():
    (clock,) = clocks({}, 40, RESTARTS)
    assert (clock.first, clock.end, clock.warm, clock.section) == (0, 40, 1, "schedule")
    assert clock.restarts == [4, 10, 22]
    assert clock._replace(fields=RESTARTS | {"name": "cosine"}).restarts == []


def test_a_stage_with_a_schedule_begins_a_clock_that_later_stages_continue():
    stages = {
        "three": {"epochs": [14, 39]},
        "two": {"epochs": [10, 13], "schedule": {"t_0": 4}},
        "one": {"epochs": [0, 9], "schedule": {}},
    }
    first, second = clocks(stages, 40, RESTARTS)
    assert (first.end, first.fields, first.section) == (10, RESTARTS, "schedule")
    assert (second.first, second.end, second.warm) == (10, 40, 11)
    assert second.fields["t_0"] == 4 and second.section == "stages.two.schedule"
    stages["one"]["schedule"] = {"warmup_epochs": 0}
    assert [clock.section for clock in clocks(stages, 40, RESTARTS)] == [
        "stages.one.schedule",
        "stages.two.schedule",
    ]


@pytest.mark.parametrize("t_mult", [1, 2, 3])
def test_restarts_are_where_the_rate_rises(t_mult):
    fields = RESTARTS | {"t_mult": t_mult}
    (clock,) = clocks({}, 60, fields)
    rate = make_schedule(epochs=60, learning_rate=1.0, eta_min=0.0, power=1.0, **fields)
    rises = [epoch for epoch in range(2, 60) if rate(epoch) > rate(epoch - 1)]
    assert clock.restarts == rises
