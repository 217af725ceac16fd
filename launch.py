"""Train a configuration:  python launch.py --config configs/v6.py --config.data.root=FOLDER

Run the same command again to resume a run that stopped. Every field of configs/base.py can be set
on the command line with --config.SECTION.FIELD=VALUE.
"""

import functools
import itertools
import os
import re
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from configs import base, images
from jax_seg.system import cards, commands, config_file, configuration
from jax_seg.system.names import did_you_mean

FIELDS = {"images": images}  # by data.name; base of all others
CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Configuration file, such as configs/v6.py:demo."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run (default: runs/<config>).")
FIND_BATCH = flags.DEFINE_bool("find_batch", False, "Print the largest batch that fits, and exit.")
FOR = flags.DEFINE_enum(
    "for", None, list(cards.CARDS), "With --find_batch: a card that need not be there."
)
DOCTOR = flags.DEFINE_enum(
    "doctor",
    "on",
    ["on", "strict", "off"],
    "Examine data and configuration before a new run; 'strict' stops at an error.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where a cluster does not say so by itself."
)
PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: number of this process.")
WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "With --config.data.fold=all: folds trained side by side, one device each (Dask).",
    lower_bound=1,
)
SCHEDULER = flags.DEFINE_string(
    "scheduler", None, "With --config.data.fold=all: address of a Dask scheduler for the folds."
)
PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: number of processes.")
flags.mark_flag_as_required("config")


def main(argv):
    """Train, or find the largest batch; an error ends in one sentence."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}; set fields with --config.FIELD=VALUE.")
    if FOR.value and not FIND_BATCH.value:
        raise app.UsageError("--for names a card for --find_batch: add that flag, or remove --for.")
    # Imported late because JAX takes seconds to start.
    import jax

    from jax_seg.diagnosis.attending import Doctor
    from jax_seg.planning import planned
    from jax_seg.runs import from_weights
    from jax_seg.system import engine, processes, startup
    from jax_seg.training import cross_validation, find_batch
    from jax_seg.training import run as training

    startup.prepare()
    try:
        processes.connect(COORDINATOR.value, PROCESS.value, PROCESSES.value)
    except ValueError as error:
        sys.exit(f"Error: {error}")
    config = CONFIG.value
    run = training.run
    folds = config.data.get("fold") == "all"
    if (WORKERS.value or SCHEDULER.value) and not folds:
        flag = "--workers" if WORKERS.value else "--scheduler"
        raise app.UsageError(f"{flag} trains folds side by side: set --config.data.fold=all.")
    workdir = WORKDIR.value or default_workdir(
        config_flags.get_config_filename(flags.FLAGS["config"])
    )
    try:
        if folds:
            on = engine.on_workers(WORKERS.value, SCHEDULER.value)
            if on:  # the workers need the GPUs on which this process only plans
                os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
            run = functools.partial(cross_validation.run, open_engine=on)
        given = config_flags.get_override_values(flags.FLAGS["config"])
        inherited, sentence = from_weights.inherit(config, default_of(config), workdir)
        if sentence:
            print(sentence)
        keep = None if FIND_BATCH.value else workdir
        opening = planned.fill(config, given, keep, inherited)
        if FIND_BATCH.value:
            largest = find_batch.find_batch(config, cards.CARDS.get(FOR.value))
            rematerialised = (
                f", with model.rematerialise {largest[True]}" if True in largest else ""
            )
            print(f"Largest batch: {largest[False]}{rematerialised}.")
        else:
            doctor = None if DOCTOR.value == "off" else Doctor(strict=DOCTOR.value == "strict")
            run(
                config,
                workdir,
                defaults=default_of(config),
                doctor=doctor,
                opening=opening,
            )
    except training.Stopped as stopped:
        if processes.leads():
            print(stopped)
    except (training.Diverged, ValueError, OSError) as error:
        processes.end(error)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            processes.end(
                f"The device has too little memory ({str(error).splitlines()[0]}): lower "
                "data.batch or data.patch, or set model.rematerialise; --find_batch says what fits."
            )
        if not processes.is_lost(error):
            processes.end_of_bug(error)
        processes.end(error)
    except Exception as error:
        processes.end_of_bug(error)


def default_of(config):
    """The default value of every field in a configuration of this kind."""
    return FIELDS.get(config.data.name, base).get_config()


def default_workdir(source):
    """runs/v6 for configs/v6.py, runs/v6_demo for configs/v6.py:demo."""
    file, _, argument = source.partition(":")
    return Path("runs") / "_".join(filter(None, (Path(file).stem, argument)))


def parse(argv):
    """Parse the flags; exit with a sentence if a file, its argument or a field does not exist."""
    named = [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    named += [value for name, value in itertools.pairwise(argv) if name == "--config"]
    for file in (Path(value.partition(":")[0]) for value in named):
        if not file.is_file():
            sys.exit(f"Error: {file} does not exist{config_file.nearest(file.absolute())}")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        refusal = re.search(r"^ *ValueError: (.+)", str(error), re.MULTILINE)  # of get_config
        sys.exit(f"Error: {refusal[1] if refusal else error}")
    except (AttributeError, KeyError) as error:
        known = {
            f for file in (base, *FIELDS.values()) for f in configuration.flat(file.get_config())
        }
        by_last_part = {path.split(".")[-1]: path for path in sorted(known)}
        given = [a.lstrip("-").partition("=")[0] for a in argv]
        for name in (g.removeprefix("config.") for g in given if g.startswith("config.")):
            if name not in known:
                hint = did_you_mean(
                    name.split(".")[-1],
                    by_last_part,
                    shown=lambda near: repr(by_last_part[near]),
                    otherwise="; see configs/base.py.",
                )
                sys.exit(f"Error: The configuration has no field '{name}'{hint}")
            if re.search(r"\w+", str(error)).group() in name.split("."):
                sys.exit(
                    f"Error: This configuration has no field '{name}', which belongs to another "
                    "kind of data or network; remove it."
                )
        raise


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse)
    except KeyboardInterrupt:  # before the first epoch or after the last one, or the second Ctrl-C
        print("Interrupted: run the same command to start or resume the run.", file=sys.stderr)
        sys.exit(commands.INTERRUPTED)
