"""The presets of the second system against the values of its notes."""

import pytest

from configs import cod10k
from jax_seg.system import configuration
from jax_seg.training import settings, stages

# preset: rates at epochs 0 (or after the warm-up) and 30 (likewise), the smallest, warm-up, batches
NOTES = {
    "conservative": (4e-4, 1.8e-4, 1e-5, 0, (16, 4)),
    "aggressive": (4e-4, 2.2e-4, 2e-5, 3, (16, 4)),
    "maximum": (5e-4, 2e-4, 2e-5, 5, (32, 8)),
}


def plan_of(preset):
    return settings.read_plan(configuration.Reader(cod10k.get_config(preset)))


@pytest.mark.parametrize("preset", NOTES)
def test_rates_and_effective_batches_are_those_of_the_notes(preset):
    first, second, smallest, warm, batches = NOTES[preset]
    plan = plan_of(preset)
    assert [(s.first, s.last) for s in plan] == [(0, 29), (30, 59), (60, 89), (90, 119)]

    def rate(epoch):
        return stages.at(plan, epoch).learning_rate(epoch)

    assert rate(warm) == pytest.approx(first)
    assert rate(30 + warm) == pytest.approx(second)
    for start in (0, 30):
        climb = [rate(start + epoch) for epoch in range(warm)]
        assert climb == sorted(climb) and all(r <= rate(start + warm) for r in climb)
    # One cosine over the three stages that follow the frozen one: it does not begin again.
    falling = [rate(epoch) for epoch in range(30 + warm, 120)]
    assert falling == sorted(falling, reverse=True)
    assert smallest <= falling[-1] < 1.05 * smallest + 2e-7
    assert smallest <= rate(29) < 0.1 * first
    effective = [s.batches[0] * s.accumulate for s in plan]
    assert effective == [batches[0], *[batches[1]] * 3]


def test_the_rates_are_the_notes_decimals_so_that_older_runs_resume():
    for preset, (first, second, *_) in NOTES.items():
        config = cod10k.get_config(preset)
        assert config.schedule.learning_rate == first
        assert config.stages.thaw_encoder_3.schedule.learning_rate == second


def test_the_encoder_thaws_from_the_last_level_on_at_a_tenth():
    rates = [stage.rates for stage in plan_of("conservative")]
    assert [r["encoder_3"] for r in rates] == [0, 0.1, 0.1, 0.1]
    assert [r["encoder_2"] for r in rates] == [0, 0, 0.1, 0.1]
    assert [r["encoder_0_1"] for r in rates] == [0, 0, 0, 0.1]
    assert all(r["rest"] == 1 for r in rates)


def test_the_loss_is_that_of_the_notes():
    weights = plan_of("conservative")[0].loss_weights
    assert {name: float(w) for name, w in weights.items()} == pytest.approx(
        {
            "cross_entropy": 5,
            "soft_iou": 3,
            "edge": 2,
            "deep_cross_entropy": 0.4,
            "load_balance": 0.1,
        }
    )


@pytest.mark.parametrize("preset", ["demo", "unet"])
def test_the_demo_and_its_peer_see_the_same(preset):
    config = cod10k.get_config(preset)
    other = cod10k.get_config("demo")
    for section in ("data", "augment", "colour", "average"):
        assert config[section].to_dict() == other[section].to_dict()
    assert config.train.minutes == other.train.minutes == 10
    plan_of(preset)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"':fast'; choose conservative, aggressive, maximum"):
        cod10k.get_config("fast")
