"""How a run starts: fresh, from another network's weights, or from its last checkpoint."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_seg import models
from jax_seg.models import camouflage, trees
from jax_seg.runs import checkpoints, members
from jax_seg.system import configuration, processes
from jax_seg.system.files import write_json
from jax_seg.tasks import judged
from jax_seg.tasks.task import Task
from jax_seg.training import console, pace, programs, resuming
from jax_seg.training.agreement import Agreement
from jax_seg.training.progress import Clock
from jax_seg.training.settings import Settings, read_settings
from jax_seg.weights.timm import from_timm


class Run(NamedTuple):
    """What stays constant while a run trains.

    Attributes:
      workdir: its folder, a Path.
      settings: `Settings`.
      data: `Task`.
      programs: `programs.Programs`.
      checkpoints: of `checkpoints.open_checkpoints`.
      stored: what the last checkpoint stores beside the state; None for a new run.
      to_store: dict that is saved with every checkpoint.
      judged_on: `JudgedOn` of the validation part.
      journal: `console.Journal`, which writes its log and events.
      clock: `Clock`.
      asked: `Agreement` on whether to stop or save; set once signals are handled.
    """

    workdir: Path
    settings: Settings
    data: Task
    programs: programs.Programs
    checkpoints: checkpoints.Checkpoints
    stored: dict | None
    to_store: dict
    judged_on: judged.JudgedOn
    journal: console.Journal
    clock: Clock
    asked: Agreement | None = None


def prepare(config, workdir, progress, *, defaults, cleanup):
    """Read the configuration, open the workdir, prepare data and programs.

    Args:
      config: ConfigDict.
      workdir: folder of the run, a Path, locked by this process.
      progress: fresh `Progress`, whose best checkpoint is kept.
      defaults: ConfigDict of the default of every field, see `resuming.stored_run`.
      cleanup: ExitStack that closes what is opened here.

    Returns:
      Run.

    Raises:
      ValueError, FileNotFoundError: a configuration or data that cannot be trained on.
    """
    settings = read_settings(config)
    saved = checkpoints.open_checkpoints(
        workdir,
        metric=settings.metric,
        keep=settings.keep,
        pinned=lambda: progress.best_step,
    )
    cleanup.callback(saved.close)  # waits for a save under way, however the run ends
    processes.require_shared(workdir, "--workdir")
    seen = {"last checkpoint": saved.latest_step()}
    processes.require_same(seen, f"give all processes one {workdir}, or wait until they see it")
    stored = resuming.stored_run(saved, config, workdir, defaults)
    source = settings.train["start_from"]
    before = stored.get("before", []) if stored else lineage(source)
    with processes.lead_first("data"), console.collected_warnings() as notes:
        task = resuming.at_stored_spacing(settings.task, stored)
        data = settings.kind.prepare(workdir, stored and stored["preprocessing"], **task)
    data.require_memory()
    data = data._replace(remarks=[*notes, *data.remarks])
    split = {"training": data.train_ids, "validation": data.validation_ids}
    facts = {"split of the data": split, "data": data.checksums}
    processes.require_same(facts, "give every process the same data")
    if stored is not None:
        resuming.check_split(stored, split, config.data.root, workdir)
        resuming.check_spacing(stored, data.spacing, workdir)
        resuming.check_channels(stored, data.shape[-1], workdir)
    as_dict = configuration.as_dict(config)
    as_dict["model"] = models.with_channels(as_dict["model"], data.shape)
    if resuming.is_before_target(stored):
        del as_dict["data"]["target_spacing"]
    on = judged.of_split(split, judged.data_of(configuration.flat(as_dict)), before)
    compiled = programs.build(
        **settings.programs,
        shape=data.shape,
        preprocessing=data.preprocessing,
        augment=data.augment,
        classes=data.classes,
        devices=settings.devices,
    )
    to_store = {
        "config": as_dict,
        "preprocessing": data.preprocessing._asdict(),
        "spacing": data.spacing and list(data.spacing),
        "split": split,
        "data": data.checksums,
        "before": before,
        "judged_on": on.as_json(),
        "code_version": checkpoints.code_version(),
    }
    if processes.leads():
        write_json(workdir / "config.json", as_dict)
    journal, clock = console.Journal(workdir, silent=not processes.leads()), Clock()
    cleanup.callback(journal.close)
    return Run(workdir, settings, data, compiled, saved, stored, to_store, on, journal, clock)


def begin(run, progress):
    """The state of a new run; `progress` is set to its first epoch.

    Raises:
      FileNotFoundError, ValueError: weights to start from are missing or do not fit.
    """
    train, state = run.settings.train, run.programs.fresh_state()
    if train["start_from"]:
        state = start_from(state, train["start_from"])
    elif train.get("start_encoder"):
        state = start_encoder(state, train["start_encoder"])
    progress.epoch = _first_epoch(run.settings.plan, train["start_stage"])
    progress.updates = pace.FIRST if pace.by_minutes(run.settings) else 0
    # A restored array is committed to its devices. A fresh one must be too, or a resumed run would
    # compile its programs again.
    state = run.settings.devices.replicate(state)
    _announce(run, state, progress)
    return state


def restore(run, progress):
    """The state of the last checkpoint; `progress` is set to where it was saved."""
    state, _ = restore_state(run, run.checkpoints.latest_step())
    progress.restore(run.stored["loop"])
    _announce(run, state, progress)
    if warning := resuming.prolonged(run.stored["config"], run.to_store["config"]):
        run.journal.warn(warning)
    return state


def restore_state(run, step):
    """(`TrainState`, dict beside it) of a checkpoint, on the devices of the run."""
    sharding = run.settings.devices.replicated
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(run.programs.fresh_state),
    )
    return checkpoints.restore(run.checkpoints, abstract, step)


def _announce(run, state, progress):
    run.journal.open(progress.epoch, int(state.step))
    devices = run.settings.devices
    run.journal.say(console.opening(run.workdir, state, progress.epoch, run.data.about, devices))
    if run.stored and (warning := resuming.changed_data(run.stored, run.data)):
        run.journal.warn(f"Warning: {warning}")
    for remark in run.data.remarks:
        run.journal.warn(f"Warning: {remark}")
    if warning := console.judged_on(run.judged_on, run.data.wholes):
        run.journal.warn(warning)


def lineage(source):
    """The training data of the weights of train.start_from, see `judged.lineage`; [] for ''.

    Raises:
      ValueError: no such run, or its checkpoints are damaged.
    """
    if not source:
        return []
    try:
        saved = checkpoints.open_for_reading(members.parse(source).workdir)
        return judged.lineage(saved.found()[saved.resolve("latest")].loop)
    except (OSError, ValueError) as error:
        raise ValueError(f"train.start_from: {error}") from error


def _first_epoch(plan, start_stage):
    """The epoch that a new run begins with; `start_stage` is a stage's name, or ''."""
    for stage in plan:
        if start_stage in ("", stage.name):
            return stage.first
    raise ValueError(
        f"train.start_stage is '{start_stage}'; choose one of {', '.join(s.name for s in plan)}."
    )


def start_from(state, source):
    """`state` with the weights of another run.

    Args:
      state: fresh `TrainState`.
      source: WORKDIR, WORKDIR@STEP, WORKDIR@swa, …: see `members.parse`.

    Raises:
      FileNotFoundError, ValueError: no such run or average, or its network differs.
    """
    member = members.parse(source)
    variables, _, step = members.read(member)
    if differing := trees.first_difference(state.variables, variables):
        name, here, there = differing
        raise ValueError(
            f"train.start_from: step {step} of {member.workdir} has a different network: {name} "
            f"has shape {there} there and {here} here; use the same model section."
        )
    return _with_variables(
        state,
        jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), variables, state.variables),
    )


def start_encoder(state, path):
    """`state` with the published encoder from a file, see `weights.timm.from_timm`.

    Raises:
      ValueError: no such file, or it does not fit the run's encoder.
    """
    if "encoder" not in state.params:
        raise ValueError(
            f"train.start_encoder is {path}, but this network has no encoder to initialise from a "
            "file: clear it, or set model.name to 'camouflage'."
        )
    try:
        encoder = from_timm(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"train.start_encoder: {error}") from error
    params = camouflage.with_encoder(state.params, encoder)
    return _with_variables(state, state.variables | {"params": params})


def _with_variables(state, variables):
    averages = {name: jax.tree.map(jnp.copy, variables) for name in state.averages}
    return state._replace(**variables, averages=averages)
