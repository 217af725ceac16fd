"""Plant faults and examine healthy set-ups, and print what the doctor finds:

python -m benchmarks.doctor [--output docs/doctor_table.md] [--only loss.] [--seed 0]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.doctor import healthy
from benchmarks.doctor.faults import FAULTS
from benchmarks.doctor.setups import scrolls, train
from jax_seg.diagnosis.evidence import Evidence, of_run
from jax_seg.diagnosis.examine import examine
from jax_seg.system import startup


class Row(NamedTuple):
    """One examination: `place` of the cause among the distinct findings, from 1; None if absent."""

    cause: str
    says: str
    place: int | None
    findings: list
    seconds: float


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor", description=__doc__)
    parser.add_argument("--only", default="", help="plant only causes that begin with this")
    parser.add_argument("--healthy", action="store_true", help="examine the healthy set-ups alone")
    parser.add_argument("--faults", action="store_true", help="plant the faults alone")
    parser.add_argument("--seed", type=int, default=0, help="of data and magnitudes")
    parser.add_argument("--keep", type=Path, help="folder that keeps finished runs for next time")
    parser.add_argument("--output", type=Path, help="write the tables to this file, as Markdown")
    arguments = parser.parse_args(argv)
    startup.prepare()
    with tempfile.TemporaryDirectory() as folder:
        kept = arguments.keep or Path(folder) / "kept"
        planted = [] if arguments.healthy else _plant(arguments, Path(folder), kept)
        well = [] if arguments.faults or arguments.only else _well(Path(folder), kept)
    text = table(planted, well)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    return 0


def _plant(arguments, folder, kept):
    rows = []
    for number, fault in enumerate(FAULTS):
        if not fault.cause.startswith(arguments.only):
            continue
        generator = np.random.default_rng([arguments.seed, number])
        start = fault.start or scrolls
        setup = fault.plant(start(folder / f"fault{number}", arguments.seed), generator)
        report = _examine(setup._replace(trains=fault.trains or setup.trains), kept)
        found = list(dict.fromkeys(finding.name for finding in report.findings))
        place = found.index(fault.cause) + 1 if fault.cause in found else None
        rows.append(Row(fault.cause, fault.says, place, report.findings, report.seconds))
        print(f"{fault.cause}: {fault.says}: place {place} of {', '.join(found)}", flush=True)
    return rows


def _well(folder, kept):
    rows = []
    for name, start in healthy.SETUPS.items():
        began = time.monotonic()
        setup = start(folder / f"healthy {name}")
        if setup is None:
            print(f"{name}: omitted, since its data are not here", flush=True)
            continue
        report = _examine(setup, kept)
        alarms = [f for f in report.findings if f.severity != "note"]
        rows.append(Row("", name, None, alarms, report.seconds))
        print(f"{name}: {[f.name for f in alarms]}, {time.monotonic() - began:.0f} s", flush=True)
    return rows


def _examine(setup, kept):
    if setup.trains:
        return examine(of_run(train(setup, kept)))
    return examine(Evidence(setup.config))


def table(planted, well):
    """The tables of planted faults and healthy set-ups, as Markdown."""
    lines = []
    if planted:
        found = [row for row in planted if row.place]
        first = [row for row in found if row.place <= 2]
        lines += ["| cause | planted | place | also found | seconds |", "|---|---|---|---|---|"]
        for row in planted:
            others = dict.fromkeys(f.name for f in row.findings if f.name != row.cause)
            lines.append(
                f"| {row.cause} | {row.says} | {row.place or 'not found'} | {', '.join(others)} | "
                f"{row.seconds:.1f} |"
            )
        lines += [
            "",
            f"{len(planted)} faults planted, {len(found)} found "
            f"({100 * len(found) / len(planted):.0f} %), {len(first)} as the first or second "
            f"finding ({100 * len(first) / len(planted):.0f} %).",
            "",
        ]
    if well:
        lines += ["| healthy set-up | errors | warnings | seconds |", "|---|---|---|---|"]
        for row in well:
            of = {
                kind: [f.name for f in row.findings if f.severity == kind]
                for kind in ("error", "warning")
            }
            lines.append(
                f"| {row.says} | {', '.join(of['error']) or '–'} | "
                f"{', '.join(of['warning']) or '–'} | {row.seconds:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
