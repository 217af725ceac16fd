"""List the checkpoints of a run:  python -m jax_seg.checkpoint WORKDIR"""

import argparse
import sys
from pathlib import Path

from jax_seg.runs import checkpoints
from jax_seg.system import startup
from jax_seg.system.program import program


def main(argv=None):
    """List the checkpoints of a run."""
    parser = argparse.ArgumentParser(prog=program("checkpoint"), description=main.__doc__)
    parser.add_argument("workdir", type=Path)
    startup.prepare()
    try:
        manager = checkpoints.open_for_reading(parser.parse_args(argv).workdir)
    except FileNotFoundError as error:
        sys.exit(f"Error: {error}")
    best = manager.best_step()
    for step in sorted(manager.all_steps()):
        loop = checkpoints.read_loop(manager, step)
        metrics = manager.metrics(step) or {}
        figures = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        mark = "  ← best" if step == best else ""
        print(f"step {step}  epoch {loop['epoch']}  {figures}  code {loop['code_version']}{mark}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
