"""Run the checks on a configuration or a run, and put what they find in order."""

import contextlib
import logging
import time
from typing import NamedTuple

from jax_seg.diagnosis import (
    augmentation,
    control,
    figures,
    judging,
    labels,
    loss,
    network,
    optimization,
    predictions,
    preprocessing,
    sampling,
    schedules,
    validation,
    volumes,
)
from jax_seg.diagnosis.finding import Skipped, ordered

FAMILIES = (
    *(labels, volumes, sampling, augmentation, preprocessing, loss),
    *(schedules, optimization, control, figures, network),
    *(validation, judging, predictions),
)
CHECKS = tuple(check for family in FAMILIES for check in family.CHECKS)
_LOG = logging.getLogger("jax_seg")


class Report(NamedTuple):
    """What an examination found.

    Attributes:
      findings: list of Finding, in order.
      checked: names of the causes that were looked for.
      skipped: {name of a cause: why it was not looked for}.
      failed: {name of a check's first cause: the error that ended the check}.
      seconds: that it took.
      took: {name of a check's first cause: its seconds}.
    """

    findings: list
    checked: list
    skipped: dict
    failed: dict
    seconds: float
    took: dict

    @property
    def errors(self):
        """The findings that are errors."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def as_json(self):
        """{'findings', 'checked', 'skipped', 'seconds'}."""
        return {
            "findings": [finding.as_json() for finding in self.findings],
            "checked": self.checked,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 2),
        }


def examine(evidence, checks=None):
    """Run checks on `Evidence`: the quick ones if it is quick, those of runs if it has one.

    An error in a check ends that check alone.

    Args:
      evidence: Evidence.
      checks: of `Check`; None for all.

    Returns:
      Report.

    Raises:
      ValueError, OSError: the configuration or the data cannot be trained on.
    """
    started = time.monotonic()
    evidence.settings, evidence.task  # noqa: B018  what cannot be trained on is refused first
    with contextlib.suppress(Skipped):  # the checkpoints cannot be read
        evidence.programs  # noqa: B018
    findings, checked, skipped, failed, took = [], [], {}, {}, {}
    for check in CHECKS if checks is None else checks:
        if why := _not_now(check, evidence):
            skipped |= dict.fromkeys(check.causes, why)
            continue
        began = time.monotonic()
        try:
            findings += check.find(evidence)
            checked += check.causes
        except Skipped as why:
            skipped |= dict.fromkeys(check.causes, str(why))
        except Exception as error:
            _LOG.debug("A check failed.", exc_info=True)
            why = f"the check failed ({type(error).__name__}: {error})"
            failed[check.causes[0]] = why
            skipped |= dict.fromkeys(check.causes, why)
        took[check.causes[0]] = time.monotonic() - began
    skipped = {name: why for name, why in skipped.items() if name not in checked}
    checked = list(dict.fromkeys(checked))
    return Report(ordered(findings), checked, skipped, failed, time.monotonic() - started, took)


def _not_now(check, evidence):
    """Why a check does not run, or ''."""
    if why := check.not_for.get(evidence.settings.kind.NOUN):
        return why
    if check.needs == "run" and not evidence.workdir:
        return "there is no run yet"
    if evidence.quick and not check.quick:
        return "it takes longer than a quick examination"
    return ""
