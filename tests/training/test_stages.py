import numpy as np
import pytest

from configs import base
from jax_seg.training import plateau, schedule, stages

SCHEDULE = {
    "name": "constant",
    "learning_rate": 0.1,
    "warmup_epochs": 2,
    "t_0": 10,
    "t_mult": 2,
    "eta_min": 0.0,
    "power": 0.9,
}


def plan(given, epochs=10, **changes):
    arguments = {
        "loss_weights": {"dice": 0.5, "focal": 0.25, "boundary": 0.0},
        "batches": (2,),
        "accumulate": 1,
        "rates": {"encoder": 1.0, "rest": 0.5},
        "schedule": SCHEDULE,
    }
    return stages.plan(given, epochs=epochs, **(arguments | changes))


def test_without_stages_the_run_is_one():
    (only,) = plan({})
    assert (only.first, only.last, only.batches, only.accumulate) == (0, 9, (2,), 1)
    assert only.loss_weights == {"dice": 0.5, "focal": 0.25}  # a term of weight 0 is left out
    assert [only.learning_rate(epoch) for epoch in (0, 1, 2)] == [0.05, 0.1, 0.1]
    assert only.warm == 2 and not only.reducing


def test_a_stage_replaces_what_it_names_and_every_stage_has_the_same_terms():
    first, second = plan(
        {
            "fine": {"epochs": (4, 9), "loss_weights": {"boundary": 0.1}, "rates": {"encoder": 0}},
            "coarse": {"epochs": (0, 3), "loss_weights": {"focal": 0.0}, "batch": 6},
        }
    )
    assert (first.name, second.name) == ("coarse", "fine")
    assert first.loss_weights == {"dice": np.float32(0.5), "focal": 0, "boundary": 0}
    assert second.loss_weights == {
        "dice": np.float32(0.5),
        "focal": np.float32(0.25),
        "boundary": np.float32(0.1),
    }
    assert first.batches == (6,) and second.batches == (2,)
    assert second.rates == {"encoder": 0, "rest": 0.5}
    assert [stages.at([first, second], epoch).name for epoch in (0, 3, 4, 9, 12)] == [
        "coarse",
        "coarse",
        "fine",
        "fine",
        "fine",
    ]


def test_the_clock_goes_on_or_starts_with_a_schedule_of_the_stage():
    cosine = SCHEDULE | {"name": "cosine"}
    one = plan({}, schedule=cosine)[0].learning_rate
    half = {"loss_weights": {"focal": 0.1}}
    two = plan({"a": {"epochs": (0, 4)}, "b": {"epochs": (5, 9)} | half}, schedule=cosine)
    assert [stages.at(two, e).learning_rate(e) for e in range(10)] == [one(e) for e in range(10)]

    own = {"a": {"epochs": (0, 4)}, "b": {"epochs": (5, 9), "schedule": {"learning_rate": 0.4}}}
    first, second = plan(own)
    assert [second.learning_rate(e) for e in (5, 6, 7)] == [0.2, 0.4, 0.4]
    assert first.learning_rate(0) == 0.05 and second.warm == 7 and second.own_schedule


def test_each_epoch_draws_its_batch_by_seed():
    stage = plan({}, batches=(6, 8, 10))[0]
    drawn = [stage.batch(0, epoch) for epoch in range(60)]
    assert set(drawn) == {6, 8, 10}
    assert drawn == [stage.batch(0, epoch) for epoch in range(60)]
    assert drawn != [stage.batch(1, epoch) for epoch in range(60)]


def test_the_best_loss_is_forgotten_where_the_loss_changes():
    a, b, c = plan(
        {
            "a": {"epochs": (0, 3)},
            "b": {"epochs": (4, 6), "loss_weights": {"focal": 0.5}},
            "c": {
                "epochs": (7, 9),
                "loss_weights": {"focal": 0.5},
                "schedule": {"learning_rate": 1},
            },
        }
    )
    controller = plateau.State(scale=2.0, best_loss=0.3, best_epoch=1, plateaus=3, interventions=2)
    reduction = schedule.ReduceOnPlateau(scale=0.5, best=0.3, bad_epochs=4)
    after, reduced = stages.cross(a, b, controller, reduction)
    assert after.best_loss is None and after.scale == 2.0 and after.plateaus == 3
    assert reduced == schedule.ReduceOnPlateau(scale=0.5)
    after, reduced = stages.cross(b, c, controller, reduction)
    assert after.best_loss == 0.3 and after.scale == 1.0 and after.interventions == 0
    assert reduced == schedule.ReduceOnPlateau()


REFUSED = {
    r"stages\.b\.epochs is \(6, 9\), which leave a gap after stage 'a'; begin with epoch 5": {
        "a": {"epochs": (0, 4)},
        "b": {"epochs": (6, 9)},
    },
    r"stages\.b\.epochs is \(4, 9\), which overlap": {
        "a": {"epochs": (0, 4)},
        "b": {"epochs": (4, 9)},
    },
    r"end before they begin": {"a": {"epochs": (0, -1)}},
    r"stages end with epoch 7, but train\.epochs is 10": {"a": {"epochs": (0, 7)}},
    r"stages\.a has no field 'weights'": {"a": {"epochs": (0, 9), "weights": {}}},
    r"stages\.a\.loss_weights has no 'hope'": {
        "a": {"epochs": (0, 9), "loss_weights": {"hope": 1}}
    },
    r"stages\.a\.rates has no 'head'": {"a": {"epochs": (0, 9), "rates": {"head": 1.0}}},
    r"stages\.a\.schedule has no 'rate'": {"a": {"epochs": (0, 9), "schedule": {"rate": 1}}},
    r"Stage 'a' freezes every part": {
        "a": {"epochs": (0, 9), "rates": {"encoder": 0.0, "rest": 0.0}}
    },
    r"schedule\.warmup_epochs is 2; set it between 0 and train\.epochs, which is 1": {
        "a": {"epochs": (0, 8)},
        "b": {"epochs": (9, 9), "schedule": {"learning_rate": 1}},
    },
    r"accumulate -1 batches": {"a": {"epochs": (0, 9), "accumulate": -1}},
    r"Every loss weight is 0": {
        "a": {"epochs": (0, 9), "loss_weights": {"dice": 0.0, "focal": 0.0}}
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_makes_no_sense_is_refused(message):
    with pytest.raises(ValueError, match=message):
        plan(REFUSED[message])


def test_base_adds_stages_with_the_fields_that_are_known():
    config = base.get_config()
    base.add_stage(config, "first", epochs=(0, 299), loss_weights={"dice": 1.0})
    assert set(config.stages.first) == set(stages.FIELDS)
    assert config.is_locked
