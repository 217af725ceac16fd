"""Say why a network does not learn, before a run or after it, with the numbers that prove it.

    python -m jax_seg.doctor --config configs/v6.py --config.data.root=FOLDER
    python -m jax_seg.doctor --workdir RUN [--json findings.json] [--quick]

The exit status is 0 without errors, 1 with errors, and 2 where nothing could be examined.
"""

import argparse
import sys
import textwrap
from pathlib import Path

from jax_seg.system import config_file, configuration, outputs, startup
from jax_seg.system.commands import exit_status
from jax_seg.system.files import write_json
from jax_seg.system.program import program

CANNOT = 2  # exit status where nothing could be examined


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("doctor"),
        description="Say why a network does not learn: examine a configuration with its data, or "
        "a run that has finished, stopped or is under way.",
        epilog="Fields of the configuration are set as with launch.py: --config.data.root=FOLDER.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="FILE", help="configuration, such as configs/v6.py:demo")
    what.add_argument("--workdir", type=Path, help="folder of a run")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the findings to this file")
    parser.add_argument(
        "--quick", action="store_true", help="run only the checks that take seconds"
    )
    arguments, rest = parser.parse_known_args(argv)
    return exit_status(lambda: _doctor(arguments, rest), failed=CANNOT)


def _doctor(arguments, rest):
    overrides = dict(configuration.parse_override(text) for text in rest)
    if overrides and not arguments.config:
        raise ValueError(f"{rest[0]} needs --config: a run is examined as it was configured.")
    if arguments.json:
        outputs.require_file(arguments.json, "doctor", flag="--json")
    return _examine(arguments, overrides)


def _examine(arguments, overrides):
    # Imported late because JAX takes seconds to start.
    from jax_seg.diagnosis import attending
    from jax_seg.diagnosis.evidence import of_config, of_run
    from jax_seg.diagnosis.examine import examine
    from jax_seg.planning import planned
    from jax_seg.runs.data_folders import data_folders

    startup.prepare()
    if arguments.config:
        config = config_file.load(arguments.config)
        planned.fill(config, configuration.override(config, overrides))
        evidence = of_config(config, quick=arguments.quick)
    else:
        evidence = of_run(arguments.workdir, quick=arguments.quick)
    if arguments.json:
        inputs = data_folders(evidence.fields, evidence.workdir)
        outputs.require_apart(arguments.json, inside=inputs, flag="--json")
    if evidence.workdir:
        outputs.require_own([evidence.workdir / attending.FILE], "doctor", "--workdir")
    report = examine(evidence)
    print(in_words(report))
    if evidence.reservation:
        print(evidence.reservation)
    if evidence.workdir:
        attending.store(report, evidence.workdir)
    if arguments.json:
        write_json(arguments.json, outputs.marked(report.as_json(), "doctor"))
    return 1 if report.errors else 0


def in_words(report):
    """The findings as text: each with its advice, then one line that lists them in order."""
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.severity.upper()} {finding.name} ({finding.field})")
        for text in (finding.says, f"→ {finding.advice}"):
            lines += textwrap.wrap(
                text, 98, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
        lines.append("")
    lines += [f"Warning: {cause}: {why}" for cause, why in report.failed.items()]
    lines.append(
        f"Checked {len(report.checked)} causes in {report.seconds:.0f} s"
        + (f", skipped {len(report.skipped)}." if report.skipped else ".")
    )
    names = ", ".join(dict.fromkeys(finding.name for finding in report.findings))
    lines.append(f"Found, in order: {names}." if names else "Found nothing.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
