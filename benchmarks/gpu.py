"""All figures of a graphics card in nine minutes, the most telling first: `make gpu`.

    python -m benchmarks.gpu --output FOLDER
    python -m benchmarks.gpu --output FOLDER --small     rehearsal of three minutes, on a CPU too

Each benchmark is a process of its own, and its output a file in the folder as soon as it ends;
README.md there lists them all. One that fails, or for which no time is left, is named there too and
ends no other, but for the first: where JAX does not train on the card, nothing else is worth its
time. Each has a time of its own, beside what those before it saved, so that none takes another's;
it is ended then, with all that it has started. PyTorch and MONAI (extra 'bench') are the peers and
left out where they are missing.
"""

import argparse
import contextlib
import importlib.util
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

MINUTES = 9.0
LEAST = 10.0  # seconds that a benchmark needs to say anything


class Benchmark(NamedTuple):
    """A benchmark.

    Attributes:
      name: of its file.
      title: what its figures are.
      command: what follows `python`.
      small: what follows that in a rehearsal; later flags replace earlier ones. None leaves the
        benchmark out of it.
      peer: package without which it cannot run.
      seconds: that it may take, and those that the ones before it saved; not in a rehearsal.
      needed: whether the others are worth nothing unless it is done.
    """

    name: str
    title: str
    command: str
    small: str | None = ""
    peer: str = ""
    seconds: float = math.inf
    needed: bool = False


def _train_step(batch, seconds, more=""):
    return Benchmark(
        f"train_step_batch_{batch}",
        f"Training step and inference of 32 filters on 128³, batch {batch}, beside PyTorch",
        "-m benchmarks.train_step --filters 32 --size 128 --dtype bfloat16 --repeats 5 "
        f"--batch {batch} {more}".strip(),
        "--small",
        seconds=seconds,
    )


TINY = "--config.data.patch=(16,16,16) --config.model.filters=2 --config.model.poolings=1"
TINY_DETECTOR = (
    "--config.model.depths=(1,1,1,1) --config.model.dims=(8,16,24,32) "
    "--config.model.heads=(2,2,2,2) --config.model.kernel_sizes=(3,3,3,3) "
    "--config.model.experts=('attention','context') --config.model.active=1"
)
AT_ONCE = "--config.data.batch=8 --config.model.dtype=bfloat16"
BENCHMARKS = (
    Benchmark(
        "machine",
        "Versions and card",
        "-m benchmarks.own_step --card",
        "--no-card",
        seconds=60,
        needed=True,
    ),
    _train_step(8, 110),
    Benchmark(
        "step_of_v6",
        "The step of v6 as it trains, 128³, batch 8: time, memory and its largest kernels",
        f"-m benchmarks.own_step --config configs/v6.py {AT_ONCE}",
        f"--config configs/v6.py:demo --steps 1 --config.data.batch=1 {TINY}",
        seconds=55,
    ),
    Benchmark(
        "step_of_detector",
        "The step of the detector of camouflaged objects, batch 8",
        f"-m benchmarks.own_step --config configs/cod10k.py {AT_ONCE} --config.train.accumulate=1",
        f"--steps 1 --config.data.batch=1 --config.data.side=32 {TINY_DETECTOR}",
        seconds=40,
    ),
    Benchmark(
        "inference",
        "Sliding windows beside MONAI's, in float32",
        "-m benchmarks.inference --size 256 --patch 128 --filters 32",
        "--size 24 --patch 16 --filters 2 --poolings 1 --repeats 1",
        peer="monai",
        seconds=35,
    ),
    _train_step(2, 40, "--eager"),
    Benchmark(
        "detector_beside_torch",
        "Training step and inference of the detector, batch 8, beside PyTorch",
        "-m benchmarks.detector_step --dtype bfloat16 --repeats 5",
        "--small",
        seconds=50,
    ),
    _train_step(12, 40, "--eager"),
    _train_step(4, 35, "--eager"),
    Benchmark(
        "input",
        "Does the device wait for data? 128³, batch 8",
        "-m benchmarks.input --patch 128 --batch 8 --filters 32 --dtype bfloat16",
        "--volumes 2 --size 20 --patch 16 --batch 2 --filters 2 --poolings 1 --steps 2 "
        "--repeats 1 --threads 1",
        seconds=20,
    ),
    Benchmark(
        "startup",
        "Seconds to the first update, without and with compiled programs on the disk",
        "-m benchmarks.startup",
        seconds=20,
    ),
    Benchmark("losses", "Losses on 128³", "-m benchmarks.losses --size 128", "--small", seconds=15),
    Benchmark(
        "largest_batch",
        "Largest batch of v6 at 128³",
        "launch.py --config configs/v6.py --find_batch --config.model.dtype=bfloat16",
        None,
        seconds=20,
    ),
)


def run(benchmarks, folder, minutes=MINUTES, small=False):
    """Run benchmarks in turn and record each as it ends.

    Args:
      benchmarks: of `Benchmark`.
      folder: for a file of each and README.md.
      minutes: for all; what does not fit is ended, and the rest left out.
      small: rehearse.

    Returns:
      {name: 'done', 'failed', 'ended', or 'left out …'}, up to one that is needed and not done.
    """
    folder, due = Path(folder), time.monotonic()
    end = due + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    states, seconds = {}, {}
    for one in benchmarks:
        if small and one.small is None:
            continue
        due += math.inf if small else one.seconds
        began = time.monotonic()
        left = min(due, end) - began
        if one.peer and not importlib.util.find_spec(one.peer):
            states[one.name] = f"left out without {one.peer}"
        elif left < LEAST:
            states[one.name] = "left out for lack of time"
        else:
            states[one.name] = _run(one, folder, left, small)
        seconds[one.name] = time.monotonic() - began
        _write_page(benchmarks, states, seconds, folder)
        print(f"{one.name}: {states[one.name]} after {seconds[one.name]:.0f} s", flush=True)
        if one.needed and states[one.name] != "done":
            break
    return states


def _run(benchmark, folder, limit, small):
    words = f"{benchmark.command} {benchmark.small if small else ''}".split()
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
    with (folder / f"{benchmark.name}.txt").open("w") as file:
        print(f"python {' '.join(words)}\n", file=file, flush=True)
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            return "failed" if process.wait(limit) else "done"
        except subprocess.TimeoutExpired:
            return "ended"
        finally:  # also of Ctrl+C: what it has started would keep the card busy
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _write_page(benchmarks, states, seconds, folder):
    lines = ["# Figures of a graphics card", ""]
    for one in benchmarks:
        if state := states.get(one.name):
            lines += [f"## {one.title}", "", f"{state} after {seconds[one.name]:.0f} s", ""]
            file = folder / f"{one.name}.txt"
            if file.exists():
                lines += ["```", file.read_text(errors="replace").strip(), "```", ""]
    (folder / "README.md").write_text("\n".join(lines))


def main(argv=None):
    """Run the command line; returns 1 if a benchmark failed or one that is needed is not done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=Path, help="folder for the figures")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all (default: 9)")
    parser.add_argument("--only", nargs="+", choices=[b.name for b in BENCHMARKS], default=None)
    parser.add_argument(
        "--small", action="store_true", help="rehearsal: its timings are meaningless"
    )
    arguments = parser.parse_args(argv)
    chosen = [b for b in BENCHMARKS if arguments.only is None or b.name in arguments.only]
    states = run(chosen, arguments.output, arguments.minutes, arguments.small)
    print(f"Figures: {arguments.output / 'README.md'}")
    lacking = [one.name for one in chosen if one.needed and states[one.name] != "done"]
    if lacking:
        print(f"Nothing else was measured: see {arguments.output / lacking[0]}.txt.")
    return int(bool(lacking) or "failed" in states.values())


if __name__ == "__main__":
    sys.exit(main())
