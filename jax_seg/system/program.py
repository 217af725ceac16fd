"""The name under which the user started a command, for its usage and help."""

import sys
from pathlib import Path


def program(command=""):
    """The words of the command line before the arguments.

    Args:
      command: name of a command, as 'predict'; '' for the program that lists them all.

    Returns:
      'jax-seg predict', 'python -m jax_seg predict' or 'python -m jax_seg.predict', as it was
      started.
    """
    started = Path(sys.argv[0])
    if started.stem == "jax-seg":
        words = ["jax-seg", command]
    elif not command or (started.parent.name, started.name) == ("jax_seg", "__main__.py"):
        words = ["python -m jax_seg", command]
    else:
        words = [f"python -m jax_seg.{command}"]
    return " ".join(filter(None, words))
