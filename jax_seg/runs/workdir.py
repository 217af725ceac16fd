"""Which folder may be the workdir of a run: one outside the data, without files of others.

A run replaces files without asking, so that it can be resumed. The files of a run carry no mark:
a folder is known as a workdir by its checkpoints or its configuration.
"""

import re

from jax_seg.runs.data_folders import data_folders
from jax_seg.system import configuration, outputs
from jax_seg.system.files import read_json, refuse_address

REPLACED = (
    *("config.json", "scores.json", "events.jsonl", "log.txt"),
    *("validation", "plots", "checkpoints"),
)
"""What a run writes into its workdir, and an older one of the same name is lost."""
SECTIONS = {"model", "data", "validate"}  # of every run's configuration, converted weights included
_SAVED = re.compile(r"(save|damaged|removed|\d).*")  # in the folder of checkpoints


def require_workdir(workdir, config):
    """Refuse a workdir among the data, or one with files of others that a run would replace.

    Nothing is created. A folder that is absent or empty, that holds a run, or only what the start
    of one left behind, is allowed; so are files that a run does not write.

    Args:
      workdir: of `training.run`.
      config: its ConfigDict.

    Raises:
      ValueError: the workdir or data.cache lies in a folder of images or labels, or is an address.
      FileExistsError: naming a file that no run has written.
    """
    fields, workdir = configuration.flat(config), refuse_address(workdir)
    inside = data_folders(fields)
    outputs.require_apart(workdir, inside=inside, flag="--workdir")
    if cache := fields.get("data.cache"):
        outputs.require_apart(refuse_address(cache), inside=inside, flag="data.cache")
    outputs.require_own([workdir / "doctor.json"], "doctor", "--workdir")
    if foreign := _foreign(workdir):
        raise FileExistsError(
            f"{foreign} was not written by a run, and training would replace it: move it away, or "
            "choose another --workdir."
        )


def require_summary(path):
    """Refuse to replace a file that is not the summary of a cross-validation; errors as above."""
    if path.exists() and not {"summary", "folds"} <= _content(path).keys():
        raise FileExistsError(
            f"{path} is not the summary of a cross-validation, which would replace it: move it "
            "away, or choose another --workdir."
        )


def _foreign(workdir):
    """The first path of a folder that a run would replace and has not written, or None."""
    config = _content(workdir / "config.json")
    if config and not config.keys() >= SECTIONS:
        return workdir / "config.json"
    scores = _content(workdir / "scores.json")
    if not all(isinstance(one, dict) and "step" in one for one in scores.values()):
        return workdir / "scores.json"
    # A damaged config.json is written anew beside checkpoints.
    if config or any(_SAVED.fullmatch(name) for name in _names(workdir / "checkpoints")):
        return None
    return next((path for path in map(workdir.joinpath, REPLACED) if _holds_something(path)), None)


def _content(path):
    """The dict in a JSON file; empty where it is absent or damaged."""
    try:
        return read_json(path)
    except (ValueError, OSError):
        return {}


def _names(folder):
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _holds_something(path):
    return any(path.iterdir()) if path.is_dir() else path.exists()
