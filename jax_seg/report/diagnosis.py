"""What `jax_seg.doctor` found in the runs, as HTML; '' where nothing was examined."""

from html import escape

from jax_seg.metrics.segmentation import counted
from jax_seg.report import markup, sections
from jax_seg.report.markup import word


def findings(run):
    """The findings of the last examination, and those that the run reported since, as dicts."""
    found = list((run.examined or {}).get("findings", []))
    names = {finding["name"] for finding in found}
    return found + [event for event in run.of_kind("finding") if event["name"] not in names]


def section(runs, drawn):
    """Each finding with its numbers, advice and field; what was not looked for."""
    parts = [
        f"<div>{markup.heading(runs, color)}{_of_run(run)}</div>"
        for color, run in enumerate(runs)
        if run.examined or findings(run)
    ]
    if not parts:
        return ""
    return "".join(parts) + sections.charted("diagnosis", drawn)


def _of_run(run):
    found = findings(run)
    rows = [
        [
            word(finding["severity"]),
            f"<td>{markup.code(finding['name'])}</td>",
            f"<td>{markup.sentence(finding['says'])}</td>",
            f"<td>{markup.sentence(finding['advice'])}</td>",
            markup.code_cell(finding["field"]),
        ]
        for finding in found
    ]
    heads = markup.word_heads("Severity", "Cause", "Measured", "Advice", "Where")
    return (markup.table(heads, rows) if rows else "") + _extent(run)


def _extent(run):
    """A sentence on what was examined; the rest is listed when unfolded."""
    if not run.examined:
        return ""
    checked, skipped = run.examined["checked"], run.examined["skipped"]
    found = {finding["name"] for finding in findings(run)}
    ruled_out = len(set(checked) - found)
    others = counted(ruled_out, "other cause" if found else "cause")
    verb = "was" if ruled_out == 1 else "were"
    text = f"<p>{others} {verb} looked for and not found.</p>"
    if skipped:
        reasons = "".join(
            f"<li>{markup.code(name)}: {escape(why)}</li>" for name, why in skipped.items()
        )
        text += markup.details(f"{len(skipped)} were not looked for", f"<ul>{reasons}</ul>")
    return text


def charts(runs):
    """The charts of the findings that have a picture, see `charts` beside this file."""
    found = []
    for run in runs:
        for finding in findings(run):
            if picture := finding.get("picture"):
                name = finding["name"] + (f" · {run.name}" if len(runs) > 1 else "")
                found.append(DRAW[picture["kind"]](picture) | {"title": name})
    return found


def _answer(picture):
    points = zip(picture["probability"], picture["preferred"], strict=True)
    unit = {"min": 0, "max": 1}
    return {
        "kind": "line",
        "x": {"label": "share of the time that a voxel is foreground", **unit},
        "y": {"label": "answer with the lowest loss", **unit},
        "series": [
            {"name": "preferred", "color": 0, "dash": "", "points": [list(p) for p in points]}
        ],
        "diagonal": "answer = share",
    }


def _gradients(picture):
    series = [
        {"name": name, "color": color, "values": picture[key]}
        for color, (key, name) in enumerate((("start", "at the start"), ("now", "now")))
        if picture.get(key)
    ]
    return {
        "kind": "bars",
        "x": {"label": "loss term"},
        "y": {"label": "gradient norm, weighted", "zero": True},
        "categories": picture["terms"],
        "series": series,
    }


def _shifts(picture):
    return {
        "kind": "heat",
        "x": {"label": "shift along width, voxels"},
        "y": {"label": "shift along height, voxels"},
        "cells": picture["cells"],
    }


DRAW = {"answer": _answer, "gradients": _gradients, "shifts": _shifts}
"""{kind of a finding's picture: picture -> chart}."""
