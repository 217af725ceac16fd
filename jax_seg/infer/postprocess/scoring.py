"""Scores of post-processing on labelled volumes, computed once and kept on disk."""

import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_seg.infer import postprocess
from jax_seg.metrics import competition, foreground, segmentation
from jax_seg.ops.classes import FOREGROUND
from jax_seg.system import engine
from jax_seg.system.files import writing

PACKAGE = Path(__file__).resolve().parents[2]
PROGRAMS = ("infer", "metrics", "ops")  # folders of the code that makes and scores masks


def _overlap(name):
    return lambda prediction, label: segmentation.scores(segmentation.confusion(prediction, label))[
        name
    ]


def _thin(name):
    return lambda prediction, label: foreground.foreground_scores(prediction, label)[name]


def _of_competition(name):
    return lambda prediction, label: getattr(competition.competition_score(prediction, label), name)


# name -> f(prediction, label) -> float: all are 1 for a perfect prediction, and higher is better.
METRICS = (
    {"competition": _of_competition("score")}
    | {n: _overlap(n) for n in ("dice", "iou", "precision", "recall", "accuracy")}
    | {n: _thin(n) for n in ("cldice", "skeleton_precision", "skeleton_recall")}
    | {n: _of_competition(n) for n in ("toposcore", "surface_dice", "voi_score")}
)


class Arrays(NamedTuple):
    """One labelled volume.

    Attributes:
      probability: float32 [D, H, W].
      label: uint8 [D, H, W], encoded as in `ops.classes`.
      image: [D, H, W], or None.
    """

    probability: np.ndarray
    label: np.ndarray
    image: np.ndarray | None

    def fingerprint(self):
        """A digest of the voxels."""
        digest = hashlib.sha256()
        for array in self:
            if array is not None:
                digest.update(repr((array.shape, array.dtype)).encode())
                digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()[:16]

    def perfect(self):
        """The volume with its own label as the prediction."""
        return self._replace(probability=(self.label == FOREGROUND).astype(np.float32))


class Results:
    """Scores saved to a file as soon as they are known, one per line.

    A line truncated by a kill is evaluated again.
    """

    def __init__(self, path):
        self._path, self._scores = Path(path), {}
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        text = self._path.read_text(errors="replace") if self._path.exists() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._scores[entry["key"], tuple(entry["steps"])] = entry["score"]
            except (ValueError, KeyError, TypeError):
                continue
        if text and not text.endswith("\n"):
            self._write("\n")

    def get(self, key, steps):
        """The score, or None."""
        return self._scores.get((key, steps))

    def put(self, key, steps, score):
        """Keep a score."""
        self._scores[key, steps] = score
        self._write(json.dumps({"key": key, "steps": steps, "score": score}) + "\n")

    def _write(self, text):
        with writing(self._path), self._path.open("a") as file:
            file.write(text)


class Masks:
    """The masks of settings on one volume; first steps that a setting shares with the one before
    it are not computed again.

    Attributes:
      volume: `Arrays`.
    """

    def __init__(self, volume):
        self.volume, self._path = volume, []

    def of(self, setting):
        """The mask [D, H, W] bool of a tuple of steps."""
        path, parsed = self._path, postprocess.parse_all(setting)
        same = 0
        while same < min(len(path), len(setting)) and path[same][0] == setting[same]:
            same += 1
        del path[same:]
        for text, (name, parameters) in zip(setting[same:], parsed[same:], strict=True):
            before = path[-1][1] if path else self.volume.probability
            mask = postprocess.apply_step(
                before, name, parameters, self.volume.probability, self.volume.image
            )
            path.append((text, mask))
        return path[-1][1]


class Task(NamedTuple):
    """One setting on one volume.

    Attributes:
      name: of the volume.
      perfect: whether its labels replace its prediction.
      fingerprint: of its voxels, of `Arrays`.
      setting: tuple of steps.
    """

    name: str
    perfect: bool
    fingerprint: str
    setting: tuple

    def __str__(self):
        return f"score-{self.name}-{'+'.join(self.setting)}"


class Scores:
    """What scores settings in one process; masks that several of them make are scored once.

    Args:
      read: name of a volume -> `Arrays`.
      metric: key of `METRICS`.
      code: of `code_fingerprint`, that this process must have.

    Raises:
      OSError: this process runs other code.
    """

    def __init__(self, read, metric, code):
        if code_fingerprint(PACKAGE) != code:
            raise OSError(
                f"{PACKAGE} holds another version of this project on a worker than where the "
                "search began: give every worker the same one."
            )
        self._read, self._metric = read, metric
        self._volume = self._masks = None
        self._seen = {}

    def __call__(self, task):
        """The score of a `Task`.

        Raises:
          ValueError, OSError: a step cannot be applied, or the volume cannot be read or has other
            voxels.
        """
        if self._volume != task[:3]:
            self._masks = Masks(self._load(task))
            self._volume = task[:3]
        mask = self._masks.of(task.setting)
        digest = task[:3], hashlib.sha256(np.packbits(mask)).hexdigest()
        if digest not in self._seen:  # many steps change nothing
            label = self._masks.volume.label
            self._seen[digest] = METRICS[self._metric](mask.astype(np.uint8), label)
        return self._seen[digest]

    def _load(self, task):
        volume = load(self._read, task.name, task.perfect)
        if volume.fingerprint() != task.fingerprint:
            raise OSError(
                f"The volume {task.name} holds other voxels here than where the search began: give "
                "every worker the same files, and leave them as they are while it runs."
            )
        return volume


def load(read, name, perfect):
    """The `Arrays` of a volume, or of its label as the prediction."""
    volume = read(name)
    return volume.perfect() if perfect else volume


def work(read, metric):
    """The `engine.Work` of scoring.

    Args:
      read: name of a volume -> `Arrays`; pickles where workers are to score.
      metric: key of `METRICS`.
    """
    start = functools.partial(Scores, read, metric, code_fingerprint(PACKAGE))
    return engine.Work(start, on_device=False)


def make_scorer(read, metric, results, scores, report=lambda line: None):
    """A function that scores settings on volumes and caches the scores.

    Args:
      read: name of a volume -> `Arrays`.
      metric: key of `METRICS`.
      results: `Results`.
      scores: an engine for `work`, as `engine.Here`.
      report: called with a line of text after each evaluation.

    Returns:
      f(names, settings, perfect=False) -> {setting: [score of each volume]}; with `perfect` the
      labels replace the predictions. It raises a ValueError or OSError where a score is missing in
      the end.
    """
    code = code_fingerprint(PACKAGE)
    fingerprints = {}

    def tasks_of(name, settings, perfect):
        """Sorted, so that first steps are shared."""
        if (name, perfect) not in fingerprints:
            fingerprints[name, perfect] = load(read, name, perfect).fingerprint()
        return [Task(name, perfect, fingerprints[name, perfect], one) for one in sorted(settings)]

    def key(task):
        return " ".join([task.name, task.fingerprint, metric, code])

    def score(names, settings, perfect=False):
        settings = list(settings)
        columns = [tasks_of(name, settings, perfect) for name in names]
        missing = [
            task
            for column in columns
            for task in column
            if results.get(key(task), task.setting) is None
        ]
        failures = []
        for done, (task, result) in enumerate(scores.run(missing), 1):
            if isinstance(result, engine.Failure):
                failures.append(_error(task, result))
                if result.fatal:
                    break
                continue
            results.put(key(task), task.setting, result)
            report(f"{task.name}: {done} of {len(missing)}")
        if failures:
            raise failures[-1]
        found = [
            {task.setting: results.get(key(task), task.setting) for task in c} for c in columns
        ]
        return {setting: [column[setting] for column in found] for setting in settings}

    return score


def _error(task, failure):
    if failure.fatal:
        return OSError(failure.sentence)
    return ValueError(
        f"Scoring {' '.join(task.setting)} on the volume {task.name}: {failure.sentence}"
    )


def code_fingerprint(package):
    """A digest of the code that makes and scores masks, so that no stale score is used.

    Args:
      package: folder of jax_seg.
    """
    digest = hashlib.sha256()
    for folder in PROGRAMS:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
