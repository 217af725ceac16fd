"""Choose the settings of a run from its data, and say why.

    python -m jax_seg.plan FOLDER [--output configs/mine.py] [--minutes 60] [--device h100]

Prints each choice with its reason; the file that --output names can be run with launch.py.
"""

import argparse
import sys
from pathlib import Path

from jax_seg.system import config_file, configuration, outputs, startup
from jax_seg.system.commands import exit_status
from jax_seg.system.files import replacing
from jax_seg.system.program import program


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("plan"),
        description="Choose the settings of a run from its data, and say why.",
        epilog="Fields that are set as with launch.py are kept: --config.data.ignore=(2,).",
    )
    parser.add_argument("data", metavar="FOLDER", help="folder of labelled volumes")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write a configuration, such as configs/mine.py"
    )
    parser.add_argument(
        "--device", default="", help="cpu, h100, …, or memory as '24 GB' (default: this device)"
    )
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="that the run may take (default: 60)"
    )
    parser.add_argument(
        "--base",
        default="configs/base.py",
        metavar="FILE",
        help="configuration that the plan starts from (default: configs/base.py)",
    )
    arguments, rest = parser.parse_known_args(argv)
    return exit_status(lambda: _plan(arguments, rest))


def _plan(arguments, rest):
    # Imported late because JAX takes seconds to start.
    from jax_seg.planning import written
    from jax_seg.planning.plan import make_plan
    from jax_seg.runs.data_folders import data_folders

    given = dict(configuration.parse_override(text) for text in rest)
    config = config_file.load(arguments.base)
    given = configuration.override(config, given)
    configuration.override(config, {"data.root": arguments.data, "data.name": "folder"})
    minutes = given.get("train.minutes", arguments.minutes)
    if arguments.output:
        outputs.require_file(arguments.output, "plan", flag="--output")
        inside = data_folders(configuration.flat(config))
        outputs.require_apart(arguments.output, inside=inside, flag="--output")
    startup.prepare()
    plan = make_plan(config, device=arguments.device, minutes=minutes, given=given)
    print("\n".join(written.in_words(plan)))
    if arguments.output:
        text = written.as_file(
            plan,
            path=arguments.output,
            root=arguments.data,
            given=given,
            base=arguments.base,
        )
        with replacing(arguments.output) as beside:
            beside.write_text(text)
        print(f"\nTrain with: python launch.py --config {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
