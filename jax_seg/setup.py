"""From a configuration to data and a place to start from; what a run refuses before it starts."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg import checkpoint, members
from jax_seg import config as configuration
from jax_seg.data import dataset
from jax_seg.data.preprocess import Preprocessing
from jax_seg.data.sampling import PatchSampler

# A resumed run may differ in these: they change how long or where it runs, not what it computes.
MAY_DIFFER = (
    "train.epochs",
    "train.minutes",
    "data.root",
    "data.threads",
    "data.cache",
    "data.cache_gb",
    "checkpoint",
)


def stored_run(checkpoints, config, workdir):
    """What the last checkpoint keeps beside the state; None for a new run.

    Raises:
      ValueError: the run there has another configuration.
    """
    if checkpoints.latest_step() is None:
        return None
    stored = checkpoint.read_loop(checkpoints, checkpoints.latest_step())
    if changed := configuration.differences(config, stored["config"], ignore=MAY_DIFFER):
        raise ValueError(
            f"{workdir} holds a run of another configuration ({'; '.join(changed)}); choose "
            "another --workdir, or undo the change to go on with that run."
        )
    return stored


def prepare_data(read, workdir, preprocessing=None):
    """The `Dataset` of a configuration.

    Args:
      read: its `config.Reader`.
      workdir: folder of the run, where the cache and generated volumes lie by default.
      preprocessing: dict of the stored `Preprocessing`; None fits it to the training volumes.

    Raises:
      ValueError, FileNotFoundError: bad input, naming the file or the field.
    """
    root, synthetic = read.data.root, read.section("synthetic")
    if read.data.name == "synthetic":
        root = dataset.write_synthetic(workdir / "data", **synthetic)
    elif read.data.name != "folder":
        raise ValueError(f"data.name is {read.data.name!r}; choose 'folder' or 'synthetic'.")
    elif not root:
        raise ValueError(
            "data.root names no folder; pass --config.data.root=FOLDER, or --config.data.name="
            "synthetic for generated volumes."
        )
    fold = read.data.fold
    return dataset.prepare(
        root,
        images=read.data.images,
        labels_folder=read.data.labels,
        background=read.data.background,
        foreground=read.data.foreground,
        ignore=read.data.ignore,
        fold=int(fold) if fold.isdigit() else fold,
        fold_count=read.data.folds,
        group=read.data.group,
        seed=read.data.split_seed,
        cache_directory=read.data.cache or workdir / "cache",
        cache_gb=read.data.cache_gb,
        threads=max(read.data.threads, 1),
        preprocess=read.section("preprocess"),
        preprocessing=preprocessing and Preprocessing(**preprocessing),
    )


def sampler(read, data, part, patches_per_volume, seed):
    """The `PatchSampler` of the 'train' or 'validation' part of a `Dataset`."""
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


def check_plan(plan, train, average, metric):
    """Refuse averages and a choice of the best that the run's stages do not allow.

    Args:
      plan: of `stages.plan`.
      train, average: sections of the configuration.
      metric: validate.metric.

    Raises:
      ValueError: naming the field.
    """
    if average["swa_every"] and not 0 <= average["swa_start"] < train["epochs"]:
        raise ValueError(
            f"average.swa_start is {average['swa_start']}, but the run ends after train.epochs = "
            f"{train['epochs']}; start earlier, or set average.swa_every to 0."
        )
    if not 0 <= average["ema_decay"] < 1:
        raise ValueError(f"average.ema_decay is {average['ema_decay']}; set it in [0, 1).")
    if metric == "loss" and any(s.loss_weights != plan[0].loss_weights for s in plan):
        raise ValueError(
            "validate.metric is 'loss', but the stages change the loss, so that no two of its "
            "values compare; choose the best by 'dice' or 'iou'."
        )
    if train["start_stage"] and not train["start_from"]:
        raise ValueError(
            f"train.start_stage is '{train['start_stage']}', but no weights are given for the "
            "stages that it skips; set train.start_from to the workdir that trained them."
        )


def first_epoch(plan, start_stage):
    """The epoch that a fresh run begins with; `start_stage` is a stage's name, or ''.

    Raises:
      ValueError: there is no such stage.
    """
    for stage in plan:
        if start_stage in ("", stage.name):
            return stage.first
    raise ValueError(
        f"train.start_stage is '{start_stage}'; choose one of {', '.join(s.name for s in plan)}."
    )


def start_from(state, source):
    """`state` with the parameters of another run.

    Args:
      state: fresh `TrainState`.
      source: WORKDIR, WORKDIR@STEP, WORKDIR@swa, …: see `members.parse`.

    Raises:
      FileNotFoundError, ValueError: no such run or average, or another network's.
    """
    member = members.parse(source)
    params, _, step = members.read(member)
    ours, theirs = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (state.params, params)
    )
    if differing := sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)):
        name = differing[0]
        there, here = theirs.get(name, "none"), ours.get(name, "none")
        raise ValueError(
            f"train.start_from: step {step} of {member.workdir} is another network: {name} has "
            f"shape {there} there and {here} here; give it the same model section."
        )
    params = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), params, state.params)
    averages = {name: jax.tree.map(jnp.copy, params) for name in state.averages}
    return state._replace(params=params, averages=averages)
