"""Where a run starts from, and what it refuses before it starts."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg.models import camouflage
from jax_seg.runs import checkpoints, members
from jax_seg.runs import config as configuration
from jax_seg.weights.timm import from_timm

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


def stored_run(manager, config, workdir):
    """What the last checkpoint keeps beside the state; None for a new run.

    Raises:
      ValueError: the run there has another configuration.
    """
    if manager.latest_step() is None:
        return None
    stored = checkpoints.read_loop(manager, manager.latest_step())
    changed = configuration.differences(
        config, stored["config"], ignore=MAY_DIFFER, defaults=_defaults(config)
    )
    if changed:
        raise ValueError(
            f"{workdir} holds a run of another configuration ({'; '.join(changed)}); choose "
            "another --workdir, or undo the change to go on with that run."
        )
    return stored


def _defaults(config):
    """What every field of such a configuration is unless it is set."""
    name = "images" if config.data.name == "images" else "base"
    return importlib.import_module(f"configs.{name}").get_config()


def prolonged(stored, config):
    """What another train.epochs does to a run that goes on, a sentence; '' where it does nothing.

    Args:
      stored: what the last checkpoint keeps beside the state.
      config: ConfigDict of now.
    """
    before, now = stored["config"]["train"]["epochs"], config.train.epochs
    if before == now or config.schedule.name not in ("cosine", "polynomial"):
        return ""
    return (
        f"train.epochs was {before} and is {now}: from here on the learning rate is that of a "
        f"{config.schedule.name} schedule over {now} epochs, which is another one in every epoch."
    )


def check_split(stored, split, root, workdir):
    """Refuse to go on where the data are divided otherwise than when the run began.

    A volume more or less can move others between the parts, and then the run would be judged by
    what it was trained on.

    Args:
      stored: what the last checkpoint keeps beside the state.
      split: {'training': ids, 'validation': ids} of now.
      root: data.root.
      workdir: folder of the run.

    Raises:
      ValueError: naming a volume or image that came, went or changed sides.
    """
    for part, names in stored.get("split", {}).items():
        if moved := sorted(set(names) ^ set(split[part])):
            raise ValueError(
                f"{workdir} holds a run on other data: {moved[0]} "
                f"{'was' if moved[0] in names else 'was not'} in its {part} part, but in "
                f"data.root={root} it {'is not' if moved[0] in names else 'is'}; put the data back "
                "as they were, or choose another --workdir."
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
    if train["start_from"] and train.get("start_encoder"):
        raise ValueError(
            "train.start_from and train.start_encoder both give the encoder's weights; leave one "
            "of them empty."
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
    """`state` with the weights of another run.

    Args:
      state: fresh `TrainState`.
      source: WORKDIR, WORKDIR@STEP, WORKDIR@swa, …: see `members.parse`.

    Raises:
      FileNotFoundError, ValueError: no such run or average, or another network's.
    """
    try:
        member = members.parse(source)
        variables, _, step = members.read(member)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"train.start_from: {error}") from error
    ours, theirs = (
        {
            jax.tree_util.keystr(path[1:], simple=True, separator="/"): np.shape(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (state.variables, variables)
    )
    if differing := sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)):
        name = differing[0]
        there, here = theirs.get(name, "none"), ours.get(name, "none")
        raise ValueError(
            f"train.start_from: step {step} of {member.workdir} is another network: {name} has "
            f"shape {there} there and {here} here; give it the same model section."
        )
    return _with_variables(
        state,
        jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), variables, state.variables),
    )


def start_encoder(state, path):
    """`state` with the published encoder of a file, see `weights.timm.from_timm`.

    Raises:
      ValueError: no such file, or another network's than the run's encoder.
    """
    if "encoder" not in state.params:
        raise ValueError(
            f"train.start_encoder is {path}, but this network has no encoder to be started from a "
            "file: leave it empty, or set model.name to 'camouflage'."
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
