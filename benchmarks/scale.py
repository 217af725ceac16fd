"""Prediction block by block: workers, overhead, memory, many blocks, and what kills leave.

    python -m benchmarks.scale workers --size 512      speed of two workers against one
    python -m benchmarks.scale overhead --size 512     blocks against the whole volume in memory
    python -m benchmarks.scale memory --size 384 768   peak memory by size of the volume
    python -m benchmarks.scale blocks --blocks 100000  blocks per second of an idle network
    python -m benchmarks.scale kills --kills 20        bytes after kills at random

On a generated scroll, tiled from one of 128³, with the untrained network of --filters.
"""

import argparse
import contextlib
import hashlib
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import psutil
import tensorstore
import tifffile

from jax_seg.data.readers import open_volume
from jax_seg.data.scroll import scroll_volume
from jax_seg.infer.blocks.cuts import Cuts
from jax_seg.infer.blocks.job import MASK, Job, records_folder, threads
from jax_seg.infer.blocks.run import identity, run
from jax_seg.models.unet import Model
from jax_seg.ops.classes import ONE
from jax_seg.runs import from_weights
from jax_seg.system import engine

TILE = 128
SPEED = re.compile(r"network: ([\d.e+]+) Mvoxel/s")


def write_volume(folder, size):
    """A Zarr of `size`³ voxels of uint8; a tile of a scroll, repeated."""
    tile = scroll_volume(0, TILE)[0]
    path = Path(folder) / f"scroll{size}.zarr"
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path)},
        "metadata": {
            "shape": [size] * 3,
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64] * 3}},
        },
    }
    store = tensorstore.open(spec, create=True).result()
    for start in np.ndindex(*(-(-size // TILE),) * 3):
        box = tuple(slice(TILE * n, min(TILE * (n + 1), size)) for n in start)
        store[box] = tile[tuple(slice(0, one.stop - one.start) for one in box)]
    return path


def write_network(folder, filters, patch):
    """The workdir of an untrained network."""
    model = Model(filters=filters, poolings=2)
    params = model.init(jax.random.key(0), np.zeros((1, patch, patch, patch, 1)))["params"]
    rule = from_weights.preprocessing_of_range(0.0, 255.0)
    network = from_weights.Imported(model, params, rule, (patch,) * 3)
    from_weights.write_workdir(Path(folder) / "network", {"": network})
    return Path(folder) / "network"


def command(network, volume, output, *flags):
    """The command line that predicts a volume."""
    named = ("--workdir", network, "--input", volume, "--output", output)
    return [sys.executable, "-m", "jax_seg.predict", *map(str, (*named, *flags))]


def predict(*arguments):
    """Run that command; what it prints."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def _blocks(block, overlap):
    return ("--block", block, "--chunk", math.gcd(block, 64), "--overlap", overlap)


def workers(arguments, folder):
    """Voxels per second of one and of two workers with a thread each, alternating."""
    network = write_network(folder, arguments.filters, arguments.patch)
    volume = write_volume(folder, arguments.size[0])
    speeds = {1: [], 2: []}
    for turn in range(arguments.repeats):
        for count in speeds:
            output = Path(folder) / f"{count}_{turn}.zarr"
            with _environment(NPROC="1"):
                flags = ("--workers", count, *_blocks(arguments.block, arguments.overlap))
                said = predict(network, volume, output, *flags)
            speeds[count].append(float(SPEED.findall(said)[-1]))
    medians = {count: float(np.median(found)) for count, found in speeds.items()}
    efficiency = medians[2] / (2 * medians[1])
    print(f"{arguments.size[0]}³, block {arguments.block}: ", end="")
    print(f"{medians[1]:.3g} and {medians[2]:.3g} Mvoxel/s, efficiency {efficiency:.2f}")


def overhead(arguments, folder):
    """Seconds of the network's work in blocks and on the whole volume, by the sidecars."""
    network = write_network(folder, arguments.filters, arguments.patch)
    size = arguments.size[0]
    volume, whole = write_volume(folder, size), Path(folder) / f"whole{size}.tif"
    tifffile.imwrite(whole, open_volume(volume).read((0, 0, 0), (size,) * 3))
    seconds = {"blocks": [], "whole": []}
    for turn in range(arguments.repeats):
        in_blocks = _blocks(arguments.block, arguments.overlap)
        for name, output, given, flags in (
            ("blocks", Path(folder) / f"{turn}.zarr", volume, in_blocks),
            ("whole", Path(folder) / f"{turn}", whole, ("--overlap", arguments.overlap)),
        ):
            began = time.monotonic()
            said = predict(network, given, output, *flags)
            seconds[name].append(time.monotonic() - began)
            if repeated := re.search(r"(\d+) % of them again", said):
                again = int(repeated[1])
    blocks, whole = (float(np.median(seconds[name])) for name in ("blocks", "whole"))
    print(f"{size}³, block {arguments.block}, window {arguments.patch}: {blocks:.1f} s in blocks, ")
    print(f"{whole:.1f} s as a whole, {again} % of the windows computed again; without those ")
    print(f"{100 * (blocks / (1 + again / 100) / whole - 1):.0f} % more")


def memory(arguments, folder):
    """Peak memory of the command by size of the volume."""
    network = write_network(folder, arguments.filters, arguments.patch)
    peaks = []
    for size in arguments.size:
        volume = write_volume(folder, size)
        flags = _blocks(arguments.block, arguments.overlap)
        line = command(network, volume, Path(folder) / f"m{size}.zarr", *flags)
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        peaks.append(usage.ru_maxrss * 1024)
        print(f"{size}³: {peaks[-1] / 2**30:.2f} GiB", flush=True)
    print(f"largest to smallest: {peaks[-1] / peaks[0]:.2f}")


def load_nothing():
    """A network that returns background at once."""
    return lambda part: np.zeros(part.size, np.float32)


def blocks(arguments, folder):
    """Blocks per second, and memory of the scheduler, where the network costs nothing."""
    side = round(arguments.blocks ** (1 / 3))
    volume, output = write_volume(folder, 8 * side), Path(folder) / "blocks.zarr"
    reader, settings = open_volume(volume), {"kind": MASK, "digest": "nothing"}
    job = Job(
        reader=reader,
        within=None,
        load=load_nothing,
        store=str(output),
        records=str(records_folder(output)),
        cuts=Cuts(tuple(reader.shape), (8,) * 3),
        chunk=(8,) * 3,
        kind=MASK,
        threshold=0.5,
        steps=(),
        classes=ONE,
        measured={},
        version="0.5",
        threads=threads(),
        settings=settings,
        digest=identity(settings),
    )
    before, began = _peak(), time.monotonic()
    run(job, lambda work: engine.local(work, 2))
    rate = side**3 / (time.monotonic() - began)
    print(f"{side**3} blocks, their pyramid included: {rate:.0f} blocks/s, ", end="")
    print(f"scheduler's memory {before / 2**20:.0f} → {_peak() / 2**20:.0f} MiB")


def kills(arguments, folder):
    """Kill clients and workers at random instants; compare with the undisturbed bytes."""
    network = write_network(folder, arguments.filters, arguments.patch)
    volume = write_volume(folder, arguments.size[0])
    flags = ("--workers", 2, *_blocks(arguments.size[0] // 4, arguments.overlap))
    undisturbed, output = (Path(folder) / name / "mask.zarr" for name in ("calm", "killed"))
    undisturbed.parent.mkdir()
    output.parent.mkdir()
    predict(network, volume, undisturbed, *flags)
    generator, killed = random.Random(0), 0
    written = _watch(records_folder(output))
    while True:
        process = subprocess.Popen(
            command(network, volume, output, *flags), stdout=subprocess.PIPE, text=True
        )
        while killed < arguments.kills and process.poll() is None:
            time.sleep(generator.uniform(*arguments.apart))
            victims = [process.pid]
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(process.pid).children(recursive=True)
                victims += [one.pid for one in children]
            with contextlib.suppress(ProcessLookupError):
                os.kill(generator.choice(victims), signal.SIGKILL)
                killed += 1
        said, _ = process.communicate()
        print(f"{killed} killed; {said.strip().splitlines()[-1] if said else 'no word'}")
        if process.returncode == 0:
            break
    calm, after = _digests(undisturbed), _digests(output)
    differing = sorted(n for n in calm.keys() | after.keys() if calm.get(n) != after.get(n))
    blocks = len({name for name, _ in written})
    print(f"{killed} processes killed; files that differ: {', '.join(differing) or 'none'};")
    print(f"{blocks} blocks and their pyramid, {len(written) - blocks} done again once recorded")
    return 1 if differing else 0


def _watch(folder):
    """A set that grows: (name, time) of every record that is written in a folder from now on."""
    found = set()

    def look():
        while True:
            for path in folder.glob("*/*.json"):
                with contextlib.suppress(FileNotFoundError):
                    found.add((path.relative_to(folder), path.stat().st_mtime_ns))
            time.sleep(0.01)

    threading.Thread(target=look, daemon=True).start()
    return found


def _digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).digest() for f in files}


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _environment(**values):
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main(argv=None):
    """Run the command line; returns its exit status."""
    figures = {f.__name__: f for f in (workers, overhead, memory, blocks, kills)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", choices=figures)
    parser.add_argument("--size", type=int, nargs="+", default=[512], help="voxels along an axis")
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--filters", type=int, default=4)
    parser.add_argument("--overlap", type=float, default=0.5, help="of windows")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--apart", type=float, nargs=2, default=(1.0, 12.0), help="seconds between kills"
    )
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        return figures[arguments.figure](arguments, folder) or 0


if __name__ == "__main__":
    sys.exit(main())
