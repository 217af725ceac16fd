"""List the checkpoints of a run:  python -m jax_seg.checkpoint WORKDIR"""

import argparse
import sys
from pathlib import Path

from jax_seg.runs import checkpoints
from jax_seg.system import startup


def main(argv=None):
    """List the checkpoints of a run; damaged ones are named in warnings."""
    parser = argparse.ArgumentParser(prog="python -m jax_seg.checkpoint", description=main.__doc__)
    parser.add_argument("workdir", type=Path)
    arguments = parser.parse_args(argv)
    startup.prepare()
    try:
        manager = checkpoints.open_for_reading(arguments.workdir)
        lines = {step: _line(manager, step) for step in manager.all_steps()}
        if not any(lines.values()):
            raise manager.missing("latest")
        best = manager.best_step()
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    for step, line in lines.items():
        if line:
            print(line + ("  ← best" if step == best else ""))
    return 0


def _line(manager, step):
    """What there is to say of a checkpoint; None where it is damaged or replaced meanwhile."""
    if not manager.is_whole(step):
        return None
    try:
        loop, metrics = checkpoints.read_loop(manager, step), manager.metrics(step) or {}
    except FileNotFoundError:  # by the run, which is training
        return None
    figures = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    return f"step {step}  epoch {loop['epoch']}  {figures}  code {loop['code_version']}"


if __name__ == "__main__":
    sys.exit(main())
