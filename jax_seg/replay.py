"""Train versions of the plan on the same data, seed and time, and write what came of each.

    python -m jax_seg.replay --versions v1,v2,v6 --output docs/versions/mine --minutes 3 \\
        --config.data.name=folder --config.data.root=FOLDER

Every version runs twice: as written, and as the original's wiring ran it. Given again, the command
goes on; finished runs are read.
"""

import argparse
import ast
import importlib
import sys
from pathlib import Path

from jax_seg.data.labels import label_table
from jax_seg.report import versions
from jax_seg.runs import config as configuration
from jax_seg.runs.data_folders import data_folders
from jax_seg.system import outputs, startup
from jax_seg.system.commands import exit_status
from jax_seg.training import run as training

# What the original computed whatever its configuration said; its labels, too: unlabeled voxels
# counted as foreground.
WIRING = {
    "loss.weights.variance": 0.25,
    "loss.weights.entropy": 0.05,
    "loss.focal_alpha": 0.34,
    "loss.focal_gamma": 2.0,
    "loss.background_weight": 1.94,
    "loss.foreground_weight": 0.52,
    "optimizer.clip_norm": 2.0,
    "data.foreground": (1, 2),
    "data.ignore": (),
}
KINDS = ("as written", "as run")


def configure(version, kind, *, minutes, full, overrides):
    """The configuration of one run.

    Args:
      version: name of a file in `configs/`.
      kind: of KINDS.
      minutes: of training.
      full: the version at its own size; otherwise as ':demo'.
      overrides: {'data.root': value, …}, the same for all runs.

    Raises:
      ValueError: there is no such version or field, or the field takes another type.
    """
    try:
        module = importlib.import_module(f"configs.{version}")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"There is no version '{version}': --versions names files of configs/."
        ) from error
    config = module.get_config("" if full else "demo")
    changes = overrides | {"train.minutes": minutes} | (WIRING if kind == "as run" else {})
    if kind == "as run":
        for stage in config.stages.values():
            with stage.unlocked():
                stage.loss_weights.update(variance=0.25, entropy=0.05)
    known = configuration.flat(config)
    for field, value in changes.items():
        if field not in known:
            raise ValueError(f"--config.{field}: the configuration has no such field.")
        try:
            config.update_from_flattened_dict({field: value})
        except TypeError as error:
            raise ValueError(f"--config.{field}={value!r} has another type: {error}.") from error
    return config


def replay(names, output, *, kinds=KINDS, minutes=3.0, full=False, overrides=None, command=""):
    """Train every version in every kind in `output/runs`, then write `output/README.md`.

    Args:
      names: files of `configs/`.
      output: folder.
      kinds, minutes, full, overrides: of `configure`.
      command: that is written into the page.

    Returns:
      List of `versions.Run`.

    Raises:
      ValueError, FileNotFoundError: a version, field or data that cannot be trained on.
    """
    output, runs = Path(output), []
    configured = {
        (name, kind): configure(name, kind, minutes=minutes, full=full, overrides=overrides or {})
        for name in names
        for kind in kinds
    }
    outputs.require_apart(output, inside=data_folders(overrides or {}))
    outputs.require_own([output / name for name in versions.PAGES], "replay")
    outputs.require_folder(output)
    plain = configure(names[0], "as written", minutes=minutes, full=full, overrides=overrides or {})
    honest = label_table(plain.data.foreground, plain.data.ignore, plain.data.background)
    for (name, kind), config in configured.items():
        workdir = output / "runs" / f"{name}, {kind}"
        print(f"{name}, {kind}: {workdir}", flush=True)
        try:
            training.run(config, workdir)
            runs.append(versions.read_run(workdir, name, kind, honest))
        except training.Diverged as error:
            print(error, flush=True)
            runs.append(versions.diverged(workdir, name, kind, str(error)))
    versions.write_page(runs, output, command)
    return runs


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_seg.replay",
        description="Compare versions of the plan on the same data, seed and time. Any field of "
        "the configuration can follow as --config.SECTION.FIELD=VALUE.",
    )
    parser.add_argument("--versions", required=True, help="files of configs/, as v1,v2,v6")
    parser.add_argument("--output", required=True, type=Path, help="folder for runs and page")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, for every run")
    parser.add_argument("--kind", choices=KINDS, help="one kind alone")
    parser.add_argument("--full", action="store_true", help="at the version's own size")
    given = sys.argv[1:] if argv is None else argv
    arguments, rest = parser.parse_known_args(given)
    startup.prepare()
    command = "python -m jax_seg.replay " + " ".join(given)
    return exit_status(lambda: _replay(arguments, rest, command), "run the same command to resume")


def _replay(arguments, rest, command):
    try:
        replay(
            arguments.versions.split(","),
            arguments.output,
            kinds=(arguments.kind,) if arguments.kind else KINDS,
            minutes=arguments.minutes,
            full=arguments.full,
            overrides=dict(_override(text) for text in rest),
            command=command,
        )
    except training.Stopped as stopped:
        print(stopped)
        return 1
    return 0


def _override(text):
    name, equals, value = text.removeprefix("--config.").partition("=")
    if not text.startswith("--config.") or not equals:
        raise ValueError(f"Unknown argument '{text}'; fields are --config.SECTION.FIELD=VALUE.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word


if __name__ == "__main__":
    sys.exit(main())
