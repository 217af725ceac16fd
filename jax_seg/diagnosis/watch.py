"""Checks that cost nothing, on the figures of the epochs of a run under way."""

import json
from pathlib import Path

from jax_seg.diagnosis import control, figures
from jax_seg.diagnosis.evidence import by_epoch
from jax_seg.diagnosis.finding import Skipped, ordered
from jax_seg.runs import run as opened

CHECKS = (
    figures.clipped,
    figures.loss_rises,
    control.decided_on_noise,
    control.scaled_without_limit,
    figures.unavoidable_term,
    figures.vanished_gradient,
)
"""Functions (epochs, settings) -> list of Finding; `epochs` is of `evidence.by_epoch`."""


def new_findings(workdir, settings):
    """The findings that hold now and that neither an event nor an examination has reported."""
    events = _events(workdir)
    said = {event["name"] for event in events if event["kind"] == "finding"} | _examined(workdir)
    epochs, found = by_epoch(events), []
    if not epochs:
        return []
    for check in CHECKS:
        try:
            found += check(epochs, settings)
        except Skipped:
            continue
    return [finding for finding in ordered(found) if finding.name not in said]


def _events(workdir):
    """The events that this run has written, except those of updates: there may be very many."""
    path = Path(workdir) / "events.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if b'"kind": "update"' not in line]


def _examined(workdir):
    """Names of what the last examination found; none where its file is damaged."""
    try:
        run = opened.open_run(workdir, required=False)
        return {finding["name"] for finding in (run.examined or {}).get("findings", ())}
    except ValueError:
        return set()
