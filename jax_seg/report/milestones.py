"""Milestones of a run: warm-ups, restarts, stages, averages and plateau decisions."""

import math

from jax_seg.runs.clocks import clocks
from jax_seg.tasks.judged import TRAINING

DECISIONS = {
    "intervention": lambda d: (
        f"intervention: learning rate × {d['scale']:.3g}, gradient norm {d['gradient_norm']:.3g}"
    ),
    "rollback": lambda d: (
        f"rollback to epoch {d['best_epoch']} ({d['reason']}: loss {_loss(d['val_loss'])}, best "
        f"{_loss(d['best_loss'])})"
    ),
    "substantial_progress": lambda d: f"no intervention: new best loss {_loss(d['best_loss'])}",
    "early_stop": lambda d: f"early stop: no improvement since epoch {d['improved_epoch']}",
}


def marks(run, color=0):
    """Milestones: restarts of the schedule, stages, averages and plateau decisions.

    Args:
      run: `runs.run.Run`.
      color: number of the run's colour.

    Returns:
      List of {'x': epoch, 'kind', 'name', 'color'} in epoch order.
    """
    found = []
    last = max((e["epoch"] for e in run.of_kind("train")), default=-1)

    def mark(epoch, kind, name):
        if epoch <= last:
            found.append({"x": epoch, "kind": kind, "name": name, "color": color})

    swa = run.setting("average.swa_start") if run.setting("average.swa_every") else None
    for clock in _clocks(run):
        for epoch in clock.restarts:
            if swa is None or epoch < swa:
                mark(epoch, "restart", "learning-rate restart")
    for name, stage in (run.setting("stages") or {}).items():
        mark(stage["epochs"][0], "stage", f"stage {name}")
    if swa is not None:
        mark(swa, "swa", "weight averaging (SWA) starts")
    for event in run.of_kind("decision"):
        decision = event["decision"]
        if decision["kind"] in DECISIONS:
            name = DECISIONS[decision["kind"]](decision)
            if run.judged_on.volumes == TRAINING:
                name += f"; evaluated on {run.judged_on.name(run.noun)}s"
            mark(event["epoch"], decision["kind"], name)
    return sorted(found, key=lambda found: found["x"])


def warm_ups(run):
    """[(first epoch, epoch after the last)] of the warm-ups of a run's schedule."""
    return [(one.first, one.warm) for one in _clocks(run) if one.warm > one.first]


def _loss(value):
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def _clocks(run):
    schedule, epochs = run.setting("schedule"), run.setting("train.epochs")
    return clocks(run.setting("stages", {}), epochs, schedule) if schedule and epochs else []
