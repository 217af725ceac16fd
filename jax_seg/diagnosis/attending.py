"""Examine a run before and after each epoch: what `launch.py` passes to `training.run`."""

from typing import NamedTuple

from jax_seg.data.labels import class_names
from jax_seg.diagnosis import watch
from jax_seg.diagnosis.evidence import of_config
from jax_seg.diagnosis.examine import examine
from jax_seg.system import configuration
from jax_seg.system.files import write_json
from jax_seg.system.outputs import marked

FILE = "doctor.json"  # in the workdir: the last examination


class Doctor(NamedTuple):
    """Attends a run.

    Attributes:
      strict: whether an error before the run stops it.
    """

    strict: bool = False

    def before(self, run):
        """Run the quick checks on a `training.start.Run` that begins; log errors and warnings.

        A check that fails is logged, and the run starts.

        Raises:
          ValueError: an error was found, and `strict` is on.
        """
        given = {"settings": run.settings, "task": run.data}
        if run.settings.devices.processes == 1:  # else the others would have to run them too
            given["programs"] = run.programs
        config = configuration.from_dict(run.to_store["config"])
        if "cache" in config.data:
            # Where the task is prepared anew, for one of several classes, it finds what is decoded.
            config.data.cache = config.data.cache or str(run.workdir / "cache")
        evidence = of_config(config, quick=True, given=given)
        try:
            report = examine(evidence)
        except (ValueError, OSError) as error:
            if not evidence.of_classes:
                raise
            (run.workdir / FILE).unlink(missing_ok=True)  # of an earlier start
            run.journal.warn(
                f"Warning: The run starts unexamined: of several classes the doctor looks at "
                f"{class_names(evidence.of_classes)[0]} alone, and then finds that {error}"
            )
            return
        store(report, run.workdir)
        if evidence.reservation and report.findings:
            run.journal.warn(evidence.reservation)
        for finding in report.findings:
            if finding.severity != "note":
                run.journal.warn(in_one_line(finding))
        for cause, why in report.failed.items():
            run.journal.warn(f"Warning: {cause} is not ruled out, since {why}.")
        if self.strict and report.errors:
            raise ValueError(
                f"{report.errors[0].name}: {report.errors[0].says} To start anyway, pass "
                "--doctor=on."
            )

    def after_epoch(self, run, state, progress):
        """Judge the figures of the epochs so far; each cause is reported once."""
        for finding in watch.new_findings(run.workdir, run.settings):
            run.journal.warn(in_one_line(finding))
            run.journal.event(
                "finding", step=int(state.step), epoch=progress.epoch, **finding.as_json()
            )


def in_one_line(finding):
    """'Warning: optimizer.clipped - ….': a finding for the log."""
    return (
        f"{finding.severity.capitalize()}: {finding.name} - {finding.says} {finding.advice} "
        f"({finding.field})"
    )


def store(report, workdir):
    """Write a `Report` into the folder of a run, with its pictures, for the page."""
    content = report.as_json()
    content["findings"] = [finding._asdict() for finding in report.findings]
    write_json(workdir / FILE, marked(content, "doctor"))
