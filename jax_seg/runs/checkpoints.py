"""Checkpoints: Orbax writes the arrays; whatever else resuming needs lies beside them as JSON."""

import copy
import importlib.metadata
import math
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jax_seg.runs.checkpoint_folder import (
    HIGHER_IS_BETTER,
    PREFIX,
    REMOVED,
    Checkpoints,
    clean,
    goodness_by,
    seal,
)
from jax_seg.system import processes
from jax_seg.system.files import read_json, refuse_address

AVERAGES = {"swa": "--config.average.swa_every=5", "ema": "--config.average.ema_decay=0.999"}
"""The flag that turns on each average of the weights."""


def open_checkpoints(workdir, *, metric, keep=1, pinned=lambda: None, read_only=False):
    """The `Checkpoints` of a run; writing keeps the latest, the best and the pinned one.

    A checkpoint within an epoch never replaces one of a whole epoch. Opening for writing removes
    what an interrupted save or removal left, and renames damaged checkpoints with a warning.

    Args:
      workdir: folder of the run.
      metric: chooses the best, a key of HIGHER_IS_BETTER.
      keep: latest checkpoints of whole epochs to keep, besides a later one within an epoch.
      pinned: () -> step of one more checkpoint to keep, or None.
      read_only: for prediction and listing.

    Raises:
      ValueError: an unknown metric, `keep` below 1, or checkpoints of an older version.
      FileNotFoundError: there are checkpoints, and all are damaged.
    """
    if metric not in HIGHER_IS_BETTER:
        raise ValueError(
            f"validate.metric is {metric!r}; choose one of {', '.join(HIGHER_IS_BETTER)}."
        )
    if keep < 1:
        raise ValueError(f"checkpoint.keep is {keep}; keep 1 or more.")
    folder = Path(workdir).absolute() / "checkpoints"
    if old := sorted(path for path in folder.glob("*") if path.name.isdecimal()):
        raise ValueError(
            f"{old[0]} was written by an older version, whose checkpoints this one cannot read: "
            "train again in another --workdir, or use that version."
        )
    if read_only:
        return Checkpoints(folder, metric)
    with processes.lead_first("checkpoints"):
        if processes.leads():
            clean(folder)
            Checkpoints(folder, metric).set_damaged_aside()
    return Checkpoints(folder, metric, _manager(folder, metric, keep, pinned))


def open_for_reading(workdir):
    """The `Checkpoints` of a run, read-only, with the best chosen by the run's own metric.

    Raises:
      FileNotFoundError: the folder is not that of a run.
      ValueError: it is an address, its config.json is damaged, or as of `open_checkpoints`.
    """
    path = refuse_address(workdir) / "config.json"
    if not path.exists() or not (Path(workdir) / "checkpoints").is_dir():
        if folds := sorted(file.parent for file in Path(workdir).glob("fold_*/config.json")):
            raise FileNotFoundError(
                f"{workdir} holds {len(folds)} networks, one for each fold: name one of them, such "
                f"as {folds[0]}."
            )
        raise FileNotFoundError(
            f"{workdir} is not the folder of a run: it lacks config.json or checkpoints; pass the "
            "workdir of a training run or of jax_seg.convert."
        )
    validate = read_json(path).get("validate")
    metric = validate.get("metric") if isinstance(validate, dict) else None
    if metric not in HIGHER_IS_BETTER:
        raise ValueError(
            f"{path} is damaged: its validate.metric is {metric!r}, not one of "
            f"{', '.join(HIGHER_IS_BETTER)}; restore it from a copy."
        )
    return open_checkpoints(workdir, metric=metric, read_only=True)


def save(checkpoints, state, loop, metrics=None):
    """Write the state and the loop's position as the checkpoint of the state's step.

    Returns as soon as the arrays are copied; Orbax writes them beside and renames the folder when
    it is complete.

    Args:
      checkpoints: of `open_checkpoints`.
      state: `TrainState`.
      loop: dict of JSON types.
      metrics: validation metrics by name; without them the checkpoint is never the best. A
        non-finite one counts as the worst, since NaN has no order.

    Raises:
      OSError: nothing could be written, for example because the disk is full.
    """
    wait(checkpoints)
    if metrics is not None:
        metrics = {name: _sortable(name, value) for name, value in metrics.items()}
    # A copy, because the step donates the state's buffers while Orbax is still writing.
    tree = jax.tree.map(jnp.copy, state)._asdict()
    number = 2 * int(state.step) + (metrics is not None)
    # So does the position, which Orbax turns into JSON in the background.
    _write(checkpoints, number, tree, copy.deepcopy(loop), metrics)


def save_params(checkpoints, params, beside):
    """Write bare parameters as checkpoint 0, for prediction. Other arguments as in `save`."""
    tree = {"params": params, "batch_stats": {}, "averages": {}}
    _write(checkpoints, 0, tree, beside, None)
    wait(checkpoints)


def _write(checkpoints, number, tree, loop, metrics):
    if number in checkpoints.manager.all_steps():  # a resumed run that stops where it began
        return
    with checkpoints.writing():
        checkpoints.manager.save(
            number,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(tree), loop=ocp.args.JsonSave(loop)
            ),
            metrics=metrics,
        )


def wait(checkpoints):
    """Wait until the last checkpoint lies on the disk; OSError when it could not be written."""
    with checkpoints.writing():
        checkpoints.manager.wait_until_finished()
        checkpoints.manager.check_for_errors()
    if processes.leads():
        seal(checkpoints.directory)
    processes.wait_for_all("sealed")


def restore(checkpoints, abstract_state, step):
    """Read a checkpoint.

    Args:
      checkpoints: `Checkpoints`.
      abstract_state: `TrainState` of `jax.ShapeDtypeStruct`.
      step: of the checkpoint.

    Returns:
      (state, loop dict).
    """
    one = checkpoints.found()[step]
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(one.path / "state", abstract_state._asdict())
    return type(abstract_state)(**tree), one.loop


def read_variables(workdir, name="best", weights="raw"):
    """The weights of a network and what is stored beside them, for prediction.

    A damaged checkpoint is skipped with a warning, and the next one is used.

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
    saved = open_for_reading(workdir)
    while True:
        one = saved.whole(name)
        try:
            return _read_weights(one.path / "state", workdir, weights), one.loop, one.step
        except OSError:
            if one.path.exists():
                raise
            # The run that is training has removed it meanwhile.


def _read_weights(path, workdir, weights):
    with ocp.PyTreeCheckpointer() as reader:
        described = reader.metadata(path).item_metadata
        if described is None:
            raise FileNotFoundError(f"{path} cannot be read: restore the checkpoint from a copy.")
        kept = described.tree
        if weights == "raw":
            wanted = {"params": kept["params"], "batch_stats": kept["batch_stats"]}
        elif weights in kept["averages"]:
            wanted = {"averages": {weights: kept["averages"][weights]}}
        else:
            raise ValueError(
                f"{workdir} keeps no average {weights!r}; choose --weights raw, or train with "
                f"{AVERAGES[weights]}."
            )
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), wanted)
        restored = reader.restore(
            path,
            args=ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True),
        )
    return restored if weights == "raw" else restored["averages"][weights]


def code_version():
    """Version of the package, with the commit when it runs from a checkout."""
    version = importlib.metadata.version("jax-seg")
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside another project's checkout
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


def _manager(folder, metric, keep, pinned):
    """Orbax's manager, with asynchronous saves and the rules of what to keep."""
    goodness = goodness_by(metric)

    stay = [
        checkpoint_managers.LatestN(1),
        _LatestJudged(keep),
        checkpoint_managers.BestN(
            get_metric_fn=goodness, n=1, keep_checkpoints_without_metrics=False
        ),
    ]
    stay.append(_Pinned(pinned, checkpoint_managers.AnyPreservationPolicy(stay[:])))
    options = ocp.CheckpointManagerOptions(
        best_fn=goodness,
        best_mode="max",
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(stay),
        create=True,
        step_name_format=ocp.path.step.standard_name_format(step_prefix=PREFIX),
        todelete_subdir=REMOVED,
    )
    return ocp.CheckpointManager(folder, options=options)


class _LatestJudged(checkpoint_managers.PreservationPolicy):
    """Keeps the latest `count` checkpoints with metrics, saved at the end of an epoch."""

    def __init__(self, count):
        self._count = count

    def should_preserve(self, checkpoints, *, context):
        judged = [info.step for info in checkpoints if info.metrics is not None]
        latest = sorted(judged)[-self._count :]
        return [info.step in latest for info in checkpoints]


class _Pinned(checkpoint_managers.PreservationPolicy):
    """Keeps the checkpoints of the steps that `pinned()` was at the saves of those that stay.

    Any of them may be the one that is resumed, where the later ones turn out to be damaged.
    """

    def __init__(self, pinned, stay):
        self._pinned, self._stay, self._pins = pinned, stay, {}

    def should_preserve(self, checkpoints, *, context):
        self._pins[max(info.step for info in checkpoints)] = self._pinned()
        stay = self._stay.should_preserve(checkpoints, context=context)
        steps = {
            self._pins.get(one.step) for one, stays in zip(checkpoints, stay, strict=True) if stays
        }
        return [info.step % 2 == 1 and info.step // 2 in steps for info in checkpoints]


def _sortable(name, value):
    if math.isfinite(value):
        return float(value)
    return -math.inf if HIGHER_IS_BETTER.get(name, True) else math.inf
