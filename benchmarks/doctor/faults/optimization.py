"""Faults of the optimizer, its schedule, and the responses to bad epochs."""

from benchmarks.doctor.setups import Fault, changed, scrolls

LEARNED = 5e-3  # the rate of `scrolls`; at a fiftieth of it nothing is learned in its ten epochs


def small(folder, seed):
    """Scrolls that train in seconds: what is looked at are the decisions, not the scores."""
    return changed(scrolls(folder, seed, size=32), **{"data.patch": (16, 16, 16)})


def _too_low(setup, generator):
    return changed(setup, **{"schedule.learning_rate": LEARNED / generator.uniform(50, 200)})


def _too_low_for_sgd(setup, generator):
    rate = 10 ** generator.uniform(-5, -4)
    return changed(setup, **_sgd(rate))


def _too_high(setup, generator):
    return changed(setup, **{"schedule.learning_rate": LEARNED * generator.uniform(1000, 4000)})


def _too_high_for_sgd(setup, generator):
    return changed(setup, **_sgd(generator.uniform(80, 300)), **{"optimizer.clip_norm": 0.0})


def _clipped(setup, generator):
    return changed(
        setup, **_sgd(0.05), **{"optimizer.clip_norm": 10 ** generator.uniform(-4.5, -3.5)}
    )


def _decayed(setup, generator):
    return changed(setup, **{"optimizer.weight_decay": generator.uniform(15, 60)})


def _long_warmup(setup, generator):
    epochs = setup.config.train.epochs
    return changed(setup, **{"schedule.warmup_epochs": int(generator.integers(6, epochs + 1))})


def _restart_at_the_end(setup, generator):
    left = int(generator.integers(1, 3))
    cycle = setup.config.train.epochs - setup.config.schedule.warmup_epochs - left
    fields = {"name": "cosine_restarts", "t_0": cycle, "t_mult": 1}
    return changed(setup, **{f"schedule.{name}": value for name, value in fields.items()})


def _one_set_averaged(setup, generator):
    epochs = setup.config.train.epochs
    start = epochs - int(generator.integers(1, 4))
    return changed(
        setup, **{"average.swa_start": start, "average.swa_every": 5, "average.ema_decay": 0.0}
    )


def _answers_noise(setup, generator):
    fields = {"worse_epochs": int(generator.integers(1, 3)), "noise_factor": 0.0, "rule": "capped"}
    return changed(setup, **{f"plateau.{name}": value for name, value in fields.items()})


def _no_limit(setup, generator):
    rule = str(generator.choice(["aggressive", "escape", "conservative"]))
    return changed(setup, **{"plateau.worse_epochs": 3, "plateau.rule": rule})


def _ran_away(setup, generator):
    """Interventions as in the notes, on a loss that a high rate lets rise now and then."""
    fields = {"worse_epochs": 1, "noise_factor": 0.0, "rule": "escape"}
    setup = changed(setup, **{f"plateau.{name}": value for name, value in fields.items()})
    rate = LEARNED * generator.uniform(20, 60)
    return changed(setup, **{"schedule.name": "constant", "schedule.learning_rate": rate})


def _sgd(rate):
    return {
        "optimizer.name": "sgd",
        "optimizer.momentum": 0.9,
        "schedule.learning_rate": float(rate),
    }


FAULTS = (
    Fault("optimizer.rate_too_low", "AdamW at a hundredth of a working rate", _too_low),
    Fault("optimizer.rate_too_low", "gradient descent at Adam's rate", _too_low_for_sgd),
    Fault("optimizer.rate_too_high", "AdamW at a thousand times a working rate", _too_high),
    Fault("optimizer.rate_too_high", "gradient descent at 80 to 300", _too_high_for_sgd),
    Fault("optimizer.clipped", "gradients clipped to a ten-thousandth", _clipped),
    Fault("optimizer.decay", "weight decay of 15 to 60", _decayed),
    Fault("schedule.unfinished", "warm-up over most of the run", _long_warmup),
    Fault("schedule.unfinished", "a restart an epoch or two before the end", _restart_at_the_end),
    Fault("schedule.unfinished", "an average of one set of weights", _one_set_averaged),
    Fault("control.acts_on_noise", "interventions after any rise of the loss", _answers_noise),
    Fault("control.runaway", "interventions without a limit", _no_limit),
    Fault("control.runaway", "interventions as in the notes, run", _ran_away, True, small),
)
