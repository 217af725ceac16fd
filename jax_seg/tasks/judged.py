"""Which volumes a number was found on, and what those volumes had chosen before.

One pair for scores, thresholds, steps of post-processing, weights of ensembles and comparisons. It
is stored as two keys, in an entry of `scores.json` beside its scores, elsewhere under "judged_on":

    "volumes"  "training": the weights were trained on some of them, so the number says that they
               fit, and nothing about other volumes;
               "held out": the weights were not trained on them;
               "unknown": nothing says, as of a network that was converted.
    "chose"    what was chosen by its score on these same volumes, as ["checkpoint", "steps"]; the
               number flatters the choice.

Decisions during training (a reduced rate, a rollback, an early stop) are not listed in "chose",
though they look at the validation loss.
"""

from pathlib import Path
from typing import NamedTuple

from jax_seg.data.folds import NONE
from jax_seg.system import configuration
from jax_seg.system.files import read_json

TRAINING, UNKNOWN, HELD_OUT = "training", "unknown", "held out"
_WEAKEST_FIRST = (TRAINING, UNKNOWN, HELD_OUT)
CHECKPOINT = "checkpoint"
DATA = (
    *(f"data.{name}" for name in ("name", "root", "images", "labels")),
    *(f"synthetic.{name}" for name in ("volumes", "size", "seed")),
)


class JudgedOn(NamedTuple):
    """Attributes: volumes, TRAINING, UNKNOWN or HELD_OUT; chose, a tuple of what they chose."""

    volumes: str = UNKNOWN
    chose: tuple = ()

    def as_json(self):
        """{'volumes', 'chose'} of JSON types."""
        return {"volumes": self.volumes, "chose": list(self.chose)}

    def choosing(self, choice):
        """The same of a number whose `choice`, as 'checkpoint', these volumes made, too."""
        return self._replace(chose=(*self.chose, choice))

    def name(self, noun="volume"):
        """'training volume', 'held-out volume', or 'volume' where it is not known."""
        known = {TRAINING: "training ", HELD_OUT: "held-out "}
        return known.get(self.volumes, "") + noun

    def mark(self, noun="volume"):
        """'training volume' where the number says nothing about others, else the plain `noun`."""
        return self.name(noun) if self.volumes == TRAINING else noun

    def suffix(self, noun="volumes"):
        """' | training volumes' for the end of a log line, '' where they were held out."""
        endings = {TRAINING: f" | training {noun}", UNKNOWN: f" | {noun} perhaps trained on"}
        return endings.get(self.volumes, "")

    @property
    def choices(self):
        """', which chose the checkpoint', or '' where they chose nothing."""
        return f", which chose the {' and the '.join(self.chose)}" if self.chose else ""


def read(content):
    """The `JudgedOn` of a dict with its keys; UNKNOWN of one without them, as in older files."""
    volumes = content.get("volumes")
    chose = content.get("chose", ())
    return JudgedOn(volumes if volumes in _WEAKEST_FIRST else UNKNOWN, tuple(chose))


def weakest(several):
    """What holds of a number that several parts make: its weakest part's volumes, all choices."""
    several = list(several)
    found = (one.volumes for one in several)
    return JudgedOn(
        min(found, key=_WEAKEST_FIRST.index, default=UNKNOWN),
        tuple(dict.fromkeys(choice for one in several for choice in one.chose)),
    )


def of_split(split, data=None, before=()):
    """What the validation part of a run is to its weights.

    Args:
      split: {'training': ids, 'validation': ids}; empty where it is not known.
      data: what names its data set, of `data_of`.
      before: of `lineage`, of the run whose weights it started with. Equal ids of two data sets may
        be two volumes, or one that was moved: UNKNOWN.
    """
    if not split:
        return JudgedOn()
    validation, found = set(split["validation"]), [HELD_OUT]
    for one in [{"data": data, "training": split["training"]}, *before]:
        if one["training"] is None:
            found.append(UNKNOWN)
        elif validation & set(one["training"]):
            found.append(TRAINING if one["data"] == data else UNKNOWN)
    return weakest(JudgedOn(one) for one in found)


def of_stored(stored):
    """What the validation part of a run is to its weights, by what a checkpoint keeps of it."""
    if "judged_on" in stored:
        return read(stored["judged_on"])
    return of_split(stored.get("split", {}))  # of an older version


def lineage(stored):
    """What the weights of a checkpoint were trained on, by this run and those that it grew from.

    Args:
      stored: what the checkpoint keeps beside the state.

    Returns:
      [{'data': of `data_of`, 'training': ids, or None where they are not known}].
    """
    own = {
        "data": data_of(configuration.flat(stored["config"])),
        "training": stored.get("split", {}).get("training"),
    }
    return [*stored.get("before", []), own]


def trained_on(stored):
    """Ids of the volumes of its own data set that a checkpoint's weights were trained on.

    Returns:
      Sorted list; None where the checkpoint does not say.
    """
    *before, own = lineage(stored)
    if own["training"] is None:
        return None
    same = [one["training"] or [] for one in before if one["data"] == own["data"]]
    return sorted(set(own["training"]).union(*same))


def data_of(fields):
    """The fields of a configuration, by their dotted paths, that name its data set."""
    return {name: fields[name] for name in DATA if name in fields}


def of_fields(fields):
    """What the validation part of a run is, by its configuration alone: a run of an older version.

    Args:
      fields: every field by its dotted path, of `configuration.flat`.
    """
    if not fields:
        return JudgedOn()
    return JudgedOn(TRAINING if fields.get("data.fold") == NONE else HELD_OUT)


def of_run(fields, stored):
    """What the validation part of a run is to its raw weights, whose best checkpoint it chose.

    Args:
      fields: of `of_fields`.
      stored: dicts that may have the keys of a `JudgedOn`, the first that has them counts.
    """
    found = next((read(one) for one in stored if "volumes" in one), of_fields(fields))
    return found._replace(chose=(CHECKPOINT,))


def of_prediction(path, name):
    """What `jax_seg.predict` noted beside the prediction or the probabilities of a volume.

    Args:
      path: of the volume.
      name: its id.

    Returns:
      JudgedOn; UNKNOWN where nothing was noted.

    Raises:
      ValueError: the note is damaged.
    """
    folder = Path(path).parent
    note = (folder.parent if folder.name == "probabilities" else folder) / f"{name}.json"
    content = read_json(note) if note.is_file() else {}
    return read(content.get("judged_on", {})) if isinstance(content, dict) else JudgedOn()
