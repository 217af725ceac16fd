"""Checks that cost nothing, on the figures of the epochs of a run under way."""

from jax_seg.diagnosis import control, figures
from jax_seg.diagnosis.evidence import by_epoch
from jax_seg.diagnosis.finding import Skipped, ordered
from jax_seg.runs.events import read_events

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
    """The findings that hold now and that no event of the run has reported."""
    events = read_events(workdir)
    said = {event["name"] for event in events if event["kind"] == "finding"}
    epochs, found = by_epoch(events), []
    if not epochs:
        return []
    for check in CHECKS:
        try:
            found += check(epochs, settings)
        except Skipped:
            continue
    return [finding for finding in ordered(found) if finding.name not in said]
