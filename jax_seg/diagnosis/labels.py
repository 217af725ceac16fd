"""Checks of labels: their values and their thickness; see also `label_alignment`."""

from typing import NamedTuple

import numpy as np

from jax_seg.diagnosis import appearance
from jax_seg.diagnosis.finding import Check, Finding, Skipped, listed
from jax_seg.diagnosis.label_alignment import alignment
from jax_seg.diagnosis.label_completeness import incomplete, stored_label, values_of
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED

MOST = 8  # volumes in which label values are compared
INDISTINCT = 0.5  # of the correlation that the rest has: hippocampal head and body have 0.8
SOLID = 2.0  # times as thick as the rest: unlabelled regions are 5 to 30 times as thick as sheets
FEWEST = 4  # volumes, to judge one by the others
THICKER = 1.5  # times: of healthy volumes in one data set the thickest has 1.35 times the median
APART = 2.0  # times as far from the median as the farthest of the others


def unlabeled_as_foreground(evidence):
    """Findings of a label value that is foreground in the configuration alone.

    Its voxels look like background, while the other values of data.foreground are told apart from
    it, and its regions are far thicker than theirs. It holds most of the foreground: what is less
    spoils less.
    """
    suspected = unlabelled_values(evidence)
    return [
        _unlabeled(value, measured, evidence)
        for value, measured in suspected.items()
        if measured.share > 0.5
    ]


class Compared(NamedTuple):
    """A label value of the foreground beside the others.

    Attributes:
      own, rest: correlation with the image against background, of the value and of the others.
      thick, rest_thick: voxels, thickness of their regions.
      share: of the foreground that the value holds.
      others: the other values.
    """

    own: float
    rest: float
    thick: float
    rest_thick: float
    share: float
    others: tuple


def unlabelled_values(evidence):
    """{value: `Compared`} of the foreground's label values that look like unlabelled voxels.

    Raises:
      Skipped: the foreground has a single value.
    """
    voxels = appearance.VOXELS[evidence.quick]
    volumes = [
        (example, stored_label(evidence, example))
        for example in appearance.telling(evidence.part("training"), MOST, voxels)
    ]
    values = values_of(volumes, FOREGROUND)
    if len(values) < 2:
        raise Skipped("the foreground has a single label value")
    measured = {value: _compare(volumes, value, values, voxels) for value in values}
    return {
        value: one
        for value, one in measured.items()
        if one.rest > 0 and one.own < INDISTINCT * one.rest and one.thick > SOLID * one.rest_thick
    }


def inconsistent(evidence):
    """Findings of volumes whose labels are thicker or thinner than all the others'."""
    examples = [e for e in evidence.examples if np.count_nonzero(e.label == FOREGROUND)]
    examples = list({example.id: example for example in examples}.values())
    if len(examples) < FEWEST:
        raise Skipped(f"fewer than {FEWEST} volumes have foreground to compare")
    measured = np.array([thickness(example.label) for example in examples])
    apart = outliers(measured)
    if not len(apart):
        return []
    return [_inconsistent([examples[i] for i in apart], measured, apart)]


def thickness(label):
    """Mean thickness of the foreground in voxels: twice its volume over its surface.

    The surface counts the faces towards background, so that a flat sheet across an axis gets its
    exact thickness. Borders and masked voxels are no surface.
    """
    faces = 0
    for axis in range(label.ndim):
        before, after = (
            np.moveaxis(label, axis, 0)[part] for part in (slice(None, -1), slice(1, None))
        )
        faces += np.count_nonzero((before == FOREGROUND) & (after == BACKGROUND))
        faces += np.count_nonzero((before == BACKGROUND) & (after == FOREGROUND))
    return 2 * np.count_nonzero(label == FOREGROUND) / max(faces, 1)


def outliers(values):
    """Indices of positive values unlike the others, by ratio; none if a third or more would be."""
    logs = np.log(values)
    distance = np.abs(logs - np.median(logs))
    far = distance > np.log(THICKER)
    if not far.any() or far.sum() > len(values) / 3:
        return np.zeros(0, int)
    if distance[far].min() < APART * distance[~far].max():
        return np.zeros(0, int)
    return np.flatnonzero(far)


def _compare(volumes, value, values, voxels):
    """A value `Compared` with the rest of the foreground.

    Each correlation is with the combination of maps that is best for that value in all volumes
    together.
    """
    others = tuple(v for v in values if v != value)
    own, rest, thick, shares = [], [], [], []
    for example, stored in volumes:
        box = appearance.middle(example.label.shape, voxels)
        label, stored = example.label[box], stored[box]
        chosen = (label == FOREGROUND) & (stored == value)
        remaining = (label == FOREGROUND) & np.isin(stored, others)
        if min(np.count_nonzero(chosen), np.count_nonzero(remaining)) < appearance.MINIMUM:
            continue
        alone = [_only(label, one) for one in (chosen, remaining)]
        found = appearance.maps(example.image[box])
        for kept, moments in zip((own, rest), appearance.moments_of(found, alone), strict=True):
            kept.append(moments)
        thick.append([thickness(one) for one in alone])
        shares.append(np.count_nonzero(chosen) / np.count_nonzero(label == FOREGROUND))
    if not own:
        return Compared(0.0, 0.0, 0.0, 0.0, 0.0, others)
    correlation = [_correlation(moments) for moments in (own, rest)]
    return Compared(*correlation, *np.mean(thick, 0).tolist(), float(np.mean(shares)), others)


def _only(label, chosen):
    """A label in which some of the foreground is kept and the rest is masked."""
    return np.where((label == FOREGROUND) & ~chosen, MASKED, label).astype(np.uint8)


def _correlation(moments):
    weights = appearance.combination([one.at(0) for one in moments])
    return float(np.mean([appearance.correlations(one, weights)[0] for one in moments]))


def _unlabeled(value, measured, evidence):
    own, rest, thick, rest_thick, share, others = measured
    named = " and ".join(map(str, others))
    ignored = (*dict.fromkeys((*evidence.field("data.ignore", ()), value)),)
    return Finding(
        "labels.unlabeled_as_foreground",
        "error",
        f"Label value {value} is trained as foreground and makes up {100 * share:.0f} % of it, but "
        f"its voxels look like background (correlation with the image {own:.2f}, that of value "
        f"{named} {rest:.2f}) and its regions are {thick / rest_thick:.0f} times as thick: it "
        "means unlabelled.",
        {
            "value": value,
            "share_of_foreground": round(share, 4),
            "correlation": round(own, 4),
            "correlation_of_the_rest": round(rest, 4),
            "thickness": round(thick, 3),
            "thickness_of_the_rest": round(rest_thick, 3),
        },
        "data.foreground",
        f"Set data.foreground={others} and data.ignore={ignored}.",
    )


def _inconsistent(examples, measured, apart):
    usual = float(np.median(np.delete(measured, apart)))
    own = float(np.mean(measured[apart]))
    names = listed([example.id for example in examples])
    one = len(examples) == 1
    return Finding(
        "labels.inconsistent",
        "warning",
        f"The label{'' if one else 's'} of {names} ({len(apart)} of {len(measured)} volumes) "
        f"{'is' if one else 'are'} {own:.1f} voxels thick, those of the other volumes {usual:.1f} "
        f"({np.delete(measured, apart).min():.1f} to {np.delete(measured, apart).max():.1f}).",
        {
            "volumes": len(apart),
            "examined": len(measured),
            "thickness": round(own, 3),
            "thickness_of_the_others": round(usual, 3),
        },
        str(examples[0].label_file) if one else "data.labels",
        "Label all volumes by one rule: thin or thicken the labels that differ, or remove them.",
    )


CHECKS = (
    Check(
        ("labels.unlabeled_as_foreground",),
        unlabeled_as_foreground,
        quick=True,
        not_for={"image": "masks of images have no unlabelled pixels"},
    ),
    Check(("labels.swapped", "labels.misaligned"), alignment, quick=True),
    Check(
        ("labels.inconsistent",),
        inconsistent,
        quick=True,
        not_for={"image": "objects in images have no common thickness"},
    ),
    Check(("labels.incomplete",), incomplete),
)
