"""The folder of a run, opened one way: nothing is computed here, and nothing must be there.

A run that has not finished, or whose volumes lie on another machine, is read as far as it goes;
`Run.missing` says in sentences what it lacks.
"""

import dataclasses
import functools
import warnings
from pathlib import Path

import numpy as np

from jax_seg import tasks
from jax_seg.data import readers
from jax_seg.data.labels import encode
from jax_seg.data.names import plain
from jax_seg.metrics.segmentation import Confusion, from_json
from jax_seg.ops.classes import numbered, numbers_of
from jax_seg.runs import checkpoints, held_out
from jax_seg.runs.events import read_events
from jax_seg.system import configuration
from jax_seg.system.files import read_json, refuse_address
from jax_seg.tasks import judged, sources

NOMINAL_VOXELS = 10**6  # of a volume whose number of labelled voxels is not stored

OF_CLASS = "Dice of "  # begins the name of a class's score


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of a run. What it holds is read when it is asked for, once.

    Attributes:
      workdir: Path.
      config: dict of its configuration; empty where there is none.
      name: the end of its path that tells it from other runs.
    """

    workdir: Path
    config: dict
    name: str = ""

    @functools.cached_property
    def fields(self):
        """Every field of the configuration by its dotted path; lists are tuples."""
        return configuration.flat(configuration.from_dict(self.config))

    @functools.cached_property
    def events(self):
        """Its events, of `events.read_events`."""
        return read_events(self.workdir)

    @functools.cached_property
    def scores(self):
        """{'raw', 'swa', 'ema' or 'postprocessed': pooled scores}; empty before the end."""
        return self._read("scores.json") or {}

    @functools.cached_property
    def validation(self):
        """The content of `validation/scores.json`; empty before the end."""
        return self._read("validation/scores.json") or {}

    @functools.cached_property
    def volumes(self):
        """{id: scores} of the validation volumes by the best checkpoint."""
        return {i: with_classes(one) for i, one in self.validation.get("volumes", {}).items()}

    @functools.cached_property
    def probabilities(self):
        """{id: Path} of the validation volumes' predicted probabilities."""
        paths = sorted((self.workdir / "validation" / "probabilities").glob("[!.]*"))
        return {plain(path.stem): path for path in paths if path.suffix in (".tif", ".png")}

    @functools.cached_property
    def masks(self):
        """{id: Path} of the validation volumes' predicted label values; of several classes only."""
        return {plain(path.stem): path for path in self.workdir.glob("validation/masks/[!.]*.tif")}

    @functools.cached_property
    def labelled(self):
        """{id: `folder.Volume` or `images.Example`} of its data; empty where it is not found."""
        try:
            return _labelled(self)
        except (ValueError, OSError):
            return {}

    @functools.cached_property
    def tuned(self):
        """What `jax_seg.tune` reports, or None."""
        return self._read("tune/report.json")

    @functools.cached_property
    def chosen(self):
        """The post-processing that `jax_seg.predict` uses by default, or None."""
        return self._read("postprocess.json")

    @functools.cached_property
    def examined(self):
        """What `jax_seg.doctor` found last, or None."""
        return self._read("doctor.json")

    @property
    def outdated_scores(self):
        """What changed in the validation part since it was scored, see `sources.since`."""
        advice = "run launch.py again, which scores them anew"
        return sources.since(self.validation, f"the {self.noun}s of this run were scored", advice)

    @property
    def outdated_steps(self):
        """What changed in the volumes since its post-processing was tuned on them."""
        tuned = self.tuned or {}
        return sources.since(tuned, "this run was tuned", "run jax_seg.tune again")

    @functools.cached_property
    def missing(self):
        """Sentences on what a finished run would have."""
        return _missing(self)

    @functools.cached_property
    def checkpoints(self):
        """Its `Checkpoints`, to read; errors as of `checkpoints.open_for_reading`."""
        return checkpoints.open_for_reading(self.workdir)

    def setting(self, path, default=None):
        """A field or section of the configuration by its dotted path."""
        value = self.config
        for key in path.split("."):
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    @property
    def kind(self):
        """The module of `tasks` for its kind of data."""
        return tasks.kind_of_run(self.fields)

    @property
    def noun(self):
        """What it is judged on."""
        return self.kind.NOUN

    @property
    def judged_on(self):
        """`JudgedOn` of its validation part and its raw weights."""
        stored = [self.scores.get("raw", {}), self.validation.get("judged_on", {})]
        return judged.of_run(self.fields, [*stored, *self.of_kind("validation")[-1:]])

    def of_kind(self, kind):
        """The events of a kind, in order."""
        return [event for event in self.events if event["kind"] == kind]

    def _read(self, name):
        path = self.workdir / name
        return read_json(path) if path.exists() else None


def open_run(workdir, name="", required=True):
    """The `Run` of a folder, as far as it goes: finished, under way, or without its data.

    Args:
      workdir: its folder.
      name: of `Run`.
      required: refuse a folder that holds no run.

    Raises:
      FileNotFoundError: it is not the folder of a run.
      ValueError: its config.json is damaged, or it is an address.
    """
    run = Run(refuse_address(workdir), {}, name)
    config = run._read("config.json")
    found = config is not None or (run.workdir / "events.jsonl").exists()
    if required and not (run.workdir.is_dir() and found):
        raise FileNotFoundError(
            f"{workdir} is not the folder of a run: it has neither config.json nor events.jsonl; "
            "pass the workdir of a training run."
        )
    return dataclasses.replace(run, config=config or {})


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
        open_run(given, name)
        for given, name in zip(map(Path, workdirs), _names(paths), strict=True)
    ]


def with_classes(scores):
    """Scores with one number for each class instead of all of its scores."""
    of_class = scores.get("classes", {})
    plain = {name: value for name, value in scores.items() if name != "classes"}
    return plain | {f"{OF_CLASS}{name}": one["dice"] for name, one in of_class.items()}


def confusions(run):
    """{id: Confusion} of a run's validation volumes, all classes together, from its stored scores.

    Where they are not stored, as of images and of older runs, the counts follow from precision,
    recall and the share of foreground. Where a volume's number of 'labelled' voxels is not among
    its scores, all volumes count equally.
    """
    stored = run.validation.get("together", {})
    found = {name: from_json(counts) for name, counts in stored.items()}
    for name, scores in run.volumes.items():
        if name in found:
            continue
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
      (image or None, label or None, probability): [D, H, W] each, or an image [D, H, W, C]; the
      label uint8, BACKGROUND, FOREGROUND (of any class) or MASKED, the probability floating point.

    Raises:
      ValueError, OSError: a file is damaged, or they do not fit together.
    """
    kind = run.kind
    probability = kind.read_probability(run.probabilities[name])
    if name not in run.labelled:
        return None, None, probability
    volume = run.labelled[name]
    image, label = kind.read_pair(volume, held_out.table_of(run.fields).together())
    _, image_path, label_path, *_ = volume  # of a volume's label or an image's mask
    for path, array in ((image_path, image), (label_path, label)):
        if array.shape[:3] != probability.shape:
            raise ValueError(
                f"{run.probabilities[name]} has shape {probability.shape} but {path} has "
                f"{array.shape}: predict the whole {run.noun} again."
            )
    return image, label, probability


def read_classes(run, name):
    """One validation volume of a run with several classes, as their numbers from 1.

    Args:
      run: Run.
      name: id of one of its `masks`.

    Returns:
      (label or None, prediction): uint8 [D, H, W], 0 for background, MASKED in the label. Of
      classes that share voxels the last one counts.

    Raises:
      ValueError, OSError: a file is damaged, or they do not fit together.
    """
    table = held_out.table_of(run.fields)
    mask = readers.read_volume(run.masks[name])
    predicted = numbered(mask[..., None] == np.array(table.classes.values))
    if name not in run.labelled:
        return None, predicted
    path = run.labelled[name].label
    label = encode(readers.read_volume(path), table, path)
    if label.shape != mask.shape:
        raise ValueError(
            f"{run.masks[name]} has shape {mask.shape} but {path} has {label.shape}: predict the "
            f"whole {run.noun} again."
        )
    return numbers_of(label, table.classes), predicted


def noun(runs):
    """What runs are scored on: 'image', or 'volume' where they differ."""
    return shared("NOUN", runs, otherwise="volume")


def shared(name, runs, otherwise):
    """A constant of the runs' kind of data, by its name in `tasks`; `otherwise` if they differ."""
    found = {getattr(run.kind, name) for run in runs}
    return found.pop() if len(found) == 1 else otherwise


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
    try:
        _labelled(run)
    except (ValueError, OSError) as error:
        missing.append(f"The images and labels cannot be shown: {error}")
    return missing


def _labelled(run):
    root = run.setting("data.root") or ""
    if run.setting("data.name") == "synthetic":
        generated = sorted((run.workdir / "data").glob("synthetic-*"))
        root = generated[0] if generated else run.workdir / "data"
    elif not root:
        raise ValueError("the configuration names no data.root.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run has said what it does not read
        return run.kind.labelled(
            root, images=run.setting("data.images", ""), labels=run.setting("data.labels", "")
        )


def _names(paths):
    """The shortest ends of resolved paths that differ from each other."""
    for parts in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
