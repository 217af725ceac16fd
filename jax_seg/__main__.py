"""All commands under one name:  jax-seg COMMAND …  or  python -m jax_seg COMMAND …"""

import importlib
import importlib.util
import sys

from jax_seg.system.names import did_you_mean
from jax_seg.system.program import program

# Each command is a module or package of this folder; only the requested one is imported.
COMMANDS = {
    "plan": "choose the settings of a run from its data, and say why",
    "doctor": "say why a network does not learn, before a run or after it",
    "predict": "segment volumes or images with trained weights",
    "evaluate": "score predictions against labels",
    "report": "show one run, or several side by side, on one HTML page",
    "tune": "choose the threshold and post-processing of a run",
    "compare": "test which of several models is better, with intervals",
    "fit_ensemble": "fit the weights of an ensemble to held-out volumes",
    "replay": "train several configurations on the same data for the same time",
    "checkpoint": "list the checkpoints of a run",
    "convert": "import the weights of a PyTorch U-Net",
    "export": "write trained networks as files that run without jax_seg",
}


def main(argv=None):
    """Run one command with its arguments; return its exit status, 2 for an unknown command."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or [None]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name is None:
        print(_help(), file=sys.stderr)
        return 2
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS, otherwise=f"; {program()} --help lists them.")
        print(f"Error: There is no command '{name}'{hint}", file=sys.stderr)
        return 2
    module = f"jax_seg.{name}"
    if importlib.util.find_spec(module).submodule_search_locations:  # a package runs its __main__
        module += ".__main__"
    return importlib.import_module(module).main(arguments)


def _help():
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"usage: {program()} COMMAND [ARGUMENT ...]",
            "",
            "Segment thin surfaces in volumes, and objects in images.",
            "",
            *(f"  {name:{width}}  {line}" for name, line in COMMANDS.items()),
            "",
            f"'{program()} COMMAND --help' describes the arguments of a command.",
            "'python launch.py --config FILE' trains a network.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
