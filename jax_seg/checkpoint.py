"""List the checkpoints of a run:  python -m jax_seg.checkpoint WORKDIR"""

import argparse
import sys
from pathlib import Path

from jax_seg.runs import checkpoints
from jax_seg.system import startup
from jax_seg.system.commands import exit_status
from jax_seg.system.program import program
from jax_seg.tasks import judged


def main(argv=None):
    """List the checkpoints of a run and warn about damaged ones."""
    parser = argparse.ArgumentParser(prog=program("checkpoint"), description=main.__doc__)
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="folder of the training run")
    arguments = parser.parse_args(argv)
    startup.prepare()
    return exit_status(lambda: _list(arguments.workdir))


def _list(workdir):
    saved = checkpoints.open_for_reading(workdir)
    saved.skip_damaged()
    best = saved.resolve("best")
    for step, one in saved.found().items():
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in (one.metrics or {}).items())
        mark = "  ← best" if one.metrics and step == best else ""
        mark += judged.of_stored(one.loop).suffix() if one.metrics else ""
        print(
            f"step {step}  epoch {one.loop['epoch']}  {metrics}  "
            f"code {one.loop['code_version']}{mark}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
