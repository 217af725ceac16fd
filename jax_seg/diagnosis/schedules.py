"""Does the schedule fit the length of the run: warm-up, last cycle, averages, stages?"""

import math

import numpy as np

from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.metrics.segmentation import counted
from jax_seg.training import pace, stages
from jax_seg.training.epoch import epochs_of_swa

HALF = 0.5
"""A warm-up may take this share of its schedule, and a decay has to bring the rate below this
share of its peak: beyond, the better part of the schedule is missing."""
FROZEN = 0.05
"""Under an average that fixes the rate below this share of the schedule's mean, the run stands
still: its remaining epochs count for less than a twentieth of as many before."""
CERTAIN = 2.0  # standard errors by which an average has to be worse


def planned_rates(settings):
    """The learning rate of each epoch without reductions and interventions, a list of floats."""
    average, rates = settings.average, []
    for stage in settings.plan:
        for epoch in range(stage.first, stage.last + 1):
            averaging = epochs_of_swa(average, epoch) is not None
            rate = average["swa_learning_rate"] if averaging else stage.learning_rate(epoch)
            rates.append(float(rate))
    return rates


def planned_updates(settings, samples):
    """The updates of each epoch, a list of floats.

    Args:
      settings: `Settings`.
      samples: of an epoch.

    Raises:
      Skipped: they are measured once the run has begun.
    """
    if pace.by_minutes(settings):
        raise Skipped("the run measures its pace before it knows how many updates it has")
    given = float(pace.updates_given(settings))
    return [
        given
        or float(
            np.mean([math.ceil(samples / (batch * stage.accumulate)) for batch in stage.batches])
        )
        for stage in settings.plan
        for _ in range(stage.first, stage.last + 1)
    ]


def epochs_so_far(evidence):
    """The run's `evidence.by_epoch`; empty before it and without events."""
    try:
        return evidence.epochs
    except Skipped:
        return []


def fits_the_run(evidence):
    """Warm-up, decay and averages against the epochs of the run."""
    settings = evidence.settings
    return [
        *_warmup(settings),
        *_ends_high(settings),
        *_averages_one(settings),
        *_average_stands_still(settings),
    ]


def ended_early(evidence):
    """Stages, averages and decay that a run which has ended did not come to."""
    if not evidence.run.scores:
        raise Skipped("the run has not ended")
    settings, epochs = evidence.settings, evidence.epochs
    last, planned = epochs[-1]["epoch"], settings.train["epochs"]
    if last >= planned - 1:
        return []
    missed = [f"stage '{stage.name}'" for stage in settings.plan if stage.first > last]
    average = settings.average
    if average["swa_every"] and average["swa_start"] > last:
        missed.append("the average of the weights (average.swa_start)")
    peak = max(one["train"]["learning_rate"] for one in epochs)
    rate = epochs[-1]["train"]["learning_rate"]
    if _decays(evidence.field("schedule.name")) and rate > HALF * peak:
        missed.append(
            f"the decay of the learning rate, still {100 * rate / peak:.0f} % of its peak"
        )
    if not missed:
        return []
    stopped = any(d["kind"] == "early_stop" for one in epochs for d in one["decisions"])
    field = "plateau.patience" if stopped else "train.minutes"
    return [
        Finding(
            "schedule.unfinished",
            "warning",
            f"The run ended after {last + 1} of {planned} epochs because of {field}, before "
            f"{' and '.join(missed)}.",
            {"epochs": last + 1, "planned_epochs": planned, "last_rate": rate, "peak_rate": peak},
            field,
            f"Set train.epochs to what fits into the time, about {last + 1}, and the epochs of "
            "schedule, average and stages with it.",
        )
    ]


def average_is_worse(evidence):
    """An average of the weights whose loss is above that of the weights themselves."""
    last = evidence.epochs[-1]
    found = []
    for name, field in (("swa", "average.swa_start"), ("ema", "average.ema_decay")):
        if f"validation {name}" not in last:
            continue
        average, raw = last[f"validation {name}"], last["validation"]
        # The same patches are judged, so the error of one counts, not that of two.
        error = max(average["standard_error"], raw["standard_error"])
        if average["loss"] - raw["loss"] <= CERTAIN * error:
            continue
        found.append(
            Finding(
                "schedule.unfinished",
                "warning",
                f"The average '{name}' holds weights from before the run had learned: at the end "
                f"its validation loss is {average['loss']:.4f}, that of the last weights "
                f"{raw['loss']:.4f}, with a standard error of {error:.4f}.",
                {"average": average["loss"], "weights": raw["loss"], "standard_error": error},
                field,
                "Average later and over fewer epochs, or use the raw weights.",
            )
        )
    if not found and not any(f"validation {name}" in last for name in ("swa", "ema")):
        raise Skipped("the run keeps no average")
    return found


def clocks(settings):
    """The `Clock`s of a run; averaging at a constant rate ends one."""
    average = settings.average
    last = average["swa_start"] if average["swa_every"] else settings.train["epochs"]
    begun = {stage.clock.first: stage.clock for stage in settings.plan}
    return [one._replace(end=min(one.end, last)) for one in begun.values() if one.first < last]


def _warmup(settings):
    found = []
    for clock in clocks(settings):
        length, warmup = clock.end - clock.first, clock.warm - clock.first
        if warmup <= max(HALF * length, 1):  # one epoch is the shortest warm-up
            continue
        unfinished = warmup >= length
        field = f"{clock.section}.warmup_epochs"
        found.append(
            Finding(
                "schedule.unfinished",
                "error" if unfinished else "warning",
                f"The warm-up takes {warmup} of the {counted(length, 'epoch')} of the schedule"
                f"{_of(clock, settings)}, so that the rate "
                f"{'only rises' if unfinished else 'rises for more than half of them'}.",
                {"warmup_epochs": warmup, "epochs": length},
                field,
                f"Set {field} to {max(length // 20, 1)}.",
            )
        )
    return found


def _ends_high(settings):
    """A schedule that decays, but ends with a high rate: a restart just before the end."""
    found, rates = [], planned_rates(settings)
    for clock in clocks(settings):
        peak, last = max(rates[clock.first : clock.end]), rates[clock.end - 1]
        length = clock.end - clock.first
        ends = clock.end == settings.train["epochs"]  # else another schedule follows, or SWA
        if clock.fields["name"] != "cosine_restarts" or not ends or last <= HALF * peak:
            continue
        if clock.warm - clock.first > HALF * length:
            continue  # the warm-up is to blame
        left = clock.end - max(clock.restarts, default=clock.warm)
        found.append(
            Finding(
                "schedule.unfinished",
                "warning",
                f"The last cycle of the rate starts {counted(left, 'epoch')} before the end of the "
                f"run{_of(clock, settings)} and ends at {100 * last / peak:.0f} % of its peak.",
                {"last_rate": last, "peak_rate": peak, "epochs_since_restart": left},
                f"{clock.section}.t_0",
                f"Choose {clock.section}.t_0 and t_mult whose cycles end with the run, or set "
                f"{clock.section}.name to 'cosine'.",
            )
        )
    return found


def _averages_one(settings):
    average, epochs = settings.average, settings.train["epochs"]
    if not average["swa_every"]:
        return []
    trees = len(range(average["swa_start"], epochs, average["swa_every"]))
    if trees > 1:
        return []
    return [
        Finding(
            "schedule.unfinished",
            "warning",
            f"The average takes weights every {average['swa_every']} epochs from epoch "
            f"{average['swa_start']}, but the run ends with epoch {epochs - 1}: it averages "
            "a single set of weights.",
            {"averaged": trees, "epochs": epochs},
            "average.swa_start",
            "Start earlier or average more often, so that at least five sets are averaged, or set "
            "average.swa_every to 0.",
        )
    ]


def _average_stands_still(settings):
    """SWA that holds the rate so low for most of the run that nothing more is learned."""
    average, rates = settings.average, planned_rates(settings)
    start = average["swa_start"] if average["swa_every"] else len(rates)
    before, held = np.mean(rates[:start] or [0.0]), average["swa_learning_rate"]
    if start > HALF * len(rates) or held >= FROZEN * before:
        return []
    return [
        Finding(
            "schedule.unfinished",
            "warning",
            f"From epoch {start} of {len(rates)} on, averaging holds the rate at {held:.2g}, "
            f"{100 * held / before:.1f} % of its mean before, so that the schedule ends early.",
            {"swa_start": start, "epochs": len(rates), "rate": held, "rate_before": float(before)},
            "average.swa_start",
            f"Start at epoch {round(0.75 * len(rates))}, three quarters of the run (Izmailov et "
            "al. 2018), or raise average.swa_learning_rate.",
        )
    ]


def _decays(name):
    return name in ("cosine", "cosine_restarts", "polynomial")


def _of(clock, settings):
    several = len(settings.plan) > 1
    return f" of stage '{stages.at(settings.plan, clock.first).name}'" if several else ""


CHECKS = (
    Check(("schedule.unfinished",), fits_the_run, quick=True),
    Check(("schedule.unfinished",), ended_early, needs="run", quick=True),
    Check(("schedule.unfinished",), average_is_worse, needs="run", quick=True),
)
