"""Write a report on one or more runs as a self-contained HTML page.

python -m jax_seg.report WORKDIR [WORKDIR…] [--output report.html]
"""

import argparse
import sys
from pathlib import Path

from jax_seg.report.page import write_page
from jax_seg.runs.data_folders import data_folders
from jax_seg.runs.run import open_run
from jax_seg.system.commands import exit_status
from jax_seg.system.outputs import require_file
from jax_seg.system.program import program


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("report"),
        description="Report on one training run, or several side by side, in one HTML file.",
    )
    parser.add_argument("workdirs", metavar="WORKDIR", nargs="+", type=Path, help="folder of a run")
    parser.add_argument(
        "--output",
        type=Path,
        help="HTML file to write (default: report.html in the first WORKDIR)",
    )
    arguments = parser.parse_args(argv)
    output = arguments.output or arguments.workdirs[0] / "report.html"
    return exit_status(lambda: _report(arguments.workdirs, output))


def _report(workdirs, output):
    runs = [open_run(workdir, required=False) for workdir in workdirs]
    inputs = [folder for run in runs for folder in data_folders(run.fields, run.workdir)]
    require_file(output, "report", inside=inputs)
    write_page(workdirs, output)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
