"""A training run, told in order: data, model, state, the loop, the last evaluation."""

import contextlib
import dataclasses
import math
import time
from pathlib import Path

import jax
import numpy as np

from jax_seg import checkpoint, optim, plateau, programs, schedule
from jax_seg import config as configuration
from jax_seg.averaging import swa_update
from jax_seg.data import dataset, pipeline
from jax_seg.data.fingerprint import read_pair
from jax_seg.data.preprocess import Preprocessing
from jax_seg.data.sampling import PatchSampler
from jax_seg.files import write_json
from jax_seg.metrics import segmentation
from jax_seg.report import console, plots
from jax_seg.report.events import Events, read_events
from jax_seg.stop import stop_signal
from jax_seg.validate import validate_patches, validate_volumes

# A resumed run may differ in these: they change how long or where it runs, not what it computes.
MAY_DIFFER = (
    "train.epochs",
    "data.root",
    "data.threads",
    "data.cache",
    "data.cache_gb",
    "checkpoint",
)


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""


class Diverged(Exception):
    """A loss or a gradient was not finite; it did not touch the weights."""


@dataclasses.dataclass
class Loop:
    """Where a run stands, as JSON types: saved with every checkpoint.

    Attributes:
      epoch: the running epoch, from 0.
      batches: batches of it that are done.
      sums: their training metrics, added up.
      plateau: fields of `plateau.State`.
      reduction: fields of `schedule.ReduceOnPlateau`.
      best_step: the checkpoint with the lowest validation loss.
      return_to: set when the next epoch starts from that checkpoint.
      averaged: parameter trees in the SWA average.
      finished: early stopping has ended the run.
    """

    epoch: int = 0
    batches: int = 0
    sums: dict = dataclasses.field(default_factory=dict)
    plateau: dict = dataclasses.field(default_factory=dict)
    reduction: dict = dataclasses.field(default_factory=dict)
    best_step: int | None = None
    return_to: int | None = None
    averaged: int = 0
    finished: bool = False


def run(config, workdir):
    """Train a configuration in `workdir`, or go on with the run that is there.

    Args:
      config: ConfigDict, as `configs/base.py` makes it.
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
        return _run(config, Path(workdir), cleanup)


def _run(config, workdir, cleanup):
    read = configuration.Reader(config)
    seed, epochs, validation = read.seed, read.train.epochs, read.section("validate")
    loop = Loop()
    checkpoints = checkpoint.open_checkpoints(
        workdir,
        metric=validation["metric"],
        keep=read.checkpoint.keep,
        pinned=lambda: loop.best_step,
    )
    cleanup.callback(checkpoints.close)  # waits for a save under way, whatever ends the run
    stored = _stored(checkpoints, config, workdir)

    # Data.
    data = _prepare_data(read, workdir, stored)
    train_sampler = _sampler(read, data, "train", read.data.patches_per_volume, seed)
    fixed_sampler = _sampler(read, data, "validation", validation["patches_per_volume"], seed + 1)
    batch, threads, patch = read.data.batch, read.data.threads, tuple(read.data.patch)
    batches_per_epoch = -(-len(train_sampler) // batch)  # a last short batch draws ahead

    # Model, loss and optimizer are closed over: the state is arrays only.
    compiled = programs.build(read, data.preprocessing)
    weights, parts = compiled.loss_weights, read.section("parts")
    rate = schedule.make_schedule(epochs=epochs, **read.section("schedule"))
    reducing, warmup_epochs = read.schedule.name == "plateau", read.schedule.warmup_epochs
    reduce_rate = schedule.make_reduce_on_plateau(mode="min", **read.section("reduction"))
    control = plateau.Options(**read.section("plateau"))
    average, noise = read.section("average"), read.section("noise")
    _check_average(average, epochs)
    minutes_between_saves = read.checkpoint.minutes
    read.refuse_unread()

    # State: fresh, or as the last checkpoint left it.
    abstract_state = jax.eval_shape(compiled.fresh_state)
    if stored is None:
        state = compiled.fresh_state()
    else:
        state, _ = checkpoint.restore(checkpoints, abstract_state, checkpoints.latest_step())
        loop = Loop(**stored["loop"])
    to_store = {
        "config": configuration.as_dict(config),
        "preprocessing": data.preprocessing._asdict(),
        "code_version": checkpoint.code_version(),
    }
    write_json(workdir / "config.json", to_store["config"])
    log = console.open_log(workdir)
    cleanup.callback(console.close_log, log)
    events = Events(workdir, loop.epoch, int(state.step))
    cleanup.callback(events.close)
    log.info(console.opening(workdir, state, loop.epoch, data, batches_per_epoch))

    def segment(params):
        return validate_volumes(
            compiled.network,
            params,
            data,
            patch=patch,
            **{name: validation[name] for name in ("overlap", "windows", "threshold")},
        )

    def save(metrics=None):
        position = {"epoch": loop.epoch, "loop": dataclasses.asdict(loop)}
        checkpoint.save(checkpoints, state, to_store | position, metrics)

    def stop_if_asked():
        if stop_asked():
            save()
            checkpoint.wait(checkpoints)
            raise Stopped(
                f"Stopped by {stop_asked()} in epoch {loop.epoch} at step {int(state.step)}; the "
                "state is saved, and the same command goes on from there."
            )

    # The loop.
    with stop_signal() as stop_asked:
        last_save = time.monotonic()
        while loop.epoch < epochs and not loop.finished:
            if loop.return_to is not None:
                checkpoint.wait(checkpoints)
                best, _ = checkpoint.restore(checkpoints, abstract_state, loop.return_to)
                state, loop.return_to = best._replace(step=state.step), None
            std = schedule.weight_noise(
                loop.epoch, **{k: noise[k] for k in ("start_epoch", "every", "std", "decay")}
            )
            if std and not loop.batches:
                noise_key = jax.random.fold_in(programs.random_key(seed + 1), loop.epoch)
                noisy = optim.add_noise(noise_key, state.params, std, noise["patterns"])
                state = state._replace(params=noisy)

            # Train: the figures of a step are fetched when the next one is under way.
            controller = plateau.State(**loop.plateau)
            reduction = schedule.ReduceOnPlateau(**loop.reduction)
            since_swa = loop.epoch - average["swa_start"] if average["swa_every"] else -1
            if since_swa >= 0:
                learning_rate = average["swa_learning_rate"]
            else:
                learning_rate = rate(loop.epoch) * reduction.scale * controller.scale
            knobs = {
                "learning_rates": {
                    name: np.float32(learning_rate * part["rate"]) for name, part in parts.items()
                },
                "loss_weights": weights,
            }
            patches = pipeline.batches(
                train_sampler,
                batch=batch,
                start=(loop.epoch * batches_per_epoch + loop.batches) * batch,
                count=batches_per_epoch - loop.batches,
                threads=threads,
            )
            started, done_before, under_way = time.monotonic(), loop.batches, None
            for arrays, volumes in console.progress(
                pipeline.on_device(patches), f"Epoch {loop.epoch}", batches_per_epoch, loop.batches
            ):
                state, figures = compiled.train_step(state, arrays, knobs)
                _add_figures(loop, under_way, data)
                under_way = figures, volumes
                loop.batches += 1
                save_is_due = 0 < 60 * minutes_between_saves < time.monotonic() - last_save
                if stop_asked() or save_is_due:
                    _add_figures(loop, under_way, data)
                    under_way = None
                    stop_if_asked()
                    save()
                    last_save = time.monotonic()
            _add_figures(loop, under_way, data)
            seconds = time.monotonic() - started
            trained = {name: total / loop.batches for name, total in loop.sums.items()}
            step = int(state.step)
            patches_per_second = (loop.batches - done_before) * batch / max(seconds, 1e-9)
            memory, memory_name = console.memory()
            events.write(
                "train",
                step=step,
                epoch=loop.epoch,
                **trained,
                learning_rate=learning_rate,
                weight_noise=std,
                patches_per_second=patches_per_second,
                memory_gib=memory,
            )
            terms = {name: trained[name] for name in weights}
            log.info(
                f"Epoch {loop.epoch} Train - Loss: {trained['loss']:.4f} "
                f"({console.figures(terms)}) | learning rate {learning_rate:.3g} | gradient norm "
                f"{trained['gradient_norm']:.3g} | {patches_per_second:.2f} patches/s | "
                f"{memory_name} {memory:.1f} GiB"
            )

            # Judge: the raw weights decide, the averages are reported beside them.
            stop_if_asked()
            # They enter the state only when judged: a stop in between comes through here again.
            averages, averaged = dict(state.averages), loop.averaged
            if since_swa >= 0 and since_swa % average["swa_every"] == 0:
                averages["swa"] = swa_update(averages["swa"], state.params, averaged)
                averaged += 1
            judged = {}
            for name, params in (("raw", state.params), *averages.items()):
                if name == "swa" and not averaged:
                    continue
                which = "" if name == "raw" else f" {name}"
                metrics, per_volume = validate_patches(
                    compiled.evaluate,
                    params,
                    fixed_sampler,
                    weights=weights,
                    batch=batch,
                    threads=threads,
                )
                error = plateau.bootstrap_noise(per_volume, seed, 1000) if per_volume[1:] else 0.0
                figures = {**metrics, "standard_error": error}
                events.write("validation" + which, step=step, epoch=loop.epoch, **figures)
                terms = console.figures({term: metrics[term] for term in weights})
                log.info(f"Epoch {loop.epoch} Val{which} - Loss: {metrics['loss']:.4f} ({terms})")
                judged[name] = {"loss": metrics["loss"], "standard_error": error}
                every = validation["volumes_every"]
                if every and ((loop.epoch + 1) % every == 0 or loop.epoch == epochs - 1):
                    counts = segmentation.Confusion()
                    for _, confusion, _ in segment(params):
                        counts += confusion
                        stop_if_asked()
                    scores = segmentation.scores(counts)
                    events.write("volumes" + which, step=step, epoch=loop.epoch, **scores)
                    log.info(f"Epoch {loop.epoch} Volumes{which} - {console.figures(scores)}")
                    judged[name] |= scores

            state, loop.averaged = state._replace(averages=averages), averaged

            # Decide, then save: what is decided here happens as the next epoch starts.
            controller, decisions = plateau.step(
                controller,
                judged["raw"]["loss"],
                judged["raw"]["standard_error"],
                trained["gradient_norm"],
                loop.epoch,
                options=control,
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
            loop.plateau = controller._asdict()
            if reducing and loop.epoch >= warmup_epochs:
                loop.reduction = reduce_rate(reduction, judged["raw"]["loss"])._asdict()
            loop.epoch, loop.batches, loop.sums = loop.epoch + 1, 0, {}
            save(judged["raw"])
            last_save = time.monotonic()

    # The last evaluation, on whole volumes: the best raw weights, and the last averages.
    checkpoint.wait(checkpoints)
    best = checkpoint.resolve(checkpoints, "best")
    best_state, _ = checkpoint.restore(checkpoints, abstract_state, best)
    scores = {}
    for name, params in (("raw", best_state.params), *state.averages.items()):
        if name == "swa" and not loop.averaged:
            continue
        step = best if name == "raw" else int(state.step)
        counts = segmentation.Confusion()
        for volume, confusion, prediction in segment(params):
            if name == "raw" and not counts.labelled:
                image, label = read_pair(volume, data.cache, data.table)
                path = workdir / "plots" / f"{volume.id}.png"
                plots.slices(image, label, prediction, path, title=volume.id)
            log.info(f"{volume.id} {name}: {console.figures(segmentation.scores(confusion))}")
            counts += confusion
        pooled = segmentation.scores(counts)
        scores[name] = {"step": step, **pooled}
        log.info(f"All volumes, {name} weights of step {step}: {console.figures(pooled)}")
    write_json(workdir / "scores.json", scores)
    plots.learning_curve(read_events(workdir), workdir / "plots" / "learning_curve.png")
    log.info(f"Pictures: {workdir / 'plots'}")
    return scores["raw"]


def _stored(checkpoints, config, workdir):
    """What the last checkpoint keeps beside the state; None for a new run."""
    if checkpoints.latest_step() is None:
        return None
    stored = checkpoint.read_loop(checkpoints, checkpoints.latest_step())
    if changed := configuration.differences(config, stored["config"], ignore=MAY_DIFFER):
        raise ValueError(
            f"{workdir} holds a run of another configuration ({'; '.join(changed)}); choose "
            "another --workdir, or undo the change to go on with that run."
        )
    return stored


def _prepare_data(read, workdir, stored):
    root = read.data.root
    synthetic = read.section("synthetic")
    if read.data.name == "synthetic":
        root = dataset.write_synthetic(workdir / "data", **synthetic)
    elif read.data.name != "folder":
        raise ValueError(f"data.name is {read.data.name!r}; choose 'folder' or 'synthetic'.")
    elif not root:
        raise ValueError(
            "data.root names no folder; pass --config.data.root=FOLDER, or --config.data.name="
            "synthetic for generated volumes."
        )
    return dataset.prepare(
        root,
        images=read.data.images,
        labels_folder=read.data.labels,
        background=read.data.background,
        foreground=read.data.foreground,
        ignore=read.data.ignore,
        fold=read.data.fold,
        fold_count=read.data.folds,
        group=read.data.group,
        seed=read.data.split_seed,
        cache_directory=read.data.cache or workdir / "cache",
        cache_gb=read.data.cache_gb,
        threads=max(read.data.threads, 1),
        preprocess=read.section("preprocess"),
        preprocessing=stored and Preprocessing(**stored["preprocessing"]),
    )


def _sampler(read, data, part, patches_per_volume, seed):
    return PatchSampler(
        volumes=getattr(data, part),
        fingerprints=getattr(data, f"{part}_facts"),
        cache=data.cache,
        table=data.table,
        patch=tuple(read.data.patch),
        patches_per_volume=patches_per_volume,
        foreground_share=read.data.foreground_share,
        balance_target=read.data.balance_target,
        dtype=data.dtype,
        seed=seed,
    )


def _add_figures(loop, under_way, data):
    """Add a step's figures to the epoch's sums, or refuse to go on when they are not finite."""
    if under_way is None:
        return
    figures, volumes = jax.device_get(under_way)
    if not figures.pop("finite"):
        broken = [name for name, value in figures.items() if not math.isfinite(value)]
        raise Diverged(
            f"Not finite: {', '.join(broken) or 'the gradient'} in epoch {loop.epoch}, batch "
            f"{loop.batches - 1}, volumes {', '.join(data.train[v].id for v in volumes)}; the "
            "weights were not touched and the checkpoint before stays: lower "
            "schedule.learning_rate, or look at these volumes."
        )
    for name, value in figures.items():
        loop.sums[name] = loop.sums.get(name, 0.0) + float(value)


def _check_average(average, epochs):
    if average["swa_every"] and not 0 <= average["swa_start"] < epochs:
        raise ValueError(
            f"average.swa_start is {average['swa_start']}, but the run ends after train.epochs = "
            f"{epochs}; start earlier, or set average.swa_every to 0."
        )
    if not 0 <= average["ema_decay"] < 1:
        raise ValueError(f"average.ema_decay is {average['ema_decay']}; set it in [0, 1).")
