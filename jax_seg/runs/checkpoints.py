"""Checkpoints: Orbax writes the arrays; beside them lies all that is needed to go on, as JSON."""

import importlib.metadata
import json
import math
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

HIGHER_IS_BETTER = {"loss": False, "dice": True, "iou": True}
AVERAGES = {"swa": "--config.average.swa_every=5", "ema": "--config.average.ema_decay=0.999"}
"""What switches each average of the weights on."""


def open_checkpoints(workdir, *, metric, keep=1, pinned=lambda: None, read_only=False):
    """Orbax's manager of `workdir/checkpoints`: it keeps the latest, the best and the pinned.

    A checkpoint within an epoch replaces none of a whole epoch: at the epoch's end it may be
    deleted to be written again with its figures, and then the one before is all there is.

    Args:
      workdir: folder of the run.
      metric: by which the best is chosen, a key of HIGHER_IS_BETTER.
      keep: latest checkpoints of whole epochs that stay; a later one within an epoch does, too.
      pinned: () -> step of one more checkpoint that stays, or None.
      read_only: for prediction and listing.

    Raises:
      ValueError: a metric that is not known, or nothing to keep.
    """
    if metric not in HIGHER_IS_BETTER:
        raise ValueError(
            f"validate.metric is {metric!r}; choose one of {', '.join(HIGHER_IS_BETTER)}."
        )

    if keep < 1:
        raise ValueError(f"checkpoint.keep is {keep}; keep 1 or more.")

    def goodness(metrics):
        value = metrics.get(metric)  # whole volumes are not evaluated every epoch
        if value is None:
            return -math.inf
        return value if HIGHER_IS_BETTER[metric] else -value

    policy = checkpoint_managers.AnyPreservationPolicy(
        [
            checkpoint_managers.LatestN(1),
            _LatestJudged(keep),
            _Pinned(pinned),
            checkpoint_managers.BestN(
                get_metric_fn=goodness, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
    )
    folder = Path(workdir).absolute() / "checkpoints"
    if not read_only:  # what a killed run was writing; Orbax would remove it while others write
        for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished)
    options = ocp.CheckpointManagerOptions(
        best_fn=goodness,
        best_mode="max",
        preservation_policy=policy,
        create=not read_only,
        read_only=read_only,
    )
    return ocp.CheckpointManager(folder, options=options)


def open_for_reading(workdir):
    """Orbax's manager of a run's checkpoints, whose best is the run's own.

    Raises:
      FileNotFoundError: the folder is not that of a run.
    """
    path = Path(workdir) / "config.json"
    if not path.exists() or not (Path(workdir) / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{workdir} is not the folder of a run: it lacks config.json or checkpoints; pass the "
            "workdir of a training run or of jax_seg.convert."
        )
    metric = json.loads(path.read_text())["validate"]["metric"]
    return open_checkpoints(workdir, metric=metric, read_only=True)


class _LatestJudged(checkpoint_managers.PreservationPolicy):
    """Keeps the latest `count` of those that were saved with figures, at the end of an epoch."""

    def __init__(self, count):
        self._count = count

    def should_preserve(self, checkpoints, *, context):
        judged = [info.step for info in checkpoints if info.metrics is not None]
        latest = sorted(judged)[-self._count :]
        return [info.step in latest for info in checkpoints]


class _Pinned(checkpoint_managers.PreservationPolicy):
    """Keeps the checkpoint whose step `pinned()` is."""

    def __init__(self, pinned):
        self._pinned = pinned

    def should_preserve(self, checkpoints, *, context):
        step = self._pinned()
        return [info.step == step for info in checkpoints]


def save(manager, state, loop, metrics=None):
    """Write the state and the loop's position under the number of the state's step.

    Returns as soon as the arrays are copied; Orbax writes them beside and renames the folder when
    it is whole.

    Args:
      manager: of `open_checkpoints`.
      state: `TrainState`.
      loop: dict of JSON types.
      metrics: validation figures by name; without them the checkpoint is never the best. One that
        is not finite counts as the worst, since a NaN would sort anywhere.

    Raises:
      OSError: nothing could be written, for example because the disk is full.
    """
    wait(manager)
    step = int(state.step)
    if step in manager.all_steps():  # saved before the epoch's validation, now with its figures
        manager.delete(step)
    if metrics is not None:
        metrics = {name: _sortable(name, value) for name, value in metrics.items()}
    try:
        manager.save(
            step,
            args=ocp.args.Composite(
                # A copy: the step donates the state's buffers while Orbax still writes.
                state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)._asdict()),
                loop=ocp.args.JsonSave(loop),
            ),
            metrics=metrics,
        )
    except (OSError, ValueError) as error:
        raise _unwritable(manager.directory, error) from error


def save_params(manager, params, beside):
    """Write bare parameters as checkpoint 0, for prediction. Other arguments as in `save`."""
    manager.save(
        0,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave({"params": params, "batch_stats": {}, "averages": {}}),
            loop=ocp.args.JsonSave(beside),
        ),
    )
    wait(manager)


def wait(manager):
    """Wait until the last checkpoint lies on the disk; OSError when it could not be written."""
    try:
        manager.wait_until_finished()
        manager.check_for_errors()
    except (OSError, ValueError) as error:
        raise _unwritable(manager.directory, error) from error


def restore(manager, abstract_state, step):
    """Read a checkpoint.

    Args:
      manager: of `open_checkpoints`.
      abstract_state: `TrainState` of `jax.ShapeDtypeStruct`.
      step: number of the checkpoint.

    Returns:
      (state, loop dict).
    """
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state._asdict()), loop=ocp.args.JsonRestore()
        ),
    )
    return type(abstract_state)(**restored.state), restored.loop


def read_loop(manager, step):
    """The dict that was saved beside the state."""
    return manager.restore(step, args=ocp.args.Composite(loop=ocp.args.JsonRestore())).loop


def resolve(manager, name):
    """The step that 'best', 'latest' or a number names.

    Raises:
      FileNotFoundError: there is no such checkpoint.
    """
    steps = sorted(manager.all_steps())
    folder = manager.directory
    if not steps:
        raise FileNotFoundError(f"{folder} holds no checkpoint; train or convert a model first.")
    if name == "latest":
        return steps[-1]
    if name == "best":
        # Before the first evaluation nothing has been judged: the latest stands in.
        best = manager.best_step()
        return steps[-1] if best is None else best
    if not str(name).isdigit() or int(name) not in steps:
        raise FileNotFoundError(
            f"{folder} holds no checkpoint {name!r}; choose best, latest or one of "
            f"{', '.join(map(str, steps))}."
        )
    return int(name)


def read_variables(workdir, name="best", weights="raw"):
    """The weights of a network and everything around them, for prediction.

    Args:
      workdir: folder of a run.
      name: 'best', 'latest' or a step.
      weights: 'raw', or the average 'swa' or 'ema'.

    Returns:
      ({'params', 'batch_stats'} as trees of numpy arrays, loop dict, step).

    Raises:
      FileNotFoundError: no such folder or checkpoint.
      ValueError: the run keeps no such average.
    """
    manager = open_for_reading(workdir)
    step = resolve(manager, name)
    loop = read_loop(manager, step)
    folder = manager.directory / str(step) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        kept = reader.metadata(folder).item_metadata.tree
        if "batch_stats" not in kept:
            raise ValueError(
                f"{workdir} was written by an older version, which kept its weights otherwise: "
                "train it again."
            )
        if weights != "raw" and weights not in kept["averages"]:
            raise ValueError(
                f"{workdir} keeps no average {weights!r}; choose --weights raw, or train with "
                f"{AVERAGES[weights]}."
            )
        if weights == "raw":
            wanted = {"params": kept["params"], "batch_stats": kept["batch_stats"]}
        else:
            wanted = {"averages": {weights: kept["averages"][weights]}}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), wanted)
        restored = reader.restore(
            folder,
            args=ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True),
        )
    return restored if weights == "raw" else restored["averages"][weights], loop, step


def code_version():
    """Version of the package, with the commit when it runs from a checkout."""
    version = importlib.metadata.version("jax-seg")
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside of another project's checkout
        return version
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # a machine without git
        return version
    return f"{version}+{described.stdout.strip()}" if described.returncode == 0 else version


def _sortable(name, value):
    if math.isfinite(value):
        return float(value)
    return -math.inf if HIGHER_IS_BETTER.get(name, True) else math.inf


def _unwritable(folder, error):
    return OSError(
        f"The checkpoint could not be written to {folder} ({error}); free some disk space or "
        "choose another --workdir, then start again: the checkpoint before is untouched."
    )
