"""Milestones of a run: warm-ups, restarts, stages, averages and plateau decisions."""

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
    for first, length, schedule in _clocks(run):
        if schedule.get("name") == "cosine_restarts":
            epoch, cycle = first + schedule["warmup_epochs"] + schedule["t_0"], schedule["t_0"]
            while epoch < first + length and (swa is None or epoch < swa):
                mark(epoch, "restart", "learning-rate restart")
                cycle *= schedule["t_mult"]
                epoch += cycle
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
    return [
        (first, first + schedule["warmup_epochs"])
        for first, _, schedule in _clocks(run)
        if schedule.get("warmup_epochs")
    ]


def _loss(value):
    return "not finite" if value is None else f"{value:.4g}"


def _clocks(run):
    """(first epoch, epochs, schedule) of every learning-rate schedule that starts in a run."""
    schedule, epochs = run.setting("schedule"), run.setting("train.epochs")
    if not schedule or not epochs:
        return []
    stages = sorted((run.setting("stages") or {}).values(), key=lambda stage: stage["epochs"])
    clocked = [stage for stage in stages if stage.get("schedule")]
    # A schedule runs until the next one starts, through stages that define none.
    starts = [*(stage["epochs"][0] for stage in clocked), epochs]
    own = [
        (start, following - start, {**schedule, **stage["schedule"]})
        for stage, start, following in zip(clocked, starts[:-1], starts[1:], strict=True)
    ]
    if own and own[0][0] == 0:
        return own
    return [(0, own[0][0] if own else epochs, schedule), *own]
