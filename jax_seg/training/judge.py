"""After an epoch: judge weights and averages on the validation part, then decide what follows."""

import itertools

from jax_seg.metrics import segmentation
from jax_seg.system import processes
from jax_seg.training import console, pace, plateau, schedule, stages
from jax_seg.training.averaging import swa_update
from jax_seg.training.epoch import epochs_of_swa
from jax_seg.training.progress import stop_if_asked
from jax_seg.training.validate import measure_statistics, validate_patches


def judge(run, stage, state, progress, trained):
    """Judge the raw weights, on which decisions rest, and the averages.

    A new average enters the state only after it was judged, so a stop in between repeats both.

    Returns:
      (state, {'raw', 'swa' or 'ema': validation metrics}).

    Raises:
      Stopped: a signal arrived; the state is saved.
    """
    _stop_if_all_agree(run, state, progress)
    judged, seconds, whole = {}, {}, run.settings.judges_wholes(progress.epoch)
    averages, averaged = _averages(run, state, progress)
    for name, variables in (("raw", state.variables), *averages.items()):
        if name == "swa" and not averaged:
            continue
        with pace.measured(seconds, "patches"):
            judged[name] = _judge_patches(run, stage, state, progress, name, variables)
        _stop_if_all_agree(run, state, progress)
        if whole:
            with pace.measured(seconds, "wholes"):
                judged[name] |= _judge_wholes(run, state, progress, name, variables)
    progress.averaged = averaged
    pace.note(run, progress, **{name: len(judged) * last for name, last in seconds.items()})
    if whole:
        progress.judged = [*progress.judged, [trained["loss"], judged["raw"]["iou"]]][-3:]
    return state._replace(averages=averages), judged


def _stop_if_all_agree(run, state, progress):
    """Between updates, where several processes have to come to the same place."""
    run.asked.settle()
    stop_if_asked(run, state, progress)


def _averages(run, state, progress):
    """({name: variables}, trees in the SWA average), including this epoch's weights."""
    averages, averaged = dict(state.averages), progress.averaged
    since = epochs_of_swa(run.settings.average, progress.epoch)
    if since is not None and since % run.settings.average["swa_every"] == 0:
        averages["swa"] = swa_update(averages["swa"], state.variables, averaged)
        averaged += 1
        if state.batch_stats:
            averages["swa"] = measure_statistics(
                run.programs.batch_stats_of,
                averages["swa"],
                run.data.train,
                batch=run.settings.batch,
                threads=run.settings.threads,
                devices=run.settings.devices,
            )
    return averages, averaged


def _judge_patches(run, stage, state, progress, name, variables):
    """The loss of the fixed validation samples, with its standard error."""
    metrics = validate_patches(
        run.programs.evaluate,
        variables,
        run.data.validation,
        weights=stage.loss_weights,
        batch=run.settings.batch,
        threads=run.settings.threads,
        devices=run.settings.devices,
    )
    which = _suffix(name)
    run.journal.event(f"validation{which}", **_at(run, state, progress), **metrics)
    terms = segmentation.in_words({term: metrics[term] for term in stage.loss_weights})
    line = f"Epoch {progress.epoch} Val{which} - Loss: {metrics['loss']:.4f} ({terms})"
    run.journal.say(line + run.judged_on.suffix(run.data.wholes))
    # Without the terms, since the loss term 'dice' is not a score of volumes.
    return {key: metrics[key] for key in ("loss", "standard_error")}


def _judge_wholes(run, state, progress, name, variables):
    """Pooled scores of the whole validation part; each process segments a share of it."""
    devices, here_counted = run.settings.devices, []
    share = slice(devices.process, None, devices.processes)
    segmented = run.data.segment(run.programs.network, devices.here(variables), share)
    for _ in range(-(-len(run.data.validation_ids) // devices.processes)):
        # In the last round there is none left for some.
        here_counted += [counts for _, counts, _ in itertools.islice(segmented, 1)]
        _stop_if_all_agree(run, state, progress)
    # A process without a volume of its own has counted nothing.
    parts = processes.from_all(segmentation.as_json(sum(here_counted)) if here_counted else None)
    scores = segmentation.scores(sum(segmentation.from_json(part) for part in parts if part))
    which = _suffix(name)
    run.journal.event(f"volumes{which}", **_at(run, state, progress), **scores)
    run.journal.say(
        f"Epoch {progress.epoch} {run.data.wholes.capitalize()}{which} - "
        f"{segmentation.in_words(scores)}{run.judged_on.suffix(run.data.wholes)}"
    )
    scores.pop("classes", None)  # a checkpoint is chosen by their mean
    return scores


def _at(run, state, progress):
    volumes = run.judged_on.volumes
    return {"step": int(state.step), "epoch": progress.epoch, "volumes": volumes}


def _suffix(name):
    return "" if name == "raw" else f" {name}"


def decide(run, stage, state, progress, trained, judged):
    """Decide what the next epoch does and record it in `progress`, without carrying it out."""
    controller, decisions = plateau.step(
        plateau.State(**progress.plateau),
        judged["loss"],
        judged["standard_error"],
        trained["gradient_norm"],
        progress.epoch,
        options=run.settings.control,
    )
    if "iou" in judged and plateau.warning_sign(*zip(*progress.judged, strict=True)):
        sign = {"loss": trained["loss"], "iou": judged["iou"], "advice": plateau.ADVICE}
        decisions.append({"kind": "warning_sign", **sign})
    for decision in decisions:
        _record_decision(run, state, progress, decision)
    reduction = schedule.ReduceOnPlateau(**progress.reduction)
    if stage.reducing and progress.epoch >= stage.warm:
        reduction = run.settings.reduce_rate(reduction, judged["loss"])
    following = stages.at(run.settings.plan, progress.epoch + 1)
    if following is not stage:
        controller, reduction = stages.cross(stage, following, controller, reduction)
        run.journal.say(
            f"Epoch {progress.epoch} ends stage '{stage.name}'; '{following.name}' begins"
        )
    progress.plateau, progress.reduction = controller._asdict(), reduction._asdict()


def _record_decision(run, state, progress, decision):
    run.journal.event("decision", **_at(run, state, progress), decision=decision)
    if decision["kind"] == "new_best":
        progress.best_step = int(state.step)
    else:
        line = f"Epoch {progress.epoch} {console.sentence(decision)}"
        run.journal.say(line + run.judged_on.suffix(run.data.wholes))
    if decision["kind"] == "rollback":
        progress.return_to = progress.best_step
    progress.finished |= decision["kind"] == "early_stop"
