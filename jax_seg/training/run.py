"""A training run, told in order: data, model, state, the loop, the last evaluation."""

import contextlib
import dataclasses
import time
from pathlib import Path

import jax
import numpy as np

from jax_seg import tasks
from jax_seg.data import pipeline
from jax_seg.metrics import segmentation
from jax_seg.runs import checkpoints
from jax_seg.runs import config as configuration
from jax_seg.runs.events import Events, read_events
from jax_seg.system.files import locked, remove_unfinished, write_json
from jax_seg.system.stop import stop_signal
from jax_seg.training import (
    console,
    optimizers,
    plateau,
    programs,
    scaling,
    schedule,
    stages,
    start,
)
from jax_seg.training.averaging import swa_update
from jax_seg.training.validate import measure_statistics, validate_patches


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""


class Diverged(Exception):
    """A loss or a gradient was not finite; it did not touch the weights."""


@dataclasses.dataclass
class Loop:
    """Where a run stands, as JSON types: saved with every checkpoint.

    Attributes:
      epoch: the running epoch, from 0.
      batches: updates of it that are done.
      drawn: patches handed out before this epoch.
      sums: the epoch's training metrics, added up.
      seconds: that the epochs have taken, over all starts of the run.
      plateau: fields of `plateau.State`.
      reduction: fields of `schedule.ReduceOnPlateau`.
      best_step: the checkpoint with the lowest validation loss.
      return_to: set when the next epoch starts from that checkpoint.
      averaged: trees of weights in the SWA average.
      judged: [training loss, IoU] of each evaluation of the whole validation part, the last three.
      finished: early stopping, or the time, has ended the run.
    """

    epoch: int = 0
    batches: int = 0
    drawn: int = 0
    sums: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    plateau: dict = dataclasses.field(default_factory=dict)
    reduction: dict = dataclasses.field(default_factory=dict)
    best_step: int | None = None
    return_to: int | None = None
    averaged: int = 0
    judged: list = dataclasses.field(default_factory=list)
    finished: bool = False


def run(config, workdir):
    """Train a configuration in `workdir`, or go on with the run that is there.

    Args:
      config: ConfigDict, as `configs/base.py` makes it, with one fold.
      workdir: folder of the run; made when absent.

    Returns:
      The scores of the best checkpoint on the whole validation volumes, pooled.

    Raises:
      ValueError, FileNotFoundError: a configuration or data that cannot be trained on.
      OSError: a checkpoint could not be written.
      Diverged: a loss or gradient is not finite.
      Stopped: SIGTERM or SIGINT arrived; the state is saved.
    """
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(locked(workdir))
        remove_unfinished(workdir)
        return _run(config, Path(workdir), cleanup)


def _run(config, workdir, cleanup):
    read = configuration.Reader(config)
    seed, choose_best = read.seed, read.validate.metric
    loop = Loop()
    manager = checkpoints.open_checkpoints(
        workdir,
        metric=choose_best,
        keep=read.checkpoint.keep,
        pinned=lambda: loop.best_step,
    )
    cleanup.callback(manager.close)  # waits for a save under way, whatever ends the run
    stored = start.stored_run(manager, config, workdir)

    # Data.
    data = tasks.prepare(read, workdir, stored and stored["preprocessing"])
    split = {"training": data.names, "validation": data.held_out}
    if stored is not None:
        start.check_split(stored, split, read.data.root, workdir)
    threads, evaluation_batch = read.data.threads, read.data.batch

    # Model, loss and optimizer are closed over: the state is arrays only.
    plan = programs.plan(read)
    compiled = programs.build(
        read, data.shape, data.preprocessing, data.augment, terms=plan[0].loss_weights
    )
    volumes_every = read.validate.volumes_every
    train = read.section("train")
    reduce_rate = schedule.make_reduce_on_plateau(mode="min", **read.section("reduction"))
    control = plateau.Options(**read.section("plateau"))
    average, noise = read.section("average"), read.section("noise")
    start.check_plan(plan, train, average, choose_best)
    minutes_between_saves = read.checkpoint.minutes
    read.refuse_unread()

    # State: fresh, or as the last checkpoint left it.
    device = jax.local_devices()[0]
    abstract_state = jax.tree.map(
        # On this device, whichever the checkpoint was written on.
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(device)
        ),
        jax.eval_shape(compiled.fresh_state),
    )
    if stored is None:
        state = compiled.fresh_state()
        if train["start_from"]:
            state = start.start_from(state, train["start_from"])
        elif train.get("start_encoder"):
            state = start.start_encoder(state, train["start_encoder"])
        loop.epoch = start.first_epoch(plan, train["start_stage"])
        # As restored arrays are: a program is another one for arrays that belong to no device.
        state = jax.device_put(state, device)
    else:
        state, _ = checkpoints.restore(manager, abstract_state, manager.latest_step())
        loop = Loop(**stored["loop"])
    to_store = {
        "config": configuration.as_dict(config),
        "preprocessing": data.preprocessing._asdict(),
        "split": split,
        "code_version": checkpoints.code_version(),
    }
    write_json(workdir / "config.json", to_store["config"])
    log = console.open_log(workdir)
    cleanup.callback(console.close_log, log)
    events = Events(workdir, loop.epoch, int(state.step))
    cleanup.callback(events.close)
    log.info(console.opening(workdir, state, loop.epoch, data.about))
    if stored is not None and (told := start.prolonged(stored, config)):
        log.warning(told)

    def segment(variables):
        return data.segment(compiled.network, variables)

    ticked = time.monotonic()

    def tick():
        nonlocal ticked
        now = time.monotonic()
        loop.seconds, ticked = loop.seconds + now - ticked, now

    def save(metrics=None):
        tick()
        position = {"epoch": loop.epoch, "loop": dataclasses.asdict(loop)}
        checkpoints.save(manager, state, to_store | position, metrics)

    def time_is_up():
        return 0 < 60 * train["minutes"] <= loop.seconds

    def stop_if_asked():
        if stop_asked():
            save()
            checkpoints.wait(manager)
            raise Stopped(
                f"Stopped by {stop_asked()} in epoch {loop.epoch} at step {int(state.step)}; the "
                "state is saved, and the same command goes on from there."
            )

    def add_figures(under_way):
        """Add an update's figures to the epoch's sums, or refuse to go on."""
        if under_way is None:
            return
        figures, batch, volumes, number = under_way
        figures = jax.device_get(figures)
        modules = figures.pop("module_norms")
        if not figures.pop("finite"):
            try:
                layers = compiled.locate(state, batch, stage.accumulate)
            except jax.errors.JaxRuntimeError:  # it keeps every layer's result, and memory may end
                layers = None
            names = [data.names[v] for v in volumes]
            raise Diverged(console.divergence(figures, modules, layers, names, loop, workdir))
        if train["log_every"] and number % train["log_every"] == 0:
            figures = {name: float(value) for name, value in figures.items()}
            events.write("update", step=number, epoch=loop.epoch, **figures)
        for name, value in figures.items():
            loop.sums[name] = loop.sums.get(name, 0.0) + float(value)

    # The loop.
    with stop_signal() as stop_asked:
        last_save = time.monotonic()
        while loop.epoch < train["epochs"] and not (loop.finished or time_is_up()):
            stage = stages.at(plan, loop.epoch)
            if loop.return_to is not None:
                checkpoints.wait(manager)
                whole = checkpoints.resolve(manager, loop.return_to, or_best=True)
                best, beside = checkpoints.restore(manager, abstract_state, whole)
                state, loop.return_to = best._replace(step=state.step), None
                loop.averaged = beside["loop"]["averaged"]  # of the averages that came back
            std = schedule.weight_noise(
                loop.epoch, **{k: noise[k] for k in ("start_epoch", "every", "std", "decay")}
            )
            if std and not loop.batches:
                noise_key = jax.random.fold_in(programs.random_key(seed + 1), loop.epoch)
                noisy = optimizers.add_noise(noise_key, state.params, std, noise["patterns"])
                state = state._replace(params=noisy)

            # Train: the figures of an update are fetched when the next one is under way.
            controller = plateau.State(**loop.plateau)
            reduction = schedule.ReduceOnPlateau(**loop.reduction)
            since_swa = loop.epoch - average["swa_start"] if average["swa_every"] else -1
            if since_swa >= 0:
                learning_rate = average["swa_learning_rate"]
            else:
                learning_rate = stage.learning_rate(loop.epoch) * reduction.scale * controller.scale
            knobs = {
                "learning_rates": {
                    part: np.float32(learning_rate * factor) for part, factor in stage.rates.items()
                },
                "loss_weights": stage.loss_weights,
            }
            batch = stage.batch(seed, loop.epoch)
            patches_per_update = batch * stage.accumulate
            updates = -(-len(data.train) // patches_per_update)  # a last short one draws ahead
            patches = pipeline.batches(
                data.train,
                batch=patches_per_update,
                start=loop.drawn + loop.batches * patches_per_update,
                count=updates - loop.batches,
                threads=threads,
            )
            started, done_before, under_way = time.monotonic(), loop.batches, None
            first_step = int(state.step) - loop.batches
            for arrays, volumes in console.progress(
                pipeline.on_device(patches), f"Epoch {loop.epoch}", updates, loop.batches
            ):
                state, figures = compiled.train_step(state, arrays, knobs, stage.accumulate)
                add_figures(under_way)
                loop.batches += 1
                under_way = figures, arrays, volumes, first_step + loop.batches
                save_is_due = 0 < 60 * minutes_between_saves < time.monotonic() - last_save
                if stop_asked() or save_is_due:
                    add_figures(under_way)
                    under_way = None
                    stop_if_asked()
                    save()
                    last_save = time.monotonic()
            add_figures(under_way)
            seconds = time.monotonic() - started
            trained = {name: total / loop.batches for name, total in loop.sums.items()}
            step = int(state.step)
            memory, memory_name = console.memory()
            speed = (loop.batches - done_before) * patches_per_update / max(seconds, 1e-9)
            events.write(
                "train",
                step=step,
                epoch=loop.epoch,
                **trained,
                stage=stage.name,
                batch=batch,
                learning_rate=learning_rate,
                weight_noise=std,
                memory_gib=memory,
                **({"patches_per_second": speed} if loop.batches > done_before else {}),
            )
            told = console.trained(trained, stage.loss_weights, learning_rate)
            log.info(
                f"Epoch {loop.epoch} Train - {told} | {speed:.2f} {data.samples}/s | "
                f"{memory_name} {memory:.1f} GiB"
            )

            # Judge: the raw weights decide, the averages are reported beside them.
            stop_if_asked()
            # They enter the state only when judged: a stop in between comes through here again.
            averages, averaged = dict(state.averages), loop.averaged
            if since_swa >= 0 and since_swa % average["swa_every"] == 0:
                averages["swa"] = swa_update(averages["swa"], state.variables, averaged)
                averaged += 1
                if state.batch_stats:
                    averages["swa"] = measure_statistics(
                        compiled.see,
                        averages["swa"],
                        data.train,
                        batch=evaluation_batch,
                        threads=threads,
                    )
            last_epoch = loop.epoch == train["epochs"] - 1
            whole = volumes_every and ((loop.epoch + 1) % volumes_every == 0 or last_epoch)
            judged = {}
            for name, variables in (("raw", state.variables), *averages.items()):
                if name == "swa" and not averaged:
                    continue
                which = "" if name == "raw" else f" {name}"
                metrics = validate_patches(
                    compiled.evaluate,
                    variables,
                    data.fixed,
                    weights=stage.loss_weights,
                    batch=evaluation_batch,
                    threads=threads,
                    seed=seed,
                )
                events.write("validation" + which, step=step, epoch=loop.epoch, **metrics)
                terms = console.figures({term: metrics[term] for term in stage.loss_weights})
                log.info(f"Epoch {loop.epoch} Val{which} - Loss: {metrics['loss']:.4f} ({terms})")
                # Not the terms: the loss term 'dice' is no score of volumes.
                judged[name] = {key: metrics[key] for key in ("loss", "standard_error")}
                if whole:
                    total = segmentation.Confusion()
                    for _, counts, _ in segment(variables):
                        total += counts
                        stop_if_asked()
                    scores = segmentation.scores(total)
                    events.write("volumes" + which, step=step, epoch=loop.epoch, **scores)
                    what = data.wholes.capitalize() + which
                    log.info(f"Epoch {loop.epoch} {what} - {console.figures(scores)}")
                    judged[name] |= scores
            state, loop.averaged = state._replace(averages=averages), averaged
            if whole:
                loop.judged = [*loop.judged, [trained["loss"], judged["raw"]["iou"]]][-3:]

            # Decide, then save: what is decided here happens as the next epoch starts.
            controller, decisions = plateau.step(
                controller,
                judged["raw"]["loss"],
                judged["raw"]["standard_error"],
                trained["gradient_norm"],
                loop.epoch,
                options=control,
            )
            if whole and scaling.warning_sign(*zip(*loop.judged, strict=True)):
                decisions.append(
                    {
                        "kind": "warning_sign",
                        "loss": trained["loss"],
                        "iou": judged["raw"]["iou"],
                        "advice": scaling.ADVICE,
                    }
                )
            for decision in decisions:
                events.write("decision", step=step, epoch=loop.epoch, decision=decision)
                if decision["kind"] == "new_best":
                    loop.best_step = step
                else:
                    log.info(f"Epoch {loop.epoch} {console.sentence(decision)}")
                if decision["kind"] == "rollback":
                    loop.return_to = loop.best_step
                loop.finished |= decision["kind"] == "early_stop"
            if stage.reducing and loop.epoch >= stage.warm:
                reduction = reduce_rate(reduction, judged["raw"]["loss"])
            following = stages.at(plan, loop.epoch + 1)
            if following is not stage:
                controller, reduction = stages.cross(stage, following, controller, reduction)
                log.info(f"Epoch {loop.epoch} ends stage '{stage.name}'; '{following.name}' begins")
            loop.plateau, loop.reduction = controller._asdict(), reduction._asdict()
            tick()
            if time_is_up():
                log.info(f"Epoch {loop.epoch} is the last: train.minutes have passed")
            loop.drawn += updates * patches_per_update
            loop.epoch, loop.batches, loop.sums = loop.epoch + 1, 0, {}
            save(judged["raw"])
            last_save = time.monotonic()

    # The last evaluation, on whole volumes: the best raw weights, and the last averages.
    checkpoints.wait(manager)
    best = checkpoints.resolve(manager, "best")
    best_state, _ = checkpoints.restore(manager, abstract_state, best)
    weights = {"raw": (best, best_state.variables)}
    if loop.averaged:
        weights["swa"] = int(state.step), state.averages["swa"]
    if "ema" in state.averages:
        weights["ema"] = int(state.step), state.averages["ema"]
    scores = data.evaluate_last(weights, segment, workdir=workdir, log=log)
    from jax_seg.report import plots  # not before: Matplotlib takes half a second to start

    written = read_events(workdir)
    plots.learning_curve(written, workdir / "plots" / "learning_curve.png")
    if any("gate_entropy_0" in event for event in written):
        plots.gates(written, config.model.experts, workdir / "plots" / "gates.png")
    log.info(f"Pictures: {workdir / 'plots'}")
    return scores["raw"]
