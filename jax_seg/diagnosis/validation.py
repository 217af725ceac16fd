"""Checks of validation.*: whether the figures that a run decides by can tell what is better."""

import numpy as np
from scipy import ndimage
from scipy.special import stdtr

from jax_seg.data.sampling import foreground_share
from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.diagnosis.judging import curves_of
from jax_seg.diagnosis.predictions import WORTH
from jax_seg.infer import postprocess
from jax_seg.metrics import segmentation
from jax_seg.metrics.curves import CLEAR, FEWEST, scatter
from jax_seg.ops.classes import FOREGROUND

DECIDED = 0.1  # Dice; a validation part that cannot show as much cannot choose a checkpoint
NOTABLE = 1.4  # odds ratio of the foreground; with it a cut at 0.5 lies where 0.42 should be,
UNLIKE = 2.0  # and with this one where 0.33 should be
FEWEST_SCROLLS = 4  # whose spread can be told
ALPHA = 0.01  # chance of a difference of foreground at which it counts
ERRORS = 0.2  # share of the foreground that is missed, and wrongly added: a Dice of 0.8
BLOB = 1.5  # voxels; sigma of the noise: errors are about as wide as sheets
PATCHES = 128  # of the validation sampler, whose foreground is counted


def find_noisy(evidence):
    """Whether chance alone makes equally good predictions differ on the validation part.

    Equally good are labels with errors of one rate and size at random places; the spread of their
    Dice, pooled over the volumes, is what no comparison of two models can see through.
    """
    labels = [example.label for example in evidence.part("validation")]
    if not any((label == FOREGROUND).any() for label in labels):
        known = getattr(evidence.task.validation, "fingerprints", ())
        if any(facts.counts[FOREGROUND] for facts in known):  # examples are cropped
            raise Skipped("the middle of the validation volumes, which is looked at, has none")
        return [_without_foreground(len(labels))]
    if len(evidence.task.validation_ids) == 1 and evidence.holds_out:
        return [_one_volume(evidence)]
    scores = _equally_good(labels)
    spread = float(np.sqrt(2) * scores.std(ddof=1))
    if CLEAR * spread < DECIDED:
        return []
    foreground = int(sum(np.count_nonzero(label == FOREGROUND) for label in labels))
    return [
        Finding(
            "validation.noisy",
            "warning",
            f"The {len(labels)} validation {evidence.task.wholes} hold {foreground} foreground "
            f"{evidence.settings.kind.POINT}s in all: predictions with errors of one rate at "
            f"random places score a Dice between {scores.min():.3f} and {scores.max():.3f} there.",
            {
                "spread_of_differences": spread,
                "lowest_dice": float(scores.min()),
                "highest_dice": float(scores.max()),
                "foreground_voxels": foreground,
                "difference_to_decide": DECIDED,
            },
            *_more(evidence),
        )
    ]


def _more(evidence):
    """(field, advice) to hold out more."""
    if "data.folds" in evidence.fields:
        return "data.folds", "Hold out more volumes with a smaller data.folds, or label more."
    return "data.validation_share", "Hold out more images with a larger data.validation_share."


def _equally_good(labels, draws=12):
    """Pooled Dice of labels with random errors, [draws].

    Errors are blobs where a smooth noise is high: ERRORS of the foreground, and as many voxels of
    background. The noise is one periodic tile, which each draw moves to a random place.
    """
    generator = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(generator.normal(size=(64, 64, 64)), BLOB, mode="wrap")
    ordered, found = np.sort(noise, axis=None), []
    for _ in range(draws):
        total = segmentation.Confusion()
        for label in labels:
            offsets = generator.integers(0, 64, 3)
            places = ((np.arange(n) + o) % 64 for n, o in zip(label.shape, offsets, strict=True))
            drawn, share = noise[np.ix_(*places)], foreground_share(label)
            missed = drawn > _quantile(ordered, 1 - ERRORS)
            added = drawn < _quantile(ordered, ERRORS * share / max(1 - share, 1e-9))
            mask = np.where(label == FOREGROUND, ~missed, added)
            total += segmentation.confusion(mask, label)
        found.append(segmentation.scores(total)["dice"])
    return np.array(found)


def _quantile(ordered, share):
    return ordered[int(np.clip(share, 0, 1) * (ordered.size - 1))]


def _without_foreground(count):
    return Finding(
        "validation.noisy",
        "error",
        f"None of the {count} validation volumes has labelled foreground, so Dice is 0 or 1 "
        "regardless of what is learned.",
        {"volumes": count, "foreground_voxels": 0},
        "data.fold",
        "Choose another data.fold or data.split_seed, whose volumes hold foreground.",
    )


def _one_volume(evidence):
    total = len(evidence.task.train_ids) + 1
    return Finding(
        "validation.noisy",
        "warning",
        f"Validation rests on one of {total} {evidence.task.wholes}, so its standard error is "
        "unknown and every difference between epochs counts as real.",
        {"validation_volumes": 1, "volumes": total, "smallest_number_with_an_error": 2},
        *_more(evidence),
    )


def find_noisy_run(evidence):
    """Whether all that training has learned is within the error of the validation loss."""
    found = curves_of(evidence)
    learned = float(found.train[0] - found.train[-1])
    if learned < CLEAR * scatter(found.train):
        raise Skipped("the training loss did not fall, so validation had nothing to show")
    error = float(np.median(found.error))
    fell = float(found.validation[0] - found.validation.min())
    if CLEAR * error < learned or CLEAR * error < abs(fell):
        return []
    return [
        Finding(
            "validation.noisy",
            "warning",
            f"The validation loss has a standard error of {error:.3f}, while the training loss "
            f"fell by {learned:.3f} in all: validation cannot tell the epochs apart.",
            {"standard_error": error, "training_fell": learned, "validation_fell": fell},
            "validate.patches_per_volume",
            "Validate on more volumes, and on more patches of each.",
        )
    ]


def find_unlike(evidence):
    """Whether validation volumes and patches hold as much foreground as what they stand for."""
    return [*_unlike_training(evidence), *_unlike_volumes(evidence)]


def _unlike_training(evidence):
    """Foreground of the validation volumes against the spread of the training volumes.

    By the prediction interval of Student's t for the mean of further scrolls, or of volumes where
    no scroll is known: volumes of one scroll resemble each other.
    """
    training, validation = (_by_scroll(evidence.part(name)) for name in ("training", "validation"))
    if not evidence.holds_out or len(training) < FEWEST_SCROLLS:
        return []
    inside, outside = (np.array([_odds(s) for s in part]) for part in (training, validation))
    difference = outside.mean() - inside.mean()
    error = inside.std(ddof=1) * np.sqrt(1 / len(inside) + 1 / len(outside))
    chance = float(2 * stdtr(len(inside) - 1, -abs(difference) / max(error, 1e-9)))
    if abs(difference) < np.log(UNLIKE) or chance > ALPHA:
        return []
    training, validation = float(np.mean(training)), float(np.mean(validation))
    return [
        Finding(
            "validation.unlike_test",
            "warning",
            f"{100 * validation:.1f} % of the labelled voxels of the validation volumes are "
            f"foreground, and {100 * training:.1f} % of the training volumes', which differ less "
            "among themselves.",
            {"validation_share": validation, "training_share": training, "chance": chance},
            "data.fold",
            "Choose volumes like those to predict for validation, by data.fold or data.split_seed.",
        )
    ]


def _by_scroll(examples):
    """Shares of foreground, the mean of each scroll; of each volume where none is known."""
    shares = {}
    for example in examples:
        shares.setdefault(example.group or example.id, []).append(foreground_share(example.label))
    return [float(np.mean(values)) for values in shares.values()]


def _odds(share):
    """Logarithm of the odds; shares of 0 and 1 count as one voxel in a million."""
    share = np.clip(share, 1e-6, 1 - 1e-6)
    return float(np.log(share / (1 - share)))


def _unlike_volumes(evidence):
    """Foreground of validation patches against that of their volumes, where patches choose."""
    by_loss = evidence.field("validate.metric") == "loss"
    if not by_loss or evidence.task.samples == evidence.task.wholes:
        return []
    sampler = evidence.task.validation
    labels = [sampler[number]["label"] for number in range(PATCHES)]
    patches = foreground_share(np.concatenate([label.ravel() for label in labels]))
    volumes = foreground_share(
        np.concatenate([example.label.ravel() for example in evidence.part("validation")])
    )
    ratio = float(np.exp(_odds(patches) - _odds(volumes)))
    unlike = max(ratio, 1 / ratio)
    if unlike < NOTABLE or not volumes:
        return []
    return [
        Finding(
            "validation.unlike_test",
            "warning" if unlike >= UNLIKE else "note",
            f"The loss that chooses the checkpoint is that of validation patches with "
            f"{100 * patches:.1f} % of foreground, while their volumes hold "
            f"{100 * volumes:.1f} %.",
            {
                "patch_share": float(patches),
                "volume_share": float(volumes),
                "odds_ratio": ratio,
            },
            "validate.metric",
            "Set validate.metric to 'dice', which is measured on whole volumes.",
        )
    ]


def find_unlike_run(evidence):
    """What the choice by the loss of patches cost, and steps tuned for another checkpoint."""
    return [*_regretted(evidence), *_stale(evidence)]


def _regretted(evidence):
    """The Dice of the judged epoch with the lowest loss, against the highest Dice."""
    judged = [one for one in evidence.epochs if "volumes" in one and "validation" in one]
    judged = [one for one in judged if one["epoch"] >= evidence.stage.first]
    if evidence.field("validate.metric") != "loss" or len(judged) < FEWEST:
        return []
    dice = np.array([one["volumes"]["dice"] for one in judged])
    chosen = int(np.argmin([one["validation"]["loss"] for one in judged]))
    best = int(dice.argmax())
    regret = float(dice[best] - dice[chosen])
    if regret < max(WORTH, CLEAR * scatter(dice)):
        return []
    return [
        Finding(
            "validation.unlike_test",
            "warning",
            f"The loss of patches prefers epoch {judged[chosen]['epoch']} with a Dice of "
            f"{dice[chosen]:.3f} on whole volumes to epoch {judged[best]['epoch']} with "
            f"{dice[best]:.3f}.",
            {
                "dice_of_lowest_loss": float(dice[chosen]),
                "highest_dice": float(dice[best]),
                "scatter": scatter(dice),
            },
            "validate.metric",
            "Set validate.metric to 'dice', which is measured on whole volumes.",
        )
    ]


def _stale(evidence):
    """Steps of post-processing that were chosen on the predictions of another checkpoint."""
    try:
        tuned = postprocess.read_steps(evidence.workdir)
    except ValueError:
        return []
    step = (evidence.run.chosen or {}).get("checkpoint_step")
    best = evidence.run.scores.get("raw", {}).get("step")
    if not tuned or None in (step, best) or step == best:
        return []
    return [
        Finding(
            "validation.unlike_test",
            "note",
            f"The steps of post-processing were chosen for checkpoint {step}, but checkpoint "
            f"{best} is the best and makes the predictions.",
            {"chosen_for": step, "best": best},
            "postprocess.json",
            "Run jax_seg.tune again.",
        )
    ]


CHECKS = (
    Check(("validation.noisy",), find_noisy, quick=True),
    Check(("validation.unlike_test",), find_unlike, quick=True),
    Check(("validation.noisy",), find_noisy_run, needs="run"),
    Check(("validation.unlike_test",), find_unlike_run, needs="run"),
)
