"""Read the folder of a run once, without computing anything; every file is optional.

A run that has not finished, or whose volumes lie on another machine, is read as far as possible;
a sentence names whatever is missing.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_seg.data import folder, images, labels
from jax_seg.data.names import plain
from jax_seg.data.readers import open_volume, pictures
from jax_seg.metrics.segmentation import Confusion
from jax_seg.runs.events import read_events
from jax_seg.system import configuration
from jax_seg.system.files import read_json
from jax_seg.tasks import judged

NOMINAL_VOXELS = 10**6  # of a volume whose number of labelled voxels is not stored


class Run(NamedTuple):
    """One run.

    Attributes:
      name: the end of its path that distinguishes it from the other runs.
      workdir: Path.
      config: dict of its configuration; empty when there is none.
      events: of `events.read_events`.
      scores: {'raw', 'swa', 'ema' or 'postprocessed': pooled scores with their 'step' and what they
        were judged on}; empty before the end.
      volumes: {id: scores} of the validation volumes by the best checkpoint.
      probabilities: {id: Path} of their predicted probabilities.
      labelled: {id: `folder.Volume`, or of images `images.Example`} of the data set; empty if it
        is not found.
      tuned: what `jax_seg.tune` reports, or None.
      chosen: the post-processing that `jax_seg.predict` uses by default, or None.
      missing: sentences on what a finished run would have but this one lacks.
    """

    name: str
    workdir: Path
    config: dict
    events: list
    scores: dict
    volumes: dict
    probabilities: dict
    labelled: dict
    tuned: dict | None
    chosen: dict | None
    missing: list

    def setting(self, path, default=None):
        """A field of the configuration by its dotted path."""
        value = self.config
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    @property
    def of_images(self):
        """Whether it was trained on images instead of volumes."""
        return self.setting("data.name") == "images"

    @property
    def noun(self):
        """What it is scored on: 'image' or 'volume'."""
        return "image" if self.of_images else "volume"

    @property
    def judged_on(self):
        """`JudgedOn` of its validation part and its raw weights."""
        stored = [self.scores.get("raw", {}), *self.of_kind("validation")[-1:]]
        return judged.of_run(configuration.flat(self.config), stored)

    def of_kind(self, kind):
        """The events of a kind, in order."""
        return [event for event in self.events if event["kind"] == kind]


def read_runs(workdirs):
    """The runs of several folders, each with a distinct name.

    Args:
      workdirs: paths.

    Returns:
      List of Run.

    Raises:
      FileNotFoundError, ValueError: a path is not a run, is given twice, or holds a damaged file.
    """
    paths = [Path(workdir).resolve() for workdir in workdirs]
    if repeated := [path for path in paths if paths.count(path) > 1]:
        raise ValueError(f"{repeated[0]} is named twice; name each run once.")
    return [
        _read_run(given, name)
        for given, name in zip(map(Path, workdirs), _names(paths), strict=True)
    ]


def confusions(run):
    """{id: Confusion} of a run's validation volumes, from its stored scores.

    The counts follow from precision, recall and the share of foreground. Where a volume's number
    of 'labelled' voxels is not among its scores, all volumes count equally.
    """
    found = {}
    for name, scores in run.volumes.items():
        voxels = scores.get("labelled", NOMINAL_VOXELS)
        foreground = round(scores["foreground_label"] * voxels)
        predicted = round(scores["foreground_predicted"] * voxels)
        both = round(scores["recall"] * foreground)
        found[name] = Confusion(
            both, predicted - both, foreground - both, voxels - predicted - foreground + both
        )
    return found


def read_volume(run, name):
    """One validation volume; an image counts as one slice.

    Args:
      run: Run.
      name: id of one of its probabilities.

    Returns:
      (image or None, label or None, probability): [D, H, W] each; the label uint8, encoded as in
      `ops.classes`, the probability floating point.

    Raises:
      ValueError, OSError: a file is damaged, or they do not fit together.
    """
    if run.of_images:
        probability = pictures.read_map(run.probabilities[name])[None] / np.float32(255)
    else:
        probability = _read(run.probabilities[name])
    if name not in run.labelled:
        return None, None, probability
    volume = run.labelled[name]
    if run.of_images:
        image, label = (array[None] for array in images.read_example(volume))
        return image.mean(-1), label.astype(np.uint8), probability
    image, label = _read(volume.image), _read(volume.label)
    for path, array in ((volume.image, image), (volume.label, label)):
        if array.shape != probability.shape:
            raise ValueError(
                f"{run.probabilities[name]} has shape {probability.shape} but {path} has "
                f"{array.shape}: predict the whole volume again."
            )
    return image, labels.encode(label, _table(run), volume.label), probability


def _read_run(workdir, name):
    config = _json(workdir / "config.json")
    if not workdir.is_dir() or (config is None and not (workdir / "events.jsonl").exists()):
        raise FileNotFoundError(
            f"{workdir} is not the folder of a run: it has neither config.json nor events.jsonl; "
            "pass the workdir of a training run."
        )
    judged = _json(workdir / "validation" / "scores.json") or {}
    folder_of = workdir / "validation" / "probabilities"
    run = Run(
        name=name,
        workdir=workdir,
        config=config or {},
        events=read_events(workdir),
        scores=_json(workdir / "scores.json") or {},
        volumes=judged.get("volumes", {}),
        probabilities={
            plain(path.stem): path
            for path in sorted(folder_of.glob("[!.]*"))
            if path.suffix in (".tif", ".png")
        },
        labelled={},
        tuned=_json(workdir / "tune" / "report.json"),
        chosen=_json(workdir / "postprocess.json"),
        missing=[],
    )
    missing = _missing(run)
    try:
        run = run._replace(labelled=_labelled(run))
    except (ValueError, OSError) as error:
        missing.append(f"The images and labels cannot be shown: {error}")
    return run._replace(missing=missing)


def noun(runs):
    """What runs are scored on: 'image', or 'volume' if any of them is on volumes."""
    return "image" if all(run.of_images for run in runs) else "volume"


def _missing(run):
    missing = []
    if not run.events:
        missing.append("There are no learning curves, since events.jsonl is absent or empty.")
    if not run.scores:
        missing.append(
            f"There are no scores of whole {run.noun}s, since scores.json is absent: it is written "
            "when the run ends."
        )
    if run.scores and not run.volumes:
        missing.append(
            f"There are no scores of single {run.noun}s, since validation/scores.json is absent."
        )
    if not run.probabilities:
        missing.append(
            f"No {run.noun} can be shown, since validation/probabilities is empty: it is written "
            "when the run ends."
        )
    return missing


def _labelled(run):
    root = run.setting("data.root") or ""
    if run.setting("data.name") == "synthetic":
        generated = sorted((run.workdir / "data").glob("synthetic-*"))
        root = generated[0] if generated else run.workdir / "data"
    elif not root:
        raise ValueError("the configuration names no data.root.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run has reported what it does not read
        if run.of_images:
            return {example.id: example for example in images.find_examples(root, kind="all")}
        found = folder.find_volumes(
            root, images=run.setting("data.images", ""), labels=run.setting("data.labels", "")
        )
    return {volume.id: volume for volume in found}


def _table(run):
    kinds = ("foreground", "ignore", "background")
    given = {kind: run.setting(f"data.{kind}") for kind in kinds}
    return labels.label_table(**{k: v for k, v in given.items() if v is not None})


def _read(path):
    reader = open_volume(path)
    return np.asarray(reader.read((0, 0, 0), reader.shape))


def _json(path):
    return read_json(path) if path.exists() else None


def _names(paths):
    """The shortest ends of resolved paths that differ from each other."""
    for parts in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
