"""The field's measures of camouflaged object detection, by its own evaluator, `pysodmetrics`.

A prediction is a grey map, scored at the size of the mask. As the evaluator does, each map is first
stretched to its own minimum and maximum.
"""

import importlib.util

import numpy as np

COLUMNS = {
    "s": "S",
    "e_mean": "mean E",
    "e_max": "max E",
    "e_adaptive": "adaptive E",
    "weighted_f": "weighted F",
    "mae": "MAE",
    "iou": "IoU",
}
"""Scores of `summary`, and their headings."""
ALL = "all"
UNNAMED = "–"
"""Super-class of images whose names give none."""


def require_evaluator():
    """Raise ValueError where pysodmetrics is not installed."""
    if importlib.util.find_spec("py_sod_metrics") is None:
        raise ValueError(
            "Scoring images needs the package pysodmetrics, which is not installed: pip install "
            "-c constraints.txt -e '.[images]'."
        )


def image_scores(prediction, mask):
    """Scores of one image.

    Args:
      prediction: uint8 [H, W], 255 where the object is certain.
      mask: bool [H, W], true on the object.

    Returns:
      dict: 's' the structure measure (Fan et al. 2017), 'e_curve' float64 [256] the enhanced
      alignment measure (Fan et al. 2018) at thresholds 255 … 0 and 'e_adaptive' at twice the mean,
      'mae', and where the mask has an object also 'weighted_f' (Margolin et al. 2014) and 'iou' at
      the threshold 1/2; without an object neither is defined.

    Raises:
      ValueError: the shapes differ or a type is wrong.
    """
    import py_sod_metrics  # of the extra 'images'

    prediction, mask = np.asarray(prediction), np.asarray(mask)
    if prediction.shape != mask.shape or prediction.ndim != 2:
        raise ValueError(
            f"The prediction has shape {prediction.shape} and the mask {mask.shape}: resize the "
            "prediction to the mask's height and width."
        )
    if prediction.dtype != np.uint8 or mask.dtype != bool:
        raise ValueError(
            f"The prediction is {prediction.dtype} and the mask {mask.dtype}: give uint8 and bool."
        )
    measures = {
        "s": py_sod_metrics.Smeasure(),
        "e": py_sod_metrics.Emeasure(),
        "mae": py_sod_metrics.MAE(),
    }
    if mask.any():
        measures["weighted_f"] = py_sod_metrics.WeightedFmeasure()
        iou = py_sod_metrics.IOUHandler(with_dynamic=False, with_adaptive=False, with_binary=True)
        measures["iou"] = py_sod_metrics.FmeasureV2({"iou": iou})
    found = {}
    for name, measure in measures.items():
        measure.step(prediction, mask.astype(np.uint8) * 255)
        found[name] = measure.get_results()
    scores = {
        "s": float(found["s"]["sm"]),
        "e_curve": found["e"]["em"]["curve"],
        "e_adaptive": float(found["e"]["em"]["adp"]),
        "mae": float(found["mae"]["mae"]),
    }
    if mask.any():
        scores["weighted_f"] = float(found["weighted_f"]["wfm"])
        scores["iou"] = float(found["iou"]["iou"]["binary"])
    return scores


def summary(scores):
    """Means over images, as the field publishes them.

    Args:
      scores: list of what `image_scores` returns, not empty.

    Returns:
      dict of floats, the keys of `COLUMNS`: 'e_mean' and 'e_max' are the mean and maximum over
      thresholds of the mean curve; 'weighted_f' and 'iou' are means over the images with an object,
      and missing where there is none. And 'images', their number.

    Raises:
      ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("There are no scores to average: evaluate at least one image.")
    curve = np.mean([one["e_curve"] for one in scores], axis=0)
    found = {"images": len(scores), "e_mean": float(curve.mean()), "e_max": float(curve.max())}
    for name in COLUMNS:
        if values := [one[name] for one in scores if name in one]:
            found[name] = float(np.mean(values))
    return found


def by_super_class(scores, super_classes):
    """`summary` of each super-class, by name in order, and of 'all'.

    Args:
      scores: list of what `image_scores` returns.
      super_classes: one name per image, such as 'Aquatic'.

    Returns:
      {name: summary}; 'all' is last.

    Raises:
      ValueError: the two have different lengths or are empty.
    """
    if len(scores) != len(super_classes):
        raise ValueError(
            f"There are {len(scores)} scores and {len(super_classes)} super-classes; give one "
            f"super-class per score."
        )
    groups = {}
    for name in sorted(set(super_classes)):
        members = zip(scores, super_classes, strict=True)
        groups[name] = summary([one for one, own in members if own == name])
    return groups | {ALL: summary(scores)}


def table(groups):
    """Lines of text, one per super-class of `by_super_class`; '–' where a score is not defined."""
    width = max(12, *(len(name) for name in groups))
    lines = ["  ".join([f"{'':{width}}", "images", *(f"{h:>10}" for h in COLUMNS.values())])]
    for name, found in groups.items():
        cells = [f"{found[key]:.4f}" if key in found else "–" for key in COLUMNS]
        cells = [f"{name:{width}}", f"{found['images']:6}", *(f"{cell:>10}" for cell in cells)]
        lines.append("  ".join(cells))
    return "\n".join(lines)
