"""The page's charts as JSON types; `charts.js` draws them.

A chart is {'kind': 'line', 'bars' or 'heat', 'title', 'x' and 'y': {'label', …}, …}; see the
functions. A series' 'color' is a colour's number: the run's where several are compared, else the
series' own.
"""

from jax_seg.metrics import threshold
from jax_seg.metrics.balance import class_balance
from jax_seg.report import milestones
from jax_seg.runs.run import confusions, noun, shared
from jax_seg.tasks.judged import TRAINING

WEIGHTS = ("", "swa", "ema")
CURVES = (
    ("train", "training", "6 4"),
    ("validation", "validation", ""),
    ("validation swa", "SWA", "2 3"),
    ("validation ema", "EMA", "9 3 2 3"),
)
NO_TERMS = {"kind", "step", "epoch", "loss", "standard_error", "volumes"}
OVERLAP = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall"}
GREY = 7  # the last colour
SHARE_BINS = 50  # of the foreground histogram, over [0, 1]


def learning(runs):
    """The loss and each of its components against the epoch, and the scores of whole volumes.

    Args:
      runs: list of `runs.run.Run`.

    Returns:
      List of charts; empty without events.
    """
    terms = {
        name: None
        for run in runs
        for e in run.of_kind("validation")
        for name in e.keys() - NO_TERMS
    }
    charts = []
    for term in ("loss", *sorted(terms)):
        title = "Loss" if term == "loss" else f"Component: {_words(term)}"
        label = "weighted sum" if term == "loss" else "unweighted value"
        series = [
            _series(runs, r, k, name + aside, [(e["epoch"], e.get(term)) for e in events], dash)
            | (_band(events) if (term, kind) == ("loss", "validation") else {})
            for r, run in enumerate(runs)
            for k, (kind, name, dash) in enumerate(CURVES)
            if (events := run.of_kind(kind))
            for aside in [_aside(run) if kind.startswith("validation") else ""]
        ]
        charts.append(_over_epochs(runs, title, series, {"label": label}))
    keys = ("dice",) if len(runs) > 1 else ("dice", "precision", "recall")
    kinds = {run.judged_on.name(noun(runs)) for run in runs}
    mixed = len(kinds) > 1
    series = [
        _series(
            runs,
            r,
            k,
            f"{OVERLAP[key]}{' ' * bool(weights)}{weights.upper()}"
            + (_aside(run) if mixed else ""),
            [(e["epoch"], e.get(key)) for e in events],
            CURVES[1 + w][2],
        )
        for r, run in enumerate(runs)
        for w, weights in enumerate(WEIGHTS)
        if (events := run.of_kind(f"volumes {weights}".strip()))
        for k, key in enumerate(keys)
    ]
    title = f"Whole {noun(runs) if mixed else kinds.pop()}s" + (": Dice" if len(runs) > 1 else "")
    charts.append(_over_epochs(runs, title, series, {"label": "score"}))
    for run in runs:
        charts += _gates(runs, run)
    return [chart for chart in charts if chart["series"]]


def _aside(run):
    """' (training volumes)' where the run is evaluated on those, else ''."""
    training = run.judged_on.volumes == TRAINING
    return f" ({run.judged_on.name(run.noun)}s)" if training else ""


def _gates(runs, run):
    """How often each expert is chosen at each level, and the entropy of the gates."""
    events, kinds = run.of_kind("train"), run.setting("model.experts", [])
    levels = [i for i in range(9) if any(f"gate_entropy_{i}" in event for event in events)]

    def chart(title, named, label):
        series = [
            _series([run], 0, k, name, [(e["epoch"], e.get(key)) for e in events])
            for k, (key, name) in enumerate(named)
        ]
        return _over_epochs([run], _title(runs, run, title), series, {"label": label, "zero": True})

    charts = [
        chart(
            f"Expert use at level {level}",
            [(f"expert_use_{level}_{k}", kind) for k, kind in enumerate(kinds)],
            "share of choices",
        )
        for level in levels
    ]
    entropies = [(f"gate_entropy_{level}", f"level {level}") for level in levels]
    return [*charts, *([chart("Gate entropy", entropies, "nats")] if levels else [])]


def optimization(runs):
    """Gradient norm with its clipping, learning rate and throughput against the epoch."""
    charts = []
    clips = [run.setting("optimizer.clip_norm") for run in runs]
    lines = [
        {"y": clip, "name": f"clipped above {clip:g}", "color": r}
        for r, clip in enumerate(clips)
        if clip and clip not in clips[:r]
    ]
    for key, title, label, options in (
        ("gradient_norm", "Gradient norm before clipping", "mean global norm", {"log": True}),
        ("clipped_share", "Clipped updates", "share of updates", {"percent": True, "zero": True}),
        ("learning_rate", "Learning rate", "learning rate", {"log": True}),
        ("patches_per_second", "Throughput", f"{samples(runs)} per second", {"zero": True}),
    ):
        series = [
            _series(runs, r, 0, "", [(e["epoch"], e.get(key)) for e in events])
            for r, events in enumerate(run.of_kind("train") for run in runs)
            if any(key in event for event in events)
        ]
        chart = _over_epochs(runs, title, series, {"label": label, **options})
        charts.append(chart | ({"lines": lines} if key == "gradient_norm" else {}))
    return [chart for chart in charts if chart["series"]]


def samples(runs):
    """What runs train on: 'images' where all of them are of images, else 'patches'."""
    return shared("SAMPLES", runs, otherwise="patches")


def foreground(runs):
    """Share of foreground, predicted against labelled: over all volumes, and one by one."""
    charts = []
    for r, run in enumerate(runs):
        if not run.volumes:
            continue
        histogram = class_balance(confusions(run), bins=SHARE_BINS)["histogram"]
        pairs = list(zip(histogram["predicted"], histogram["labelled"], strict=True))
        last = max(b for b, pair in enumerate(pairs) if any(pair)) + 1
        edges = [f"{100 * edge:g}" for edge in histogram["edges"]]
        charts.append(
            {
                "kind": "bars",
                "title": _title(
                    runs,
                    run,
                    f"{run.judged_on.mark(run.noun).capitalize()}s by share of foreground",
                ),
                "x": {"label": "foreground among labelled voxels, %"},
                "y": {"label": f"{run.noun}s", "integer": True, "zero": True},
                "categories": [f"{edges[b]}–{edges[b + 1]}" for b in range(last)],
                "series": [
                    {"name": side, "color": color, "values": histogram[side][:last]}
                    for side, color in (("predicted", r), ("labelled", GREY))
                ],
            }
        )
    series = [
        _series(
            runs,
            r,
            0,
            _aside(run) if len(runs) > 1 else f"one {run.judged_on.mark(run.noun)}",
            [(v["foreground_label"], v["foreground_predicted"], i) for i, v in run.volumes.items()],
        )
        | {"dots": True}
        for r, run in enumerate(runs)
        if run.volumes
    ]
    if series:
        charts.append(
            {
                "kind": "line",
                "title": "Predicted against labelled",
                "x": {"label": "labelled foreground", "percent": True},
                "y": {"label": "predicted foreground", "percent": True},
                "series": series,
                "diagonal": "predicted = labelled",
            }
        )
    return charts


def thresholds(runs):
    """Scores against threshold, precision against recall, hysteresis, calibration."""
    tuned = [(r, run) for r, run in enumerate(runs) if run.tuned]
    keys = ("dice",) if len(runs) > 1 else tuple(OVERLAP)
    curves, tradeoffs, grids, calibrations = [], [], [], []
    for r, run in tuned:
        rows = run.tuned.get("thresholds", [])
        for k, key in enumerate(keys):
            points = [(row["threshold"], row[key]) for row in rows]
            curves.append(_series(runs, r, k, OVERLAP[key], points))
        points = [
            (row["recall"], row["precision"], f"threshold {row['threshold']:g}") for row in rows
        ]
        tradeoffs.append(_series(runs, r, 0, "", points))
        if grid := run.tuned.get("hysteresis"):
            grids.append(
                {
                    "kind": "heat",
                    "title": _title(runs, run, "Hysteresis: Dice"),
                    "x": {"label": "high threshold"},
                    "y": {"label": "low threshold"},
                    "cells": [[row["high"], row["low"], row["dice"]] for row in grid],
                }
            )
        if calibration := run.tuned.get("calibration"):
            error = calibration["expected_calibration_error"]
            points = [
                (b["probability"], b["foreground"], f"{b['voxels']:,} voxels")
                for b in calibration["bins"]
            ]
            name = f"calibration error {error:.3f}"
            calibrations.append(_series(runs, r, 0, name, points))
    used = [
        {
            "x": run.setting("validate.threshold", threshold.DEFAULT),
            "kind": "used",
            "name": f"threshold of {run.name}",
            "color": r,
        }
        for r, run in tuned
    ]
    charts = [
        *([_unit("Scores against threshold", "threshold", "score", curves, marks=used)]),
        *([_unit("Precision against recall", "recall", "precision", tradeoffs)]),
        *grids,
        _unit(
            "Calibration",
            "predicted probability",
            "labelled foreground",
            calibrations,
            diagonal="perfectly calibrated",
        ),
    ]
    return [chart for chart in charts if chart.get("series") or chart.get("cells")]


def _over_epochs(runs, title, series, y):
    regions = [
        {"from": first - 0.5, "to": last - 0.5, "name": "warm-up"}
        for first, last in (milestones.warm_ups(runs[0]) if len(runs) == 1 else [])
    ]
    return {
        "kind": "line",
        "title": title,
        "x": {"label": "epoch", "integer": True},
        "y": y,
        "series": series,
        "regions": regions,
        "marks": [m for r, run in enumerate(runs) for m in milestones.marks(run, r)],
    }


def _unit(title, x, y, series, **more):
    unit = {"min": 0, "max": 1}
    axes = {"x": {"label": x, **unit}, "y": {"label": y, **unit}}
    return {"kind": "line", "title": title, **axes, "series": series, **more}


def _series(runs, r, k, name, points, dash=""):
    several = len(runs) > 1
    return {
        "name": ": ".join(filter(None, [runs[r].name, name])) if several else name,
        "color": r if several else k,
        "dash": dash,
        "points": [list(point) for point in points],
    }


def _band(events):
    errors = [event.get("standard_error") or 0.0 for event in events]
    return {"band": errors} if any(errors) else {}


def _title(runs, run, title):
    return f"{title} · {run.name}" if len(runs) > 1 else title


def _words(name):
    return name.replace("_", " ")
