"""A training run in order: prepare, restore or begin, train and judge each epoch, finish."""

import contextlib
import dataclasses
from pathlib import Path

from jax_seg.runs import checkpoints
from jax_seg.runs.events import read_events
from jax_seg.runs.workdir import require_workdir
from jax_seg.system import processes
from jax_seg.system.files import locked, remove_unfinished
from jax_seg.system.stop import stop_signal
from jax_seg.tasks.judged import CHECKPOINT
from jax_seg.training import pace, resuming, stages
from jax_seg.training.agreement import Agreement
from jax_seg.training.epoch import Diverged as Diverged
from jax_seg.training.epoch import size_of, train_epoch
from jax_seg.training.judge import decide, judge
from jax_seg.training.progress import Progress, save
from jax_seg.training.progress import Stopped as Stopped
from jax_seg.training.start import begin, prepare, restore, restore_state


def run(config, workdir, defaults=None, doctor=None, opening=()):
    """Train a configuration in `workdir`, or resume the run in it.

    Args:
      config: ConfigDict, as `configs/base.py` makes it, with one fold.
      workdir: folder of the run; created if absent.
      defaults: ConfigDict with the default of every field, which fields added since the run
        began take.
      doctor: examines a new run before its first epoch, and any run after each: has `before(run)`
        and `after_epoch(run, state, progress)`; None for no examination.
      opening: lines for the log of a new run.

    Returns:
      The scores of the best checkpoint on the whole validation part, pooled.

    Raises:
      ValueError, FileNotFoundError: a configuration or data that cannot be trained on.
      OSError: a checkpoint could not be written, or the workdir holds files of others.
      Diverged: a loss or gradient is not finite.
      Stopped: SIGTERM or SIGINT arrived; the state is saved.
    """
    workdir, progress = Path(workdir), Progress()
    resuming.require_same_start(config, workdir)
    require_workdir(workdir, config)
    with contextlib.ExitStack() as cleanup:
        if processes.leads():
            cleanup.enter_context(locked(workdir))
            remove_unfinished(workdir)
        run = prepare(config, workdir, progress, defaults=defaults, cleanup=cleanup)
        state = restore(run, progress) if run.stored else begin(run, progress)
        doctor = doctor if processes.leads() else None
        if not run.stored:
            _open(run, doctor, opening)
        with stop_signal() as stop_asked:
            run = run._replace(asked=_agreement(run, stop_asked))
            while not _is_over(run, progress):
                stage = stages.at(run.settings.plan, progress.epoch)
                state = _return_to_best(run, state, progress)
                state, trained = train_epoch(run, stage, state, progress)
                state, judged = judge(run, stage, state, progress, trained)
                decide(run, stage, state, progress, trained, judged["raw"])
                progress.restore(processes.from_lead(dataclasses.asdict(progress)))
                if doctor:
                    doctor.after_epoch(run, state, progress)
                _end_epoch(run, stage, state, progress, judged["raw"])
        return _finish(run, state, progress)


def _open(run, doctor, opening):
    """What a new run logs before its first epoch."""
    for line in opening:
        run.journal.say(line)
    if doctor:
        doctor.before(run)
    run.clock.count()  # the minutes of a run are those of its training


def _agreement(run, stop_asked):
    """The `Agreement` of a run, with the handler of signals in place."""
    every = run.settings.save_seconds
    return Agreement(run.settings.devices, stop_asked, lambda: run.clock.save_is_due(every))


def _is_over(run, progress):
    """Whether all epochs are done, early stopping has ended the run, or its time is up."""
    return (
        progress.epoch >= run.settings.train["epochs"]
        or progress.finished
        or _time_is_up(run, progress)
    )


def _time_is_up(run, progress):
    return 0 < 60 * run.settings.train["minutes"] <= progress.seconds


def _return_to_best(run, state, progress):
    """The best checkpoint's state at the current step, if the last epoch decided on a rollback."""
    if progress.return_to is None:
        return state
    checkpoints.wait(run.checkpoints)
    step = progress.return_to
    if processes.leads() and step not in run.checkpoints.found():  # after falling back to another
        step = run.checkpoints.resolve("best")
        run.journal.warn(f"Warning: checkpoint {progress.return_to} is gone; using {step} instead.")
    step = processes.from_lead(step)
    best, beside = restore_state(run, step)
    progress.return_to = None
    progress.averaged = beside["loop"]["averaged"]  # of the restored averages
    return best._replace(step=state.step)


def _end_epoch(run, stage, state, progress, metrics):
    """Advance to the next epoch and save."""
    progress.seconds += processes.from_lead(run.clock.count())
    if _time_is_up(run, progress):
        run.journal.say(f"Epoch {progress.epoch} is the last: train.minutes have passed")
    _, samples, updates = size_of(run, stage, progress)
    if pace.by_minutes(run.settings):
        _set_length(run, state, progress)
    progress.drawn += samples * updates
    progress.epoch, progress.batches, progress.sums = progress.epoch + 1, 0, {}
    save(run, state, progress, metrics)


def _set_length(run, state, progress):
    """Decide how long the next epoch is; what one process has measured counts for all."""
    if progress.epoch == run.settings.train["epochs"] - 1:
        return
    if processes.leads():
        progress.updates = pace.updates_of_next(run, state, progress)
        if not progress.drawn and "sample" in progress.pace:
            run.journal.say(pace.in_words(run, progress))
    progress.updates, progress.pace = processes.from_lead((progress.updates, progress.pace))


def _finish(run, state, progress):
    """Score the best raw weights and the last averages on the whole validation part, and draw."""
    checkpoints.wait(run.checkpoints)
    best = processes.from_lead(run.checkpoints.resolve("best") if processes.leads() else None)
    best_state, _ = restore_state(run, best)
    weights = {"raw": (best, best_state.variables)}
    for name, average in state.averages.items():
        if name != "swa" or progress.averaged:
            weights[name] = int(state.step), average
    scores = _score(run, weights) if processes.leads() else None
    return processes.from_lead(scores)


def _score(run, weights):
    """The scores of the raw weights among {name: (step, variables)}, which are all written."""
    from jax_seg.report import plots  # Matplotlib takes half a second to start

    here = run.settings.devices.here
    weights = {name: (step, here(variables)) for name, (step, variables) in weights.items()}
    scores = run.data.evaluate(
        weights,
        lambda variables: run.data.segment(run.programs.network, variables),
        workdir=run.workdir,
        report=run.journal.say,
        judged_on=run.judged_on.choosing(CHECKPOINT),
        pictures=plots,
    )
    written, folder = read_events(run.workdir), run.workdir / "plots"
    plots.learning_curve(written, folder / "learning_curve.png")
    if any("gate_entropy_0" in event for event in written):
        plots.gates(written, run.settings.programs["model"]["experts"], folder / "gates.png")
    run.journal.say(f"Pictures: {folder}")
    return scores["raw"]
