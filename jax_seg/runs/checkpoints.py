"""Checkpoints of a run: write one, restore one, read a network's weights.

Which there are and which stay is in `checkpoint_folder`; what one file holds in `checkpoint_file`.
"""

import copy
import importlib.metadata
import math
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp

from jax_seg.runs import checkpoint_file
from jax_seg.runs.checkpoint_folder import Checkpoints, resolve
from jax_seg.system.files import read_json, writing

HIGHER_IS_BETTER = {"loss": False, "dice": True, "iou": True}
AVERAGES = {"swa": "--config.average.swa_every=5", "ema": "--config.average.ema_decay=0.999"}
"""What switches each average of the weights on."""


def open_checkpoints(workdir, *, metric, keep=1, pinned=lambda: None, read_only=False):
    """The `Checkpoints` of a run: it keeps the latest, the best and the pinned.

    A checkpoint within an epoch replaces none of a whole epoch, but the one at the epoch's end
    takes the place of one within it that has the same step.

    Args:
      workdir: folder of the run.
      metric: by which the best is chosen, a key of HIGHER_IS_BETTER.
      keep: latest checkpoints of whole epochs that stay; a later one within an epoch does, too.
      pinned: () -> step of one more checkpoint that stays, or None.
      read_only: for prediction and listing.

    Raises:
      ValueError: a metric that is not known, nothing to keep, or checkpoints of an older version.
      OSError: the folder cannot be made.
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

    folder = Path(workdir).absolute() / "checkpoints"
    if not read_only:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    if old := sorted(path for path in folder.iterdir() if path.name.isdecimal()):
        raise ValueError(
            f"{old[0]} was written by an older version, whose checkpoints this one cannot read: "
            "train again in another --workdir, or use that version."
        )
    return Checkpoints(folder, goodness=goodness, keep=keep, pinned=pinned)


def open_for_reading(workdir):
    """The `Checkpoints` of a run, whose best is the run's own.

    Raises:
      FileNotFoundError: the folder is not that of a run.
      ValueError: its config.json is damaged, or as of `open_checkpoints`.
    """
    path = Path(workdir) / "config.json"
    if not path.exists() or not (Path(workdir) / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{workdir} is not the folder of a run: it lacks config.json or checkpoints; pass the "
            "workdir of a training run or of jax_seg.convert."
        )
    try:
        metric = read_json(path)["validate"]["metric"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} has no validate.metric: restore it from a copy, or run the command that "
            "trained it again."
        ) from error
    return open_checkpoints(workdir, metric=metric, read_only=True)


def save(manager, state, loop, metrics=None):
    """Write the state and the loop's position under the number of the state's step.

    Returns as soon as the arrays are copied; the file is written in the background.

    Args:
      manager: of `open_checkpoints`.
      state: `TrainState`.
      loop: dict of JSON types.
      metrics: validation metrics by name; without them the checkpoint is never the best. One that
        is not finite counts as the worst, since a NaN would sort anywhere.

    Raises:
      OSError: the checkpoint before this one could not be written.
    """
    wait(manager)
    if metrics is not None:
        metrics = {name: _sortable(name, value) for name, value in metrics.items()}
    # A copy: the step donates the state's buffers, and on a CPU the host's arrays are the same.
    tree = jax.device_get(jax.tree.map(jnp.copy, state))._asdict()
    manager.start_writing(int(state.step), tree, copy.deepcopy(loop), metrics)


def save_params(manager, params, beside):
    """Write bare parameters as checkpoint 0, for prediction. Other arguments as in `save`."""
    manager.start_writing(0, {"params": jax.device_get(params)}, beside, None)
    wait(manager)


def wait(manager):
    """Wait until the last checkpoint lies on the disk; OSError when it could not be written."""
    manager.wait()


def restore(manager, abstract_state, step):
    """Read a checkpoint.

    Args:
      manager: of `open_checkpoints`.
      abstract_state: `TrainState` of `jax.ShapeDtypeStruct`.
      step: number of the checkpoint.

    Returns:
      (state, loop dict).

    Raises:
      ValueError: the file is damaged, or of another network, optimizer or version.
    """
    tree, header = checkpoint_file.read_state(manager.path(step), abstract_state._asdict())
    return type(abstract_state)(**tree), header.loop


def read_loop(manager, step):
    """The dict that was saved beside the state."""
    return checkpoint_file.read_header(manager.path(step)).loop


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
      ValueError: the run keeps no such average, or a damaged file.
    """
    manager = open_for_reading(workdir)
    prefixes = ("params/", "batch_stats/") if weights == "raw" else (f"averages/{weights}/",)
    while True:
        step = resolve(manager, name)
        try:
            tree, header = checkpoint_file.read_part(manager.path(step), *prefixes)
            break
        except FileNotFoundError:  # the run is training, and has replaced it since
            continue
    if not tree:
        raise ValueError(
            f"{workdir} keeps no average {weights!r}; choose --weights raw, or train with "
            f"{AVERAGES[weights]}."
        )
    found = tree if weights == "raw" else tree["averages"][weights]
    return {"params": {}, "batch_stats": {}} | found, header.loop, step


def code_version():
    """Version of the package, with the commit when it runs from a checkout."""
    version = importlib.metadata.version("jax-seg")
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
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
