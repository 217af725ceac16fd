"""Checks of preprocessing: what clipping loses, and whether training sees what prediction sees."""

import numpy as np

from jax_seg.data import intensities
from jax_seg.data.preprocess import PerVolume, fit_preprocessing, preprocess
from jax_seg.data.readers import open_volume
from jax_seg.data.sampling import read_patch
from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.diagnosis.sampling import NEARLY_ALL
from jax_seg.ops.classes import FOREGROUND, MASKED

DESIGN = 0.01  # of the voxels are clipped by percentiles 0.5 and 99.5 (Isensee et al. 2021)
KEPT = {"warning": 0.8, "error": 0.4}  # of what single voxels tell about the label: less is lost
BINS = 64  # of the intensities, each with as many voxels
REFITTED = 0.2  # of the range: a fit to the data now moves by less where the data are the same
LEVEL = 0.5  # standard deviations of the voxels of a sample, and
CONTRAST = 1.5  # the factor by which every training input differs from itself as it is predicted
READ = 4  # patches whose voxels are read again from their files
SAME = 1e-4  # of the normalised range: rounding


def saturated(evidence):
    """Voxels that normalisation clips, and what they told about the label."""
    _require_one_range(evidence.preprocessing)
    low, high = evidence.preprocessing[:2]
    facts = {e.id: _clipping(e, low, high) for e in evidence.part("training")}
    clipped = {name: one["clipped"] for name, one in facts.items()}
    told = sum(one["told"] for one in facts.values())
    kept = sum(one["tells"] for one in facts.values()) / told if told > 0 else 1.0
    typical = float(np.median(list(clipped.values())))
    if kept >= KEPT["warning"] or typical <= 2 * DESIGN:
        return []
    worst = max(clipped, key=clipped.get)
    foreground = float(np.nanmean([one["foreground"] for one in facts.values()]))
    return [
        Finding(
            "preprocess.saturated",
            "error" if kept < KEPT["error"] else "warning",
            f"Normalisation to [{low:g}, {high:g}] clips {100 * typical:.0f} % of the voxels of "
            f"the typical training volume ({100 * clipped[worst]:.0f} % in {worst}) and "
            f"{100 * foreground:.0f} % of the foreground: an intensity then tells "
            f"{100 * kept:.0f} % of what it told about the label before.",
            {
                "clipped": typical,
                "clipped_by_design": DESIGN,
                "foreground_clipped": foreground,
                "information_kept": float(kept),
            },
            _percentile(facts),
            "Set preprocess.low_percentile to 0.5 and preprocess.high_percentile to 99.5.",
        )
    ]


def skew(evidence):
    """The path of a voxel in training against that in prediction."""
    _require_one_range(evidence.preprocessing)
    return [*_refitted(evidence), *_types(evidence), *_other_voxels(evidence)]


def _require_one_range(preprocessing):
    """`Skipped` where not all voxels are clipped to the same range."""
    if isinstance(preprocessing, PerVolume):
        raise Skipped("each volume is normalised by its own intensities")
    if isinstance(preprocessing.low, tuple):
        raise Skipped("each channel is normalised by its own intensities")


def shifted(evidence):
    """Augmentation that moves every training input away from what prediction sees."""
    plain, changed = (batch["image"] for batch in evidence.augmented)
    axes = tuple(range(1, plain.ndim))
    deviation = plain.std(axes) + 1e-6
    level = (changed.mean(axes) - plain.mean(axes)) / deviation
    contrast = np.log((changed.std(axes) + 1e-6) / deviation)
    shares = {
        "brighter": np.mean(level > LEVEL),
        "darker": np.mean(level < -LEVEL),
        "of stronger contrast": np.mean(contrast > np.log(CONTRAST)),
        "of weaker contrast": np.mean(contrast < -np.log(CONTRAST)),
    }
    how = max(shares, key=shares.get)
    if shares[how] <= NEARLY_ALL:
        return []
    return [
        Finding(
            "preprocess.skew",
            "error",
            f"{100 * shares[how]:.0f} % of the training inputs are {how} than the same voxels "
            f"without augmentation (mean {plain.mean():.2f} becomes {changed.mean():.2f}, standard "
            f"deviation {np.median(deviation):.2f} becomes {np.median(changed.std(axes)):.2f}), as "
            "validation and prediction see them.",
            {
                "moved": float(shares[how]),
                "mean_of_training": float(changed.mean()),
                "mean_of_prediction": float(plain.mean()),
                "deviation_of_training": float(np.median(changed.std(axes))),
                "deviation_of_prediction": float(np.median(deviation)),
            },
            _transform(evidence),
            "Choose ranges around 1, or probabilities that leave half of the samples as they are.",
        )
    ]


def _clipping(example, low, high):
    """Shares of clipped voxels of an `Example`, and what intensities tell about its label."""
    image, label = example.image, example.label
    masked_scan = intensities.zero_share(image) > intensities.MASKED_SHARE
    counted = image != 0 if masked_scan else np.ones_like(image, bool)
    outside = (image < low) | (image > high)
    labelled, foreground = counted & (label != MASKED), counted & (label == FOREGROUND)
    values, classes = image[labelled].astype(np.float32), label[labelled] == FOREGROUND
    return {
        "clipped": float(outside[counted].mean()) if counted.any() else 0.0,
        "below": float((image < low)[counted].mean()) if counted.any() else 0.0,
        "foreground": float(outside[foreground].mean()) if foreground.any() else np.nan,
        "told": information(values, classes),
        "tells": information(np.clip(values, low, high), classes),
    }


def information(values, classes):
    """Mutual information of intensities and two classes, nats, corrected for chance.

    By the correction of Miller (1955), the mean of what independent classes would show.

    Args:
      values: [N].
      classes: bool [N].
    """
    if not 0 < np.count_nonzero(classes) < len(classes):
        return 0.0
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, values, side="right")
    table = np.array([np.bincount(bins[classes == c], minlength=len(edges) + 1) for c in (0, 1)])
    joint = table / table.sum()
    expected = joint.sum(0, keepdims=True) * joint.sum(1, keepdims=True)
    occurs = joint > 0
    found = np.sum(joint[occurs] * np.log(joint[occurs] / expected[occurs]))
    chance = (np.count_nonzero(joint.sum(0)) - 1) / (2 * len(values))
    return max(float(found - chance), 0.0)


def _percentile(facts):
    below = np.mean([one["below"] for one in facts.values()])
    both = np.mean([one["clipped"] for one in facts.values()])
    return "preprocess.low_percentile" if below > both / 2 else "preprocess.high_percentile"


def _refitted(evidence):
    """Preprocessing of the run, against a fit to the training volumes as they are now."""
    if not evidence.stored:
        return []
    options = evidence.settings.task["preprocess"]
    samples = [facts.intensities for facts in evidence.task.train.fingerprints]
    now, run = _fitted(samples, options), evidence.preprocessing
    distance = _distance(run, now)
    noise = [
        _distance(_fitted(samples[:n] + samples[n + 1 :], options), now)
        for n in range(len(samples))
        if len(samples) > 1
    ]
    if distance <= max([REFITTED, *noise]):
        return []
    return [
        Finding(
            "preprocess.skew",
            "error",
            f"The run normalises intensities from {run.low:g} to {run.high:g}, but the training "
            f"volumes now lie between {now.low:g} and {now.high:g}: they are not those, or not on "
            "the scale, that the network was trained on.",
            {
                "low_of_run": float(run.low),
                "high_of_run": float(run.high),
                "low_now": float(now.low),
                "high_now": float(now.high),
                "distance": float(distance),
                "distance_between_volumes": float(max(noise, default=0.0)),
            },
            "data.root",
            "Restore the volumes that the run was trained on, or train again on these.",
        )
    ]


def _fitted(samples, options):
    return fit_preprocessing(np.concatenate(samples), **options)


def _distance(one, other):
    """Larger difference between the limits of two ranges, as a share of the second."""
    return max(abs(one.low - other.low), abs(one.high - other.high)) / (other.high - other.low)


def _types(evidence):
    """Volumes of another type whose intensities are on another scale."""
    groups = {}
    for sampler in (evidence.task.train, evidence.task.validation):
        for volume, facts in zip(sampler.volumes, sampler.fingerprints, strict=True):
            kind = str(np.dtype(open_volume(volume.image).dtype))
            groups.setdefault(kind, {})[volume.id] = facts.intensities
    usual = max(groups, key=lambda kind: len(groups[kind]))
    span = tuple(np.median([intensities.span(v) for v in groups[usual].values()], 0))
    for kind, members in groups.items():
        values = np.concatenate(list(members.values()))
        if kind == usual or not (effect := intensities.clipping(values, *span)):
            continue
        low, high = intensities.span(values)
        return [
            Finding(
                "preprocess.skew",
                "error",
                f"The volumes of {kind} ({', '.join(sorted(members)[:3])}) have intensities from "
                f"{low:g} to {high:g}, those of {usual} from {span[0]:g} to {span[1]:g}: in that "
                f"range, {effect}.",
                {
                    "low": low,
                    "high": high,
                    "usual_low": float(span[0]),
                    "usual_high": float(span[1]),
                },
                "data.images",
                "Convert all volumes to one type and scale, as they will be predicted.",
            )
        ]
    return []


def _other_voxels(evidence):
    """Training patches against the same voxels read as for prediction, both normalised."""
    sampler, worst, name = evidence.task.train, 0.0, ""
    for index in range(min(READ, len(sampler))):
        number, corner = sampler.place(index)
        reader = open_volume(sampler.volumes[number].image)
        read = read_patch(reader, corner, sampler.patch, outside="edge")
        drawn = sampler[index]["image"][..., 0]
        seen = [preprocess(x, evidence.preprocessing) for x in (drawn, read)]
        difference = float(np.abs(np.asarray(seen[0]) - np.asarray(seen[1])).max())
        if difference > worst:
            worst, name = difference, sampler.volumes[number].id
    low, high, _, scale = evidence.preprocessing
    if worst <= SAME * (high - low) * scale:
        return []
    return [
        Finding(
            "preprocess.skew",
            "error",
            f"A training patch of {name} differs from the same voxels of its file by up to "
            f"{worst:.3g} after normalisation: the decoded copy is of another file.",
            {"difference": worst, "allowed": float(SAME * (high - low) * scale)},
            "data.cache",
            "Delete the folder that data.cache names, or WORKDIR/cache: volumes are then decoded "
            "again.",
        )
    ]


def _transform(evidence):
    """The field of the intensity transform with the highest probability."""
    fields = evidence.settings.task["augment"]
    kinds = ("brightness", "contrast", "noise", "blur", "low_resolution")
    chosen = max(kinds, key=lambda kind: fields.get(kind, 0.0))
    if not fields.get(chosen) and "colour.brightness" in evidence.fields:
        return "colour.brightness"
    return f"augment.{chosen}_range"


CHECKS = (
    Check(("preprocess.saturated",), saturated, quick=True),
    Check(
        ("preprocess.skew",),
        skew,
        quick=True,
        not_for={"image": "images are normalised by fixed numbers"},
    ),
    Check(("preprocess.skew",), shifted),
)
