"""Configurations that plan themselves: those with a section `plan`, as `configs/auto.py`."""

import contextlib
import json
import os
from pathlib import Path

from jax_seg.planning import written
from jax_seg.planning.plan import make_plan
from jax_seg.runs.workdir import require_workdir
from jax_seg.system import configuration, processes
from jax_seg.system.files import locked, read_json, write_json
from jax_seg.system.outputs import marked, require_own
from jax_seg.training.resuming import MAY_DIFFER

FILE = "plan.json"  # in the workdir


def fill(config, given, workdir=None, inherited=()):
    """Plan a configuration in place; one without a section `plan` is left as it is.

    A run that is resumed keeps its plan, though the machine may have become faster. Without any
    checkpoint there is nothing to resume, and it is planned anew: data may have been corrected.

    Args:
      config: ConfigDict.
      given: {dotted path: value} that the user has set.
      workdir: folder of the run; None keeps nothing.
      inherited: {dotted path: value} that follow from what the user has set, and are kept too.

    Returns:
      Lines that state the plan, or that it is kept.

    Raises:
      ValueError, FileNotFoundError: bad input, as `plan.make_plan`; or the workdir holds a run that
        was planned with other fields, or another process trains there.
    """
    if "plan" not in config:
        return []
    if workdir:
        require_workdir(workdir, config)
    device, fields, lines = config.plan.device, {}, []
    with config.unlocked():
        del config["plan"]
    kept = given | dict(inherited)
    if processes.leads():
        # A run that has saved nothing yet needs its plan, too.
        with locked(workdir) if workdir else contextlib.nullcontext():
            fields, lines = _fields(config, device, given, kept, workdir)
    values = config.to_dict()
    fields = {
        path: tuple(value) if isinstance(_at(values, path), tuple) else value
        for path, value in processes.from_lead(fields).items()
        if path not in kept  # a resumed run may have more time than was planned
    }
    configuration.override(config, fields)
    return lines


def _fields(config, device, given, kept, workdir):
    """(fields, lines) of the stored plan of a run that has begun, else of a new one."""
    file = Path(workdir) / FILE if workdir else None
    if file and os.path.lexists(file):
        require_own([file], "plan", "--workdir")
        if _has_begun(file.parent):
            return _stored(file, given), [f"Its plan is that of {file}."]
    cache = file.parent / "cache" if file else ""
    plan = make_plan(config, device=device, minutes=config.train.minutes, given=kept, cache=cache)
    if file:
        write_json(file, marked(written.as_json(plan, _comparable(given)), "plan"))
    return plan.fields, written.in_words(plan)


def _has_begun(workdir):
    """Whether a run in a folder, or one of its folds, has saved anything."""
    return any(any(workdir.glob(f"{run}checkpoints/save*")) for run in ("", "fold_*/"))


def _stored(file, given):
    """The fields of the plan in a file; ValueError if it was made for something else."""
    stored = read_json(file)
    before, now = stored["given"], _comparable(given)
    if changed := sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n)):
        raise ValueError(
            f"{file} was made with another {changed[0]} ({before.get(changed[0])}, now "
            f"{now.get(changed[0])}); choose another --workdir, or undo the change."
        )
    return {path: v for one in stored["decisions"] for path, v in one["fields"].items()}


def _at(values, path):
    for name in path.split("."):
        values = values[name]
    return values


def _comparable(given):
    """Fields as JSON stores them, without those that may change when a run is resumed."""
    kept = {
        path: value
        for path, value in given.items()
        if not any(path == one or path.startswith(f"{one}.") for one in MAY_DIFFER)
    }
    return json.loads(json.dumps(kept))
