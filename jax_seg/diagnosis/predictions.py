"""Checks on what becomes of a network's output: windows, threshold, post-processing."""

import numpy as np
from scipy import ndimage

from jax_seg.data.preprocess import box_with_input
from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.infer import postprocess
from jax_seg.infer.postprocess import search
from jax_seg.infer.sliding_window import window_starts
from jax_seg.metrics import segmentation, threshold
from jax_seg.ops.classes import FOREGROUND, MASKED

WORTH = 0.03  # Dice; a smaller gain is no cause to change anything
FEW = 4  # volumes; fewer are halved
MOST_COST = search.GUARD
"""Dice that steps may cost a perfect prediction, as in `jax_seg.tune`."""
LABELS = 3  # volumes whose labels post-processing is tried on
ALL = -1.0  # threshold above which every voxel is foreground
FEWEST_VOXELS = 4  # of a window, whose borders can be shifted to planes that are none
SHIFTS = 200  # random shifts of the borders of windows
ALPHA = 0.05  # share of them that may show as large jumps
# Blended by half a window, borders are no steeper than the planes around by more than a tenth.
JUMP = 1.25


def steps_in_use(evidence):
    """(steps that predictions pass through, the first one a threshold or hysteresis; where set)."""
    value = evidence.field("validate.threshold")
    try:
        tuned = postprocess.read_steps(evidence.workdir) if evidence.workdir else None
    except ValueError as error:
        raise Skipped(f"postprocess.json cannot be read: {error}") from error
    if tuned:
        return postprocess.after_threshold(tuned, value), "postprocess.json"
    own = evidence.field("postprocess.steps", ())
    return postprocess.after_threshold(own, value), "postprocess.steps"


def held_out(evidence):
    """`evidence.predictions` with labelled voxels, of volumes that were not trained on."""
    if not evidence.holds_out:
        raise Skipped("the run holds out nothing")
    found = [one for one in evidence.predictions if (one[2] != MASKED).any()]
    if not found:
        raise Skipped("no held-out volume has a prediction and a label")
    if not all(np.isfinite(probability).all() for _, probability, *_ in found):
        raise Skipped("the predictions are not finite")
    return found


def dice(mask, label):
    """Dice of a mask over the labelled voxels."""
    return segmentation.scores(segmentation.confusion(mask, label))["dice"]


def find_threshold(evidence):
    """The Dice that thresholds chosen on other volumes gain over the one in use.

    Each volume is scored at the threshold that is best on the others, so the gain is not that of
    choosing.
    """
    steps, field = steps_in_use(evidence)
    name, given = postprocess.parse(steps[0])
    if name != "threshold":
        raise Skipped("predictions are cut by hysteresis, not by one threshold")
    used = (postprocess.defaults(name) | given)["value"]
    tables = [threshold.count(*pair) for pair in _several(held_out(evidence))]
    total, grid = sum(tables), (used, *threshold.THRESHOLDS)
    swept = [_dice_of(table, grid) for table in tables]
    chosen = [int(np.argmax(_dice_of(total - table, grid))) for table in tables]
    before = [row[0] for row in swept]
    after = [row[best] for row, best in zip(swept, chosen, strict=True)]
    gain, best = search.sure_gain(before, after), grid[int(np.argmax(_dice_of(total, grid)))]
    everywhere = np.mean([_dice_of(table, [ALL])[0] for table in tables])
    if gain < WORTH or np.mean(after) < everywhere + WORTH:  # then the model is to blame
        return []
    before, after = float(np.mean(before)), float(np.mean(after))
    if field == "postprocess.steps" and _is_own_threshold(evidence):
        field = "validate.threshold"
    return [
        Finding(
            "inference.threshold",
            "warning",
            f"Predictions are cut at a probability of {used:g}, where held-out volumes have a Dice "
            f"of {before:.3f}; thresholds chosen on other parts of them reach {after:.3f}.",
            {
                "threshold": float(used),
                "dice": before,
                "best_threshold": float(best),
                "dice_by_other_parts": after,
                "sure_gain": gain,
                "parts": len(tables),
            },
            field,
            f"Set the threshold to {best:.2f}, or choose it with jax_seg.tune.",
        )
    ]


def _is_own_threshold(evidence):
    """Whether the threshold is validate.threshold, not one of postprocess.steps."""
    steps = evidence.field("postprocess.steps", ())
    return not steps or postprocess.parse(steps[0])[0] not in postprocess.FIRST


def _dice_of(table, thresholds):
    if not table.sum():
        return np.zeros(len(thresholds))
    return np.array([row["dice"] for row in threshold.sweep(table, thresholds)])


def _several(predictions):
    """(probability, label) of each volume; of few volumes of each half.

    A threshold chosen on one other volume would be that volume's own.
    """
    pairs = [(probability, label) for _, probability, label, _ in predictions]
    if len(pairs) >= FEW:
        return pairs
    halves = []
    for probability, label in pairs:
        axis = int(np.argmax(label.shape))
        cut = (np.array_split(array, 2, axis) for array in (probability, label))
        halves += zip(*cut, strict=True)
    found = [half for half in halves if (half[1] != MASKED).any()]
    if len(found) < 2:
        raise Skipped("half of the only held-out volume is unlabelled")
    return found


def find_destructive(evidence):
    """Whether post-processing costs a prediction Dice, and by which step.

    A run's own predictions decide. Before there are any, the labels stand for a perfect prediction,
    their unlabelled voxels filled with the nearest class.
    """
    steps, field = steps_in_use(evidence)
    if len(steps) == 1:
        return []
    if evidence.workdir:
        return _on_predictions(held_out(evidence), steps, field)
    return _on_labels(evidence, steps, field)


def _on_predictions(predictions, steps, field):
    def score(chosen):
        return [
            dice(postprocess.apply(probability, image, chosen), label)
            for _, probability, label, image in predictions
        ]

    before, after = score(steps[:1]), score(steps)
    # The mean, whether or not it is sure: steps that erase one of two volumes are destructive.
    if np.mean(before) - np.mean(after) < WORTH:
        return []
    worst, without = _worst_step(steps, score)
    return [_destructive(steps, field, worst, before, after, without, "held-out predictions")]


def _on_labels(evidence, steps, field):
    examples = [e for e in evidence.examples if (e.label == FOREGROUND).any()][:LABELS]
    if not examples:
        raise Skipped("no label holds foreground")
    perfect = [(_filled(e.label), e.label, e.image) for e in examples]
    # Any threshold leaves a perfect prediction as it is.
    steps = (postprocess.DEFAULT, *steps[1:])

    def score(chosen):
        return [dice(postprocess.apply(p, image, chosen), label) for p, label, image in perfect]

    after = score(steps)
    before = [1.0] * len(after)
    if search.sure_gain(after, before) < MOST_COST:
        return []
    worst, without = _worst_step(steps, score)
    return [_destructive(steps, field, worst, before, after, without, "perfect predictions")]


def _filled(label):
    """A perfect prediction of a label, float32: unlabelled voxels take the nearest one's class."""
    masked = label == MASKED
    if masked.any() and not masked.all():
        nearest = ndimage.distance_transform_edt(
            masked, return_distances=False, return_indices=True
        )
        label = label[tuple(nearest)]
    return (label == FOREGROUND).astype(np.float32)


def _worst_step(steps, score):
    """(the step without which the others score highest, the mean Dice without it)."""
    without = {
        step: float(np.mean(score(tuple(one for one in steps if one is not step))))
        for step in steps[1:]
    }
    worst = max(without, key=without.get)
    return worst, without[worst]


def _destructive(steps, field, worst, before, after, without, what):
    """The finding; an error where the loss is WORTH or more."""
    before, after = float(np.mean(before)), float(np.mean(after))
    erased = 1 - after / before if before else 0.0
    return Finding(
        "postprocess.destructive",
        "error" if before - after >= WORTH else "warning",
        f"Post-processing lowers the Dice of {what} from {before:.3f} to {after:.3f}; without "
        f"'{worst}' it is {without:.3f}.",
        {
            "dice_before": before,
            "dice_after": after,
            "dice_without_step": without,
            "share_lost": float(erased),
            "steps": len(steps) - 1,
        },
        field,
        f"Remove '{worst}', or choose the steps with jax_seg.tune.",
    )


def find_seams(evidence):
    """Jumps of the probability at the borders of windows, against those at shifted borders.

    Where windows meet without overlap, each side is predicted without the other. The same planes,
    shifted at random along each axis of each volume, say what jumps they would show by chance.
    Volumes that the network sees resampled are left out: their borders lie on no plane of voxels.
    """
    patch, overlap = evidence.field("data.patch"), evidence.field("validate.overlap", 0.5)
    boxed = evidence.field("preprocess.per_volume") and evidence.field("preprocess.region") != "all"
    axes = []
    for name, probability, label, image in held_out(evidence):
        if name in evidence.resampled:
            continue
        if boxed:  # its windows begin at its corner
            box = box_with_input(image)
            probability, label = probability[box], label[box]
        for axis, window in enumerate(patch):
            borders = _borders(probability.shape[axis], window, overlap)
            if len(borders) and window >= FEWEST_VOXELS:
                axes.append((borders, window, *_profiles(probability, label, axis)))
    if not axes:
        raise Skipped(
            "every volume is resampled or fits into one window, or windows are too narrow"
        )
    jump = float(np.mean(_at(axes, 0)))
    generator = np.random.default_rng(0)
    shifted = [float(np.mean(_at(axes, 0, generator))) for _ in range(SHIFTS)]
    chance = (1 + np.count_nonzero(np.array(shifted) >= jump)) / (1 + SHIFTS)
    if chance > ALPHA or jump < np.log(JUMP):
        return []
    at, inside = (float(np.mean(_at(axes, 1, generator=g))) for g in (None, generator))
    return [_seams(np.exp(jump), np.exp(np.median(shifted)), chance, at, inside, patch, overlap)]


def _seams(jump, reference, chance, at, inside, patch, overlap):
    return Finding(
        "inference.seams",
        "warning",
        f"At the borders of windows of {'×'.join(map(str, patch))} voxels with an overlap of "
        f"{100 * overlap:g} %, the probability jumps {jump:.2f} times as far as at the planes "
        f"around them ({reference:.2f} times at shifted borders).",
        {
            "jump_at_borders": float(jump),
            "jump_at_shifted_borders": float(reference),
            "chance": float(chance),
            "error_at_borders": at,
            "error_at_shifted_borders": inside,
            "overlap": float(overlap),
        },
        "validate.overlap",
        "Set validate.overlap to 0.5, or enlarge data.patch.",
    )


def _at(axes, which, generator=None):
    """A profile's values at the borders of all axes, or at borders shifted by a generator."""
    found = []
    for borders, window, *profiles in axes:
        profile = profiles[which]
        if generator is not None:  # not by so little that they nearly are the borders
            borders = 1 + (borders + generator.integers(2, window - 1) - 1) % (len(profile) - 1)
        found.append(profile[borders])
    return np.concatenate(found)


def _borders(length, window, overlap):
    """First voxels behind the planes along an axis where one window hands over to the next."""
    if length <= window:
        return np.array([], int)
    starts = np.array(window_starts(length, window, overlap))
    return (starts[:-1] + window + starts[1:]) // 2


def _profiles(probability, label, axis):
    """Along an axis: jumps from the plane before, against their neighbours', and errors, [L] each.

    A jump is the mean difference of the probability; near planes share the direction of the
    sheets, so its logarithm is compared with that of two planes on either side.
    """
    probability, label = (np.moveaxis(a, axis, 0) for a in (probability, label))
    rest = tuple(range(1, probability.ndim))
    jump = np.log(np.abs(np.diff(probability, axis=0)).mean(rest) + 1e-6)
    padded = np.pad(jump, 2, mode="reflect")
    around = (padded[:-4] + padded[1:-3] + padded[3:-1] + padded[4:]) / 4
    labelled = label != MASKED
    wrong = np.abs(probability - (label == FOREGROUND)) * labelled
    error = wrong.sum(rest) / np.maximum(labelled.sum(rest), 1)
    return np.concatenate([[0.0], jump - around]), error


CHECKS = (
    Check(("postprocess.destructive",), find_destructive, quick=True),
    Check(("inference.threshold",), find_threshold, needs="run"),
    Check(
        ("inference.seams",),
        find_seams,
        needs="run",
        not_for={"image": "images are predicted as a whole"},
    ),
)
