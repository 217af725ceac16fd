"""Train versions of the plan on the same data, seed and time, and compare the results.

    python -m jax_seg.replay --versions v1,v2,v6 --output docs/versions/mine --minutes 3 \\
        --config.data.name=folder --config.data.root=FOLDER

v1 is the file configs/v1.py of the current folder; --configs names another folder, and a path such
as mine/v1.py:demo works too. Every version runs twice: as written, and as the original program's
wiring ran it. Run the same command to resume a replay; finished runs are not trained again.
"""

import argparse
import shlex
import sys
from pathlib import Path

from jax_seg.report import versions
from jax_seg.runs import held_out
from jax_seg.runs.data_folders import data_folders
from jax_seg.system import config_file, configuration, engine, outputs, startup
from jax_seg.system.commands import exit_status
from jax_seg.system.program import program
from jax_seg.training import run as training

# What the original program computed regardless of its configuration. Its labels too: it counted
# unlabelled voxels as foreground. And it intervened after differences of any size.
WIRING = {
    "loss.weights.variance": 0.25,
    "loss.weights.entropy": 0.05,
    "loss.focal_alpha": 0.34,
    "loss.focal_gamma": 2.0,
    "loss.background_weight": 1.94,
    "loss.foreground_weight": 0.52,
    "optimizer.clip_norm": 2.0,
    "plateau.noise_factor": 0.0,
    "data.foreground": (1, 2),
    "data.ignore": (),
}
KINDS = ("as written", "as run")


def find_versions(texts, folder):
    """The files of versions.

    Args:
      texts: 'v6' for a file of `folder`, or a path, as 'mine/v6.py' or 'mine/v6.py:demo'.
      folder: of configurations.

    Returns:
      {name: path}, as {'v6': 'configs/v6.py', 'v6_demo': 'mine/v6.py:demo'}.

    Raises:
      ValueError: a file does not exist, or two versions have the same name.
    """
    found = {}
    for text in texts:
        file, _, argument = text.partition(":")
        named = file.endswith(".py") or "/" in file
        path = Path(file) if named else Path(folder) / f"{file}.py"
        if not path.is_file():
            raise ValueError(
                f"There is no version '{text}': {path} does not exist{config_file.nearest(path)}"
            )
        name = "_".join(filter(None, (path.stem, argument)))
        if name in found:
            raise ValueError(f"--versions names '{name}' twice; give each version once.")
        found[name] = ":".join(filter(None, (str(path), argument)))
    return found


def configure(path, kind, *, minutes, full, overrides):
    """The configuration of one run.

    Args:
      path: of the version, see `config_file.load`.
      kind: of KINDS.
      minutes: training time.
      full: train the version at its full size instead of as ':demo'.
      overrides: {'data.root': value, …}, the same for all runs.

    Raises:
      ValueError: the file cannot be loaded or is not for volumes, a field does not exist, or its
        value has the wrong type.
    """
    config = config_file.load(path, "" if full else "demo")
    known = configuration.flat(config)
    if "data.foreground" not in known:
        raise ValueError(f"{path} trains on images; replay compares versions that segment volumes.")
    changes = overrides | {"train.minutes": minutes} | (WIRING if kind == "as run" else {})
    if kind == "as run":
        prefix = "loss.weights."
        weights = {n.removeprefix(prefix): v for n, v in WIRING.items() if n.startswith(prefix)}
        for stage in config.stages.values():
            with stage.unlocked():
                stage.loss_weights.update(weights)
    configuration.override(config, changes)
    if kind == "as run" and config.data.classes:
        raise ValueError(
            "'as run' repeats a program that knew one class, but data.classes names several: pass "
            "--kind 'as written'."
        )
    return config


def default_of(path):
    """The base configuration beside a version, the default of every field; None without one."""
    base = Path(path.partition(":")[0]).with_name("base.py")
    return config_file.load(base) if base.is_file() else None


def replay(
    paths,
    output,
    *,
    kinds=KINDS,
    minutes=3.0,
    full=False,
    overrides=None,
    command="",
    open_engine=None,
):
    """Train every version in every kind in `output/runs`, then write `output/README.md`.

    Args:
      paths: {name: path} of the versions, see `find_versions`.
      output: folder.
      kinds, minutes, full, overrides: of `configure`.
      command: command line that the page quotes.
      open_engine: of `engine.opener`, whose workers train versions side by side, each on a device
        of its own; None trains them one after another in this process.

    Returns:
      List of `versions.Run`.

    Raises:
      ValueError, FileNotFoundError: a version, field or data that cannot be trained on.
    """
    output, runs = Path(output), []
    settings = {"minutes": minutes, "full": full, "overrides": overrides or {}}
    configured = {
        (name, kind): configure(path, kind, **settings)
        for name, path in paths.items()
        for kind in kinds
    }
    outputs.require_apart(output, inside=data_folders(overrides or {}))
    outputs.require_own([output / name for name in versions.PAGES], "replay")
    outputs.require_folder(output)
    plain = configure(next(iter(paths.values())), "as written", **settings)
    honest = held_out.table_of(configuration.flat(plain)).together()
    workdirs = {one: output / "runs" / f"{one[0]}, {one[1]}" for one in configured}
    calls = {
        ", ".join(one): (config, workdirs[one], default_of(paths[one[0]]))
        for one, config in configured.items()
    }
    ended = dict(_side_by_side(calls, open_engine) if open_engine else _in_turn(calls))
    for (name, kind), workdir in workdirs.items():
        if why := ended[f"{name}, {kind}"]:
            runs.append(versions.diverged(workdir, name, kind, why))
        else:
            runs.append(versions.read_run(workdir, name, kind, honest))
    versions.write_page(runs, output, command)
    return runs


def _train(config, workdir, defaults):
    """'' where the run has ended well, else why it diverged."""
    try:
        training.run(config, workdir, defaults)
    except training.Diverged as error:
        return str(error)
    return ""


def _in_turn(calls):
    for name, arguments in calls.items():
        print(f"{name}: {arguments[1]}", flush=True)
        why = _train(*arguments)
        print(why, end="\n" if why else "", flush=True)
        yield name, why


def _side_by_side(calls, open_engine):
    for name, why in engine.each(_train, calls, open_engine):
        print(f"{calls[name][1]}: {why or 'finished'}", flush=True)
        yield name, why


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("replay"),
        description="Compare versions of the plan on the same data, seed and time. Any field of "
        "the configurations can be set as --config.SECTION.FIELD=VALUE.",
        allow_abbrev=False,  # --config is not short for --configs
    )
    parser.add_argument(
        "--versions",
        required=True,
        help="comma-separated names in --configs (v1,v2,v6) or paths (mine/a.py)",
    )
    parser.add_argument(
        "--configs",
        default="configs",
        metavar="FOLDER",
        help="folder of the versions (default: configs)",
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="folder for the runs and the page"
    )
    parser.add_argument(
        "--minutes", type=float, default=3.0, help="training time per run, in minutes (default: 3)"
    )
    parser.add_argument("--kind", choices=KINDS, help="train only this kind (default: both)")
    parser.add_argument(
        "--full",
        action="store_true",
        help="train each version at its full size instead of its :demo size",
    )
    parser.add_argument(
        "--workers", type=engine.count, help="train side by side, one device each (Dask)"
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="train on the workers of this Dask scheduler"
    )
    given = sys.argv[1:] if argv is None else argv
    arguments, rest = parser.parse_known_args(given)
    startup.prepare()
    command = f"{program('replay')} {shlex.join(given)}"
    return exit_status(lambda: _replay(arguments, rest, command), "run the same command to resume")


def _replay(arguments, rest, command):
    try:
        replay(
            find_versions(arguments.versions.split(","), arguments.configs),
            arguments.output,
            kinds=(arguments.kind,) if arguments.kind else KINDS,
            minutes=arguments.minutes,
            full=arguments.full,
            overrides=dict(configuration.parse_override(text) for text in rest),
            command=command,
            open_engine=engine.on_workers(arguments.workers, arguments.scheduler),
        )
    except training.Stopped as stopped:
        print(stopped)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
