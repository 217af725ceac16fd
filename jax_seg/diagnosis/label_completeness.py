"""Whether labels leave structures as background that their images show like labelled ones."""

import numpy as np
from scipy import ndimage

from jax_seg.diagnosis import appearance
from jax_seg.diagnosis.finding import Finding, Skipped, listed
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED

MOST = 8  # volumes that are looked at
NOTABLE = 0.05  # share of foreground or background that a label value must have to be judged
TOLD = 0.3  # share of the labels' variance that the image must explain, to judge by it
FITS = 0.5  # of the median correlation of labels and images, that a label must have
BESIDE = 3  # voxels around foreground that blur and careless drawing explain
CONNECTED = 100  # voxels: smaller pieces are grains
MISSING = 0.15  # share of the structures: look-alikes within cells are 0.09 of membranes
SURE = 0.05  # share in every other volume, for one volume to be judged by them


def incomplete(evidence):
    """Findings of background that holds whole copies of foreground.

    What foreground looks like is learned from the other volumes. A background voxel counts that
    looks more like it than half of the labelled foreground does, away from any and within a
    connected piece of at least CONNECTED voxels; foreground is counted in the same way. Where
    background has several label values, each is judged by what is learned without it.
    """
    voxels = appearance.VOXELS[evidence.quick]
    examples = appearance.telling(evidence.examples, MOST, voxels)
    if len(examples) < 2:
        raise Skipped("fewer than two volumes have enough foreground")
    boxes = [appearance.middle(example.image.shape, voxels) for example in examples]
    found = [appearance.maps(e.image[box]) for e, box in zip(examples, boxes, strict=True)]
    labels = [e.label[box] for e, box in zip(examples, boxes, strict=True)]
    for value, learned in [(None, labels), *_without_a_value(evidence, examples, boxes, labels)]:
        told, shares = _compared(found, learned, labels)
        if np.median(told) < np.sqrt(TOLD):
            continue
        # A label that has little to do with its image is not incomplete: it lies elsewhere.
        fits = told > FITS * np.median(told)
        fitting = [example for example, fit in zip(examples, fits, strict=True) if fit]
        return _judged(fitting, shares[fits], value, evidence)
    raise Skipped("the images tell foreground and background apart too weakly")


def stored_label(evidence, example):
    """The label values of an example [D, H, W] as they are in its file."""
    reader = evidence.task.train.cache.open(example.label_file)
    return np.asarray(reader.read(example.start, example.label.shape))


def values_of(volumes, kind):
    """Label values that hold at least NOTABLE of a class.

    Args:
      volumes: [(example, stored label [D, H, W])].
      kind: of `ops.classes`.
    """
    counts = {}
    for example, stored in volumes:
        found = np.unique(stored[example.label == kind], return_counts=True)
        for value, count in zip(*found, strict=True):
            counts[int(value)] = counts.get(int(value), 0) + int(count)
    total = sum(counts.values())
    return sorted(value for value, count in counts.items() if count >= NOTABLE * total)


def missing_share(score, label):
    """Share of the structures of a volume that are labelled as background.

    Args:
      score: [D, H, W], how much a voxel looks like foreground.
      label: encoded, [D, H, W], with foreground.
    """
    foreground = label == FOREGROUND
    alike = score > np.median(score[foreground])
    away = ndimage.distance_transform_edt(~foreground) > BESIDE
    left_out = _in_large_pieces(alike & away & (label == BACKGROUND))
    return left_out / max(left_out + _in_large_pieces(alike & foreground), 1)


def _without_a_value(evidence, examples, boxes, labels):
    """Yield (value, labels in which it is masked) of each value of background, if there are two."""
    if "data.background" not in evidence.fields:  # masks have one value
        return
    volumes = [(example, stored_label(evidence, example)) for example in examples]
    values = values_of(volumes, BACKGROUND)
    for value in values if len(values) > 1 else ():
        yield (
            value,
            [
                np.where((stored[box] == value) & (label == BACKGROUND), MASKED, label)
                for (_, stored), box, label in zip(volumes, boxes, labels, strict=True)
            ],
        )


def _compared(found, learned, labels):
    """([N] correlations of the labels to learn from, [N] `missing_share`s of `labels`)."""
    pairs = list(zip(found, learned, strict=True))
    moments = [appearance.moments_of(one, [label])[0] for one, label in pairs]
    told, shares = [], []
    for index, (one, label) in enumerate(zip(found, labels, strict=True)):
        others = moments[:index] + moments[index + 1 :]
        weights = appearance.combination([other.at(0) for other in others])
        told.append(appearance.correlations(moments[index], weights)[0])
        shares.append(missing_share(np.tensordot(weights, one, 1), label))
    return np.array(told), np.array(shares)


def _in_large_pieces(chosen):
    pieces, _ = ndimage.label(chosen, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    return int(sizes[sizes >= CONNECTED].sum())


def _judged(examples, shares, value, evidence):
    """The finding, where most volumes are incomplete, or one is and all others are not."""
    apart = shares > MISSING
    if not apart.any():
        return []
    if np.median(shares) < MISSING and shares[~apart].max() > SURE:
        return []
    share = float(np.mean(shares[apart]))
    others = float(shares[~apart].max()) if not apart.all() else 0.0
    names = [example.id for one, example in zip(apart, examples, strict=True) if one]
    of_value = "" if value is None else f", most of it with label value {value}"
    evidence_numbers = {
        "volumes": len(names),
        "examined": len(shares),
        "missing_share": round(share, 4),
        "missing_share_of_the_others": round(others, 4),
        "usual": MISSING,
    }
    return [
        Finding(
            "labels.incomplete",
            "error" if value is not None else "warning",
            f"In {len(names)} of {len(shares)} volumes ({listed(names)}), {100 * share:.0f} % of "
            "the structures that look like labelled foreground are background in the label, "
            f"in connected pieces{of_value}.",
            evidence_numbers,
            "data.labels" if value is None else "data.background",
            _advice(value, evidence),
        )
    ]


def _advice(value, evidence):
    if value is None:
        return (
            "Label these structures, or give regions that nobody has looked at a value of "
            "data.ignore."
        )
    ignored = (*dict.fromkeys((*evidence.field("data.ignore", ()), value)),)
    return f"Remove {value} from data.background and set data.ignore={ignored}."
