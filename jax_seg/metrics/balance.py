"""Class balance: predicted against labelled foreground, and the scores of constant predictors."""

import numpy as np

from jax_seg.metrics.segmentation import Confusion, counted, scores

CONSTANTS = {"all_foreground": "foreground everywhere", "all_background": "background everywhere"}
SHOWN = {"dice": "Dice", "iou": "IoU", "accuracy": "accuracy", "score": "competition"}
"""Scores compared with those of the constants."""
DECISIVE = ("dice", "iou", "score")
"""The scores by which a model may be called no better than a constant.

Accuracy is not one: where foreground is rare, background everywhere scores near 1.
"""


def require_target(target, name):
    """Raise a ValueError that names the flag or field unless `target` is two increasing shares."""
    if len(target) != 2 or not 0 <= target[0] <= target[1] <= 1:
        raise ValueError(
            f"{name} is {' '.join(map(str, target))}; give two increasing shares in [0, 1]."
        )


def class_balance(counts, target=None, bins=10, competition=None, noun="volume"):
    """Compare predicted with labelled foreground, and the model with constant predictors.

    Args:
      counts: {volume id: Confusion}, of at least one volume.
      target: (lowest, highest) share of background to aim at; None uses the labels' own share as
        the reference.
      bins: of the histograms, equal parts of [0, 1].
      competition: {'model', 'all_foreground', 'all_background': mean competition score}, or None.
      noun: what the remarks call a volume.

    Returns:
      dict of JSON types. volumes {id: …} and pooled: predicted and labelled, the shares of
      foreground among the labelled voxels; over_estimation, their difference in percentage points;
      with a target also within_target, whether the predicted background meets it. histogram: edges,
      and how many volumes' shares lie between them, predicted and labelled. target: the argument.
      constants: pooled and mean over volumes, {model, all_foreground, all_background: overlap
      scores}. better_than_constants: whether the model beats both in all of DECISIVE. remarks:
      sentences, see `remarks`.
    """
    volumes = {name: _shares(c, target) for name, c in counts.items()}
    compared = constant_scores(counts.values())
    for predictor, value in (competition or {}).items():
        compared["mean"][predictor]["score"] = value
    found = {
        "volumes": volumes,
        "pooled": _shares(sum(counts.values()), target),
        "histogram": _histogram(volumes.values(), bins),
        "target": None if target is None else list(target),
        "constants": compared,
        "better_than_constants": not any(_lost(compared)),
    }
    sentences = remarks(found, noun)
    return found | {
        "remarks": [*sentences["amount"], *sentences["target"], *sentences["constants"]]
    }


def constant_scores(counts):
    """Overlap scores of the model and of the two constant predictors.

    Args:
      counts: iterable of Confusion, one per volume.

    Returns:
      {'pooled' and 'mean': {'model', 'all_foreground' and 'all_background': dict of `scores`}}.
    """
    counts = list(counts)
    predictors = {
        "model": counts,
        "all_foreground": [
            Confusion(c.true_positive + c.false_negative, c.false_positive + c.true_negative, 0, 0)
            for c in counts
        ],
        "all_background": [
            Confusion(0, 0, c.true_positive + c.false_negative, c.false_positive + c.true_negative)
            for c in counts
        ],
    }
    return {
        "pooled": {name: scores(sum(each)) for name, each in predictors.items()},
        "mean": {name: _mean([scores(c) for c in each]) for name, each in predictors.items()},
    }


def remarks(found, noun="volume"):
    """What `class_balance` found, in words.

    Args:
      found: of `class_balance`.
      noun: what a volume is called.

    Returns:
      {'amount', 'target', 'constants': lists of sentences}; 'target' is empty without one.
    """
    return {
        "amount": [_on_amount(found["volumes"], found["pooled"], noun)],
        "target": [_on_target(found, noun)] if found["target"] else [],
        "constants": _on_constants(found["constants"], found["volumes"], noun),
    }


def _shares(counts, target):
    found = scores(counts)
    predicted, labelled = found["foreground_predicted"], found["foreground_label"]
    shares = {
        "predicted": predicted,
        "labelled": labelled,
        "over_estimation": 100 * (predicted - labelled),
    }
    if target is not None:
        shares["within_target"] = bool(target[0] <= 1 - predicted <= target[1])
    return shares


def _histogram(volumes, bins):
    edges = np.linspace(0, 1, bins + 1)
    sides = {
        side: np.histogram([v[side] for v in volumes], edges)[0].tolist()
        for side in ("predicted", "labelled")
    }
    return {"edges": edges.tolist(), **sides}


def _mean(rows):
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _on_amount(volumes, pooled, noun):
    points = pooled["over_estimation"]
    sides = (
        f"{100 * pooled['predicted']:.2f} % predicted, {100 * pooled['labelled']:.2f} % labelled"
    )
    worst = max(volumes, key=lambda name: abs(volumes[name]["over_estimation"]))
    largest = f"largest error {volumes[worst]['over_estimation']:+.2f} ({worst})"
    direction = "over" if points >= 0 else "under"
    return (
        f"Foreground is {direction}-estimated by {abs(points):.2f} percentage points ({sides}) on "
        f"{counted(len(volumes), noun)}; {largest}."
    )


def _on_target(found, noun):
    low, high = found["target"]
    pooled, volumes = found["pooled"], found["volumes"]
    within = sum(volume["within_target"] for volume in volumes.values())
    remark = (
        f"Predicted background is {100 * (1 - pooled['predicted']):.2f} %, "
        f"{'within' if pooled['within_target'] else 'outside'} the target of {100 * low:g} to "
        f"{100 * high:g} % ({within} of {counted(len(volumes), noun)} within)"
    )
    labelled = 1 - pooled["labelled"]
    if not low <= labelled <= high:
        remark += f"; the labels' own {100 * labelled:.2f} % is outside: choose another target"
    return remark + "."


def _lost(compared):
    """(pooled or mean, key of DECISIVE, best constant) for each score that a constant reaches."""
    for kind, predictors in compared.items():
        for key in DECISIVE:
            if key in predictors["model"]:
                best = _best_constant(predictors, key)
                if predictors["model"][key] <= predictors[best][key]:
                    yield kind, key, best


def _best_constant(predictors, key):
    return max(CONSTANTS, key=lambda constant: predictors[constant][key])


def _on_constants(compared, volumes, noun):
    lost = [
        f"The model is no better than a constant: its {kind} {SHOWN[key]} score is "
        f"{compared[kind]['model'][key]:.4f}, that of {CONSTANTS[best]} "
        f"{compared[kind][best][key]:.4f}{_why(kind, best, volumes, noun)}."
        for kind, key, best in _lost(compared)
    ]
    judged = [SHOWN[key] for key in DECISIVE if key in compared["mean"]["model"]]
    return lost or [
        "The model is better than both constant predictors in "
        f"{', '.join(judged)}, pooled and averaged over {noun}s.",
        *_on_accuracy(compared["pooled"]),
    ]


def _why(kind, best, volumes, noun):
    """Background everywhere scores 1 on volumes without foreground, and only there."""
    empty = sum(not volume["labelled"] for volume in volumes.values())
    if kind != "mean" or best != "all_background" or not empty:
        return ""
    return f" (without labelled foreground: {empty} of {counted(len(volumes), noun)})"


def _on_accuracy(predictors):
    """A warning, not a verdict: where one class is rare, the other's constant scores high."""
    best = _best_constant(predictors, "accuracy")
    model, constant = predictors["model"]["accuracy"], predictors[best]["accuracy"]
    if model > constant:
        return []
    kind = CONSTANTS[best].split()[0]
    return [
        f"Accuracy misleads here: {CONSTANTS[best]} reaches {constant:.4f} and the model "
        f"{model:.4f}, pooled, since {100 * constant:.2f} % of the labelled voxels are {kind}; "
        "judge by Dice or IoU."
    ]
