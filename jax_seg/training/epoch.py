"""One epoch of training: its rates, its updates, its metrics."""

import math
import time
from typing import NamedTuple

import jax
import numpy as np

from jax_seg.data import pipeline
from jax_seg.training import console, optimizers, pace, plateau, schedule
from jax_seg.training.programs import random_key
from jax_seg.training.progress import save, stop_if_asked


class Diverged(Exception):
    """A loss or a gradient was not finite; the weights are unchanged."""


class Update(NamedTuple):
    """An update whose metrics are still on the device.

    Attributes:
      step: its number.
      metrics: of `step.make_train_step`.
      batch: its arrays.
      volumes: numbers of the volumes or images in it.
    """

    step: int
    metrics: dict
    batch: dict
    volumes: np.ndarray


def add_weight_noise(run, state, progress):
    """(state, standard deviation of the noise that its weights received before this epoch)."""
    noise = run.settings.noise
    std = schedule.weight_noise(
        progress.epoch, **{k: noise[k] for k in ("start_epoch", "every", "std", "decay")}
    )
    if std and not progress.batches:
        key = jax.random.fold_in(random_key(run.settings.seed + 1), progress.epoch)
        devices = run.settings.devices
        noisy = optimizers.add_noise(key, devices.here(state.params), std, noise["patterns"])
        state = state._replace(params=devices.replicate(noisy))
    return state, std


def learning_rate(run, stage, progress):
    """The rate of this epoch: constant under SWA, else the schedule's, reduced and scaled."""
    if epochs_of_swa(run.settings.average, progress.epoch) is not None:
        return run.settings.average["swa_learning_rate"]
    reduction = schedule.ReduceOnPlateau(**progress.reduction)
    controller = plateau.State(**progress.plateau)
    return stage.learning_rate(progress.epoch) * reduction.scale * controller.scale


def epochs_of_swa(average, epoch):
    """Epochs since SWA began, None before it."""
    if not average["swa_every"] or epoch < average["swa_start"]:
        return None
    return epoch - average["swa_start"]


def size_of(run, stage, progress):
    """(samples per batch, samples per update, updates) of the running epoch."""
    batch = stage.batch(run.settings.seed, progress.epoch)
    samples = batch * stage.accumulate
    updates = progress.updates or pace.updates_given(run.settings)
    # A short last update draws ahead.
    return batch, samples, updates or math.ceil(len(run.data.train) / samples)


def train_epoch(run, stage, state, progress):
    """Run the remaining updates of an epoch.

    Returns:
      (state, mean training metrics of the whole epoch).

    Raises:
      Diverged: a loss or gradient is not finite.
      Stopped: a signal arrived; the state is saved.
    """
    settings = run.settings
    state, std = add_weight_noise(run, state, progress)
    rate = learning_rate(run, stage, progress)
    batch, samples, updates = size_of(run, stage, progress)
    knobs = {
        "learning_rates": {part: np.float32(rate * factor) for part, factor in stage.rates.items()},
        "loss_weights": stage.loss_weights,
    }
    batches = pipeline.batches(
        run.data.train,
        batch=samples,
        start=progress.drawn + progress.batches * samples,
        count=updates - progress.batches,
        threads=settings.threads,
        devices=settings.devices,
    )
    on_devices = pipeline.on_device(batches, settings.devices)
    started, done_before, clock = time.monotonic(), progress.batches, pace.Updates()
    step, waiting = int(state.step), None  # an update's metrics are fetched while the next one runs
    for arrays, volumes in console.progress(
        on_devices, f"Epoch {progress.epoch}", updates, progress.batches
    ):
        state, metrics = run.programs.train_step(state, arrays, knobs, stage.accumulate)
        _record(run, stage, state, progress, waiting)
        if waiting is not None:
            clock.after(progress.batches)
        step += 1
        progress.batches += 1
        waiting = Update(step, metrics, arrays, volumes)
        run.asked.renew()
        if run.asked.stop() or run.asked.save():
            _record(run, stage, state, progress, waiting)
            waiting = None
            stop_if_asked(run, state, progress)
            save(run, state, progress)
    _record(run, stage, state, progress, waiting)
    clock.after(progress.batches)
    if seconds := clock.seconds():
        pace.note(run, progress, sample=seconds / samples)
    seconds, done = time.monotonic() - started, progress.batches - done_before
    trained = {name: total / progress.batches for name, total in progress.sums.items()}
    _report(
        run,
        stage,
        progress.epoch,
        int(state.step),
        trained,
        {"batch": batch, "learning_rate": rate, "weight_noise": std},
        done * samples / max(seconds, 1e-9),
        measured=done > 0,
    )
    return state, trained


def _record(run, stage, state, progress, update):
    """Add an update's metrics to the epoch's sums; raise `Diverged` where they are not finite."""
    if update is None:
        return
    metrics = jax.device_get(update.metrics)
    modules = metrics.pop("module_norms")
    if not metrics.pop("finite"):
        raise Diverged(_explain(run, stage, state, progress, update, metrics, modules))
    every = run.settings.train["log_every"]
    if every and update.step % every == 0:
        numbers = {name: float(value) for name, value in metrics.items()}
        run.journal.event("update", step=update.step, epoch=progress.epoch, **numbers)
    for name, value in metrics.items():
        progress.sums[name] = progress.sums.get(name, 0.0) + float(value)


def _explain(run, stage, state, progress, update, metrics, modules):
    try:
        layers = run.programs.locate(state, update.batch, stage.accumulate)
    except jax.errors.JaxRuntimeError as error:
        layers = error
    return console.divergence(
        metrics,
        modules,
        layers,
        [run.data.train_ids[number] for number in update.volumes],
        epoch=progress.epoch,
        batch=progress.batches - 1,
        workdir=run.workdir,
    )


def _report(run, stage, epoch, step, trained, chosen, speed, measured):
    memory, memory_name = console.memory()
    run.journal.event(
        "train",
        step=step,
        epoch=epoch,
        **trained,
        stage=stage.name,
        **chosen,
        memory_gib=memory,
        **({"patches_per_second": speed} if measured else {}),
    )
    summary = console.trained(trained, stage.loss_weights, chosen["learning_rate"])
    run.journal.say(
        f"Epoch {epoch} Train - {summary} | {speed:.2f} {run.data.samples}/s | "
        f"{memory_name} {memory:.1f} GiB"
    )
