"""What a check reports, and the names of all causes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

SEVERITIES = ("error", "warning", "note")

# Every cause by name, in the order of their effects: what comes first spoils what follows.
CAUSES = {
    "labels.unlabeled_as_foreground": "unlabelled voxels are trained as foreground",
    "labels.swapped": "a label belongs to another image",
    "labels.misaligned": "a label is shifted, mirrored or transposed against its image",
    "labels.inconsistent": "a volume is labelled unlike the others",
    "labels.incomplete": "the label leaves surfaces as background",
    "data.leakage": "the same data lie on both sides of a fold",
    "data.corrupt": "slices are constant, repeated, shifted, noise or clipped",
    "data.shift": "the intensities of a volume are unlike the training volumes'",
    "data.spacing": "patch and network ignore the anisotropy of the voxels",
    "sampling.no_foreground": "patches hold no foreground",
    "sampling.mostly_masked": "patches are mostly masked",
    "sampling.coverage": "no patch of the run reaches some labelled voxels",
    "sampling.padding": "patches are mostly padding",
    "augment.destroys_labels": "augmentation breaks or erases thin structures",
    "augment.implausible": "augmented images are unlike all images of the data",
    "preprocess.saturated": "normalisation clips a large share of the voxels",
    "preprocess.skew": "training and prediction see different inputs for the same voxels",
    "loss.floor": "a perfect prediction still pays",
    "loss.biased": "the loss prefers another answer than the label's probability",
    "loss.dominated": "one term holds most of the gradient, or none",
    "loss.conflict": "terms pull against each other",
    "loss.prefers_wrong": "freely optimised logits end away from the label",
    "optimizer.rate_too_high": "the learning rate is too high",
    "optimizer.rate_too_low": "the learning rate is too low",
    "optimizer.clipped": "nearly every gradient is clipped",
    "optimizer.decay": "weight decay is stronger than the gradient",
    "schedule.unfinished": "a schedule or an average does not fit the length of the run",
    "control.acts_on_noise": "decisions rest on differences within the noise",
    "control.runaway": "interventions scale the learning rate without bound",
    "model.ignores_input": "the output does not depend on the input",
    "model.saturated": "logits are so large that no gradient is left",
    "model.dead": "channels or layers do not respond, or gradients vanish or explode with depth",
    "model.cannot_overfit": "the network does not fit a single batch",
    "model.receptive_field": "the network sees less than the labels need",
    "training.no_better_than_constant": "the model is no better than a constant",
    "training.unfinished": "the run ended while it was still learning",
    "training.overfits": "the model fits the training part and not the validation part",
    "validation.noisy": "validation cannot tell apart what the run decides by",
    "validation.unlike_test": "validation differs from how the model is used",
    "inference.seams": "errors or jumps lie at the borders of windows",
    "inference.threshold": "the threshold is not the one that fits",
    "postprocess.destructive": "post-processing lowers the scores",
}


class Finding(NamedTuple):
    """A cause that was found.

    Attributes:
      name: of CAUSES.
      severity: of SEVERITIES. An error spoils what the run learns or reports; a warning costs
        accuracy; a note is worth knowing.
      says: one sentence with its numbers.
      evidence: {what was measured: number}, the reference that it was compared with included.
      field: field of the configuration, or file, that it lies in.
      advice: what to set or do instead, as an imperative clause.
      picture: what `report` draws, {'kind': …, arrays as lists}; None for none.
    """

    name: str
    severity: str
    says: str
    evidence: dict
    field: str
    advice: str
    picture: dict | None = None

    def as_json(self):
        """Without the picture."""
        return {key: value for key, value in self._asdict().items() if key != "picture"}


class Check(NamedTuple):
    """A test for one or several causes.

    Attributes:
      causes: names of CAUSES that it may report.
      find: evidence -> list of Finding; raises `Skipped` where it cannot judge.
      needs: 'data' where configuration and data suffice, 'run' where it needs what a run has left.
      quick: whether it takes at most a few seconds.
      not_for: {'image' or 'volume': why data of that kind cannot have the causes}.
    """

    causes: tuple
    find: object
    needs: str = "data"
    quick: bool = False
    not_for: Mapping = MappingProxyType({})


class Skipped(Exception):
    """A check lacks what it needs; the text says what."""


def listed(names, most=4):
    """'a, b, c, d and 3 more'."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def ordered(findings):
    """Findings by severity, and within one by the order of CAUSES."""
    names = list(CAUSES)
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), names.index(f.name)))
