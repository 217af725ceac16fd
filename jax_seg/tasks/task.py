"""What the training loop needs from a kind of data."""

from collections.abc import Callable
from typing import NamedTuple

from jax_seg.data.preprocess import Preprocessing
from jax_seg.ops.classes import ONE, Classes
from jax_seg.system.files import read_json
from jax_seg.tasks.sources import differing


class Task(NamedTuple):
    """A data set that is ready for training and scoring.

    Attributes:
      train: random-access source of training samples, for `pipeline.batches`.
      validation: the same for validation samples; its first epoch always has the same samples.
      train_ids: ids of the volumes or images that the training samples' 'volume' numbers index.
      validation_ids: ids of what the validation part holds.
      checksums: {id: [of its image, of its label]} of JSON types: others where the content changes.
      shape: of one sample's image, channels last.
      preprocessing: `Preprocessing`.
      augment: (key, batch) -> batch, of normalised images.
      segment: (network, variables, share=slice(None)) -> yields (volume or example, Confusion, its
        result), one by one, over the whole validation part or a slice of its list.
      evaluate: ({name: (step, variables)}, segment: variables -> what `segment` yields, workdir=…,
        report=…, pictures=…, judged_on=…) -> {name: pooled scores with their 'step' and what they
        were judged on}; writes the results.
      samples, wholes: nouns for the log: 'patches' of 'volumes', or 'images'.
      about: a description of the data for the opening line.
      remarks: warnings about unusual data, for the log.
      spacing: (z, y, x) of the voxels on which the network is trained; None where it is not known.
      classes: `Classes` that the network tells apart.
      require_memory: () -> None; raises a ValueError where memory cannot hold what the end of a run
        scores as a whole.
    """

    train: object
    validation: object
    train_ids: list
    validation_ids: list
    checksums: dict
    shape: tuple
    preprocessing: Preprocessing
    augment: Callable
    segment: Callable
    evaluate: Callable
    samples: str
    wholes: str
    about: str
    remarks: list
    spacing: tuple | None = None
    classes: Classes = ONE
    require_memory: Callable = lambda: None


def stored_scores(workdir, steps, checksums, report):
    """The scores in `workdir/scores.json` if they belong to the steps {name: step}, else None.

    None, too, where they or those of the volumes are damaged, or belong to other images or labels:
    the run is scored again.

    Args:
      workdir: folder of the run, a Path.
      steps: {name: step} of the weights.
      checksums: {id: of its image and label} of the validation part.
      report: called with a line of the log.
    """
    path, of_volumes = workdir / "scores.json", workdir / "validation" / "scores.json"
    try:
        scores = read_json(path) if path.exists() else {}
        data = read_json(of_volumes).get("data") if of_volumes.exists() else checksums
    except ValueError as error:
        report(f"Warning: {error} Scoring the run again.")
        return None
    if scores and (not isinstance(data, dict) or _changed(data, checksums)):
        report("The validation data have changed since they were scored; scoring them again.")
        return None
    if {name: scores.get(name, {}).get("step") for name in steps} != steps:
        return None
    report(f"Already scored: {path}")
    return scores


def _changed(before, now):
    return before.keys() != now.keys() or any(differing(before[name], now[name]) for name in now)
