"""Class balance: foreground predicted against labelled, and what a constant answer would score."""

import numpy as np

from jax_seg.metrics.segmentation import Confusion, scores

BACKGROUND_TARGET = (0.3, 0.7)  # share of the labelled voxels
CONSTANTS = {"all_foreground": "foreground everywhere", "all_background": "background everywhere"}
JUDGED = {"dice": "Dice", "iou": "IoU", "accuracy": "accuracy", "score": "competition"}


def class_balance(counts, target=BACKGROUND_TARGET, bins=10, competition=None, noun="volume"):
    """How much foreground is predicted, how much is labelled, and whether a constant does as well.

    Args:
      counts: {volume id: Confusion}, of at least one volume.
      target: (lowest, highest) share of background that is aimed at.
      bins: of the histograms, equal parts of [0, 1].
      competition: {'model', 'all_foreground', 'all_background': mean competition score}, or None.
      noun: what the remarks call a volume.

    Returns:
      dict of JSON types. volumes {id: …} and pooled: predicted and labelled, the shares of
      foreground among the labelled voxels; over_estimation, their difference in percentage points;
      within_target, whether the predicted background meets the target. histogram: edges, and how
      many volumes' shares lie between them, predicted and labelled. constants: pooled and mean
      over volumes, {model, all_foreground, all_background: overlap scores}. remarks: sentences.
    """
    volumes = {name: _shares(c, target) for name, c in counts.items()}
    pooled = _shares(sum(counts.values()), target)
    compared = constant_scores(counts.values())
    for answer, value in (competition or {}).items():
        compared["mean"][answer]["score"] = value
    return {
        "volumes": volumes,
        "pooled": pooled,
        "histogram": _histogram(volumes.values(), bins),
        "target": list(target),
        "constants": compared,
        "remarks": [
            _remark_on_amount(volumes, pooled),
            _remark_on_target(volumes, pooled, target, noun),
            *_remarks_on_constants(compared, noun),
        ],
    }


def constant_scores(counts):
    """Overlap scores of the model and of the two predictors that look at nothing.

    Args:
      counts: iterable of Confusion, one per volume.

    Returns:
      {'pooled' and 'mean': {'model', 'all_foreground' and 'all_background': dict of `scores`}}.
    """
    counts = list(counts)
    answers = {
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
        "pooled": {name: scores(sum(answer)) for name, answer in answers.items()},
        "mean": {name: _mean([scores(c) for c in answer]) for name, answer in answers.items()},
    }


def _shares(counts, target):
    found = scores(counts)
    predicted, labelled = found["foreground_predicted"], found["foreground_label"]
    return {
        "predicted": predicted,
        "labelled": labelled,
        "over_estimation": 100 * (predicted - labelled),
        "within_target": bool(target[0] <= 1 - predicted <= target[1]),
    }


def _histogram(volumes, bins):
    edges = np.linspace(0, 1, bins + 1)
    sides = {
        side: np.histogram([v[side] for v in volumes], edges)[0].tolist()
        for side in ("predicted", "labelled")
    }
    return {"edges": edges.tolist(), **sides}


def _mean(rows):
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _remark_on_amount(volumes, pooled):
    points = pooled["over_estimation"]
    sides = (
        f"{100 * pooled['predicted']:.2f} % predicted, {100 * pooled['labelled']:.2f} % labelled"
    )
    worst = max(volumes, key=lambda name: abs(volumes[name]["over_estimation"]))
    furthest = f"furthest off is {worst}, by {volumes[worst]['over_estimation']:+.2f}"
    direction = "over" if points >= 0 else "under"
    return (
        f"Foreground is {direction}-estimated by {abs(points):.2f} percentage points ({sides}); "
        f"{furthest}."
    )


def _remark_on_target(volumes, pooled, target, noun):
    low, high = target
    within = sum(volume["within_target"] for volume in volumes.values())
    remark = (
        f"Predicted background is {100 * (1 - pooled['predicted']):.2f} %, "
        f"{'within' if pooled['within_target'] else 'outside'} the target of {100 * low:g} to "
        f"{100 * high:g} % ({within} of {len(volumes)} {noun}s are within)"
    )
    labelled = 1 - pooled["labelled"]
    if not low <= labelled <= high:
        remark += f"; the labels' own {100 * labelled:.2f} % is outside: choose another target"
    return remark + "."


def _remarks_on_constants(compared, noun):
    remarks = []
    for kind, answers in compared.items():
        for key, name in JUDGED.items():
            if key not in answers["model"]:
                continue
            best = max(CONSTANTS, key=lambda constant: answers[constant][key])
            if answers["model"][key] <= answers[best][key]:
                remarks.append(
                    f"The model is no better than a constant: its {kind} {name} score is "
                    f"{answers['model'][key]:.4f}, that of {CONSTANTS[best]} "
                    f"{answers[best][key]:.4f}."
                )
    judged = [name for key, name in JUDGED.items() if key in compared["mean"]["model"]]
    return remarks or [
        "The model is better than both constant predictors in "
        f"{', '.join(judged)}, pooled and in the mean over {noun}s."
    ]
