"""Which volumes a score was measured on, and what had been chosen on them before.

One pair serves scores, thresholds, post-processing steps, ensemble weights and comparisons. It is
stored as two keys, in an entry of `scores.json` beside its scores, elsewhere under "judged_on":

    "volumes"  "training": the weights were trained on some of them, so the score shows how well
               they fit, not how they perform on other volumes;
               "held out": the weights were not trained on them;
               "unknown": not recorded, as for a converted network.
    "chose"    what was chosen by its score on these same volumes, such as ["checkpoint", "steps"];
               the score is then optimistic.

Decisions during training (a reduced rate, a rollback, an early stop) are not listed in "chose",
although they depend on the validation loss.
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
        """A copy that adds `choice`, such as 'checkpoint', to what these volumes chose."""
        return self._replace(chose=(*self.chose, choice))

    def name(self, noun="volume"):
        """'training volume', 'held-out volume', or 'volume' if unknown."""
        known = {TRAINING: "training ", HELD_OUT: "held-out "}
        return known.get(self.volumes, "") + noun

    def mark(self, noun="volume"):
        """'training volume' if the score does not carry over to others, else the plain `noun`."""
        return self.name(noun) if self.volumes == TRAINING else noun

    def suffix(self, noun="volumes"):
        """' | training volumes' for the end of a log line; '' if they were held out."""
        endings = {TRAINING: f" | training {noun}", UNKNOWN: f" | possibly training {noun}"}
        return endings.get(self.volumes, "")

    @property
    def choices(self):
        """', which chose the checkpoint', or '' if they chose nothing."""
        return f", which chose the {' and the '.join(self.chose)}" if self.chose else ""


def read(content):
    """The `JudgedOn` of a dict with its keys; UNKNOWN without them, as in older files."""
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


def seen(on):
    """The ids of {id: JudgedOn} that the weights were trained on."""
    return [name for name, one in on.items() if one.volumes == TRAINING]


def caution(on, noun="volumes"):
    """A sentence on scores of volumes that the network was trained on; '' if there are none.

    Args:
      on: {id: JudgedOn}.
      noun: for them, in the plural.
    """
    if not (names := seen(on)):
        return ""
    return (
        f"The network was trained on {', '.join(names)}: these scores show how well it fits them, "
        f"not how it performs on other {noun}."
    )


def of_split(split, data=None, before=()):
    """How the validation part of a run relates to its weights.

    Args:
      split: {'training': ids, 'validation': ids}; empty if unknown.
      data: fields that identify its data set, of `data_of`.
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
    """How the validation part of a run relates to its weights, as stored in a checkpoint."""
    if "judged_on" in stored:
        return read(stored["judged_on"])
    return of_split(stored.get("split", {}))  # of an older version


def lineage(stored):
    """What the weights of a checkpoint were trained on, in this run and those it started from.

    Args:
      stored: what the checkpoint stores beside the state.

    Returns:
      [{'data': of `data_of`, 'training': ids, or None if unknown}].
    """
    own = {
        "data": data_of(configuration.flat(stored["config"])),
        "training": stored.get("split", {}).get("training"),
    }
    return [*stored.get("before", []), own]


def trained_on(stored):
    """Ids of the volumes of its own data set that a checkpoint's weights were trained on.

    Returns:
      Sorted list; None if the checkpoint does not record them.
    """
    *before, own = lineage(stored)
    if own["training"] is None:
        return None
    same = [one["training"] or [] for one in before if one["data"] == own["data"]]
    return sorted(set(own["training"]).union(*same))


def data_of(fields):
    """The fields of a configuration, by their dotted paths, that identify its data set."""
    return {name: fields[name] for name in DATA if name in fields}


def of_fields(fields):
    """How the validation part of a run relates to its weights, by its configuration alone.

    For runs of an older version.

    Args:
      fields: every field by its dotted path, of `configuration.flat`.
    """
    if not fields:
        return JudgedOn()
    return JudgedOn(TRAINING if fields.get("data.fold") == NONE else HELD_OUT)


def of_run(fields, stored):
    """How the validation part of a run relates to its raw weights, whose best checkpoint it chose.

    Args:
      fields: of `of_fields`.
      stored: dicts that may have the keys of a `JudgedOn`; the first one with them counts.
    """
    found = next((read(one) for one in stored if "volumes" in one), of_fields(fields))
    return found._replace(chose=(CHECKPOINT,))


def of_prediction(path, name):
    """The `JudgedOn` that `jax_seg.predict` recorded beside a prediction or probabilities.

    Args:
      path: of the volume.
      name: its id.

    Returns:
      JudgedOn; UNKNOWN if nothing was recorded.

    Raises:
      ValueError: the record is damaged.
    """
    folder = Path(path).parent
    # Of a mask, of probabilities, and of those of one of several classes.
    notes = [folder / f"{name}.json"]
    notes += [
        maps.parent / f"{name}.json"
        for maps in (folder, folder.parent)
        if maps.name == "probabilities"
    ]
    content = next((read_json(note) for note in notes if note.is_file()), {})
    return read(content.get("judged_on", {}))
