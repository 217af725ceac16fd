"""The edge of a run: its configuration, read once into plain values."""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from jax_seg import tasks
from jax_seg.system.configuration import Reader
from jax_seg.system.devices import Devices, arrange, require_divisible
from jax_seg.training import pace, plateau, schedule, stages

# Fields of data that runs from before there were these lack.
LATER = ("spacing", "target_spacing", "resample", "classes")


class Settings(NamedTuple):
    """Everything that a run reads from its configuration.

    Attributes:
      kind: module of `tasks` for this kind of data.
      task: arguments of its `prepare`.
      plan: list of `stages.Stage`.
      programs: arguments of `programs.build`.
      batch: samples per call of the network in evaluation.
      threads: number of threads that read ahead.
      seed: of the run.
      train, average, noise: sections of the configuration.
      control: `plateau.Options`.
      reduce_rate: of `schedule.make_reduce_on_plateau`.
      metric: metric that chooses the best checkpoint.
      volumes_every: epochs between evaluations of the whole validation part.
      keep: number of latest checkpoints to keep.
      save_seconds: between saves within an epoch; 0 for none.
      devices: `devices.Devices` that share the work.
    """

    kind: ModuleType
    task: dict
    plan: list
    programs: dict
    batch: int
    threads: int
    seed: int
    train: dict
    average: dict
    noise: dict
    control: plateau.Options
    reduce_rate: Callable
    metric: str
    volumes_every: int
    keep: int
    save_seconds: float
    devices: Devices

    def judges_wholes(self, epoch):
        """Whether the whole validation part is judged after an epoch."""
        every, last = self.volumes_every, epoch == self.train["epochs"] - 1
        return bool(every) and ((epoch + 1) % every == 0 or last)


def read_settings(config, devices=None):
    """The `Settings` of a ConfigDict.

    Args:
      config: ConfigDict.
      devices: `Devices` that share the work in place of those that its section names.

    Raises:
      ValueError: a field is missing, has an unsuitable value, or is read by nothing.
    """
    read = Reader(config)
    kind, plan = tasks.kind_of(read.data.name), read_plan(read)
    batches = [size for _, size in read_batches(read)]
    # Runs from before there was the section are examined without it.
    chosen = read.section("devices") if "devices" in config else {}
    devices = devices or arrange(**chosen, batches=batches)
    settings = Settings(
        kind=kind,
        task=_per_call({"seed": read.seed, **read.pick(kind.FIELDS, LATER)}, devices),
        plan=plan,
        programs=read_programs(read, terms=tuple(plan[0].loss_weights)),
        batch=read.data.batch,
        threads=read.data.threads,
        seed=read.seed,
        train=read.section("train"),
        average=read.section("average"),
        noise=read.section("noise"),
        control=plateau.Options(**read.section("plateau")),
        reduce_rate=schedule.make_reduce_on_plateau(mode="min", **read.section("reduction")),
        metric=read.validate.metric,
        volumes_every=read.validate.volumes_every,
        keep=read.checkpoint.keep,
        save_seconds=60 * read.checkpoint.minutes,
        devices=devices,
    )
    if settings.seed < 0:
        raise ValueError(f"seed is {settings.seed}; set it to 0 or more.")
    _check_averages(settings)
    _check_start(settings)
    _check_devices(settings, read)
    read.refuse_unread()
    return settings


def _per_call(task, devices):
    """The arguments of a task, with windows for every device of this process in each call."""
    if "windows" in task["validate"]:
        task["validate"]["windows"] *= devices.local.size
    return task


def read_plan(read):
    """The stages of a configuration, from its `Reader`; see `stages.plan`."""
    batches = tuple(read.data.random_batch) or (read.data.batch,)
    if min(batches) < 1:
        raise ValueError(f"data.batch or data.random_batch is {batches}; set it to 1 or more.")
    return stages.plan(
        read.section("stages"),
        epochs=read.train.epochs,
        loss_weights=read.loss.section("weights"),
        batches=batches,
        accumulate=read.train.accumulate,
        rates={name: part["rate"] for name, part in read.section("parts").items()},
        schedule=read.section("schedule"),
    )


def read_programs(read, terms):
    """The arguments of `programs.build` that a configuration gives, from its `Reader`."""
    loss, average = read.section("loss"), read.section("average")
    del loss["weights"]  # they belong to the stages
    return {
        "model": read.section("model"),
        "loss": loss,
        "terms": terms,
        "patterns": {name: part["pattern"] for name, part in read.section("parts").items()},
        "optimizer": read.section("optimizer"),
        "averages": tuple(
            name
            for name, on in (("swa", average["swa_every"]), ("ema", average["ema_decay"]))
            if on
        ),
        "ema_decay": average["ema_decay"],
        "gradient_noise": read.noise.gradient_eta,
        "seed": read.seed,
    }


def _check_averages(settings):
    average, epochs = settings.average, settings.train["epochs"]
    if average["swa_every"] and not 0 <= average["swa_start"] < epochs:
        raise ValueError(
            f"average.swa_start is {average['swa_start']}, but the run ends after train.epochs = "
            f"{epochs}; start earlier, or set average.swa_every to 0."
        )
    if not 0 <= average["ema_decay"] < 1:
        raise ValueError(f"average.ema_decay is {average['ema_decay']}; set it in [0, 1).")


def read_batches(read):
    """[(field, samples)] of every batch that a configuration takes, from its `Reader`."""
    found = [("data.batch", read.data.batch)]
    found += [("data.random_batch", size) for size in read.data.random_batch]
    found += [
        (f"stages.{name}.batch", stage.get("batch") or read.data.batch)
        for name, stage in read.section("stages").items()
    ]
    return found


def _check_devices(settings, read):
    shape = settings.kind.sample_shape(settings.task["data"])
    depth = shape[0] if len(shape) == 4 else None
    require_divisible(settings.devices, read_batches(read), depth)


def _check_start(settings):
    plan, train = settings.plan, settings.train
    pace.require(train, next((s.first for s in plan if s.name == train["start_stage"]), 0))
    if settings.metric == "loss" and any(s.loss_weights != plan[0].loss_weights for s in plan):
        raise ValueError(
            "validate.metric is 'loss', but the stages change the loss, so its values are not "
            "comparable; choose the best by 'dice' or 'iou'."
        )
    if train["start_from"] and train.get("start_encoder"):
        raise ValueError(
            "train.start_from and train.start_encoder both give the encoder's weights; set only "
            "one of them."
        )
    if train["start_stage"] and not train["start_from"]:
        raise ValueError(
            f"train.start_stage is '{train['start_stage']}', but no weights are given for the "
            "stages that it skips; set train.start_from to the workdir that trained them."
        )
