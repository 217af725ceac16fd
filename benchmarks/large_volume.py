"""Train on a generated Zarr volume that is larger than a run may take of the memory.

    python -m benchmarks.large_volume                # 1024³: 1 GiB of image and as much of labels
    python -m benchmarks.large_volume --size 256     # a minute on a laptop

Prints the seconds of the first start, which measures the volume once, and of an epoch; and the
most memory that the process held.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

from configs import base
from jax_seg.runs.events import read_events
from jax_seg.system import startup
from jax_seg.training import run as training

CHUNK = 128


def main():
    """Generate, train, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1024, help="voxels along each axis")
    parser.add_argument("--patch", type=int, default=64, help="voxels along each axis")
    parser.add_argument("--patches", type=int, default=32, help="patches in an epoch")
    arguments = parser.parse_args()
    startup.prepare()
    with tempfile.TemporaryDirectory(prefix="large_volume_") as folder:
        root = Path(folder) / "data"
        write(root, "large", arguments.size)
        write(root, "small", CHUNK)
        started = time.monotonic()
        training.run(configured(root, arguments), Path(folder) / "run")
        seconds = time.monotonic() - started
        trained = [e for e in read_events(Path(folder) / "run") if e["kind"] == "train"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    voxels = arguments.size**3 / 2**30
    speeds = ", ".join(f"{event['patches_per_second']:.2f}" for event in trained)
    print(f"{voxels:.3g} Gi voxels: {seconds:.0f} s in all, {speeds} patches/s, {peak:.2f} GiB")


def configured(root, arguments):
    """A small network that holds out the small volume."""
    config = base.get_config()
    config.data.update(root=str(root), folds=2, group="", batch=2)
    config.data.fold = held_out(config)
    config.data.patch = (arguments.patch,) * 3
    config.data.patches_per_volume = arguments.patches
    config.model.update(filters=4, poolings=2)
    config.schedule.update(name="constant", learning_rate=0.01, warmup_epochs=0)
    config.average.swa_every = 0
    config.train.epochs = 2
    config.validate.volumes_every = 0
    return config


def held_out(config):
    """The fold whose validation part is the small volume."""
    from jax_seg.data import folds

    for fold in range(2):
        _, validation = folds.split(
            ["large", "small"], None, fold=fold, folds=2, seed=config.data.split_seed
        )
        if validation == ["small"]:
            return str(fold)
    raise AssertionError("One of two folds holds out either volume.")


def write(root, name, size):
    """Sheets every 32 voxels with noise, chunk by chunk."""
    arrays = [
        zarr.create_array(
            root / folder / f"{name}.zarr", shape=(size,) * 3, chunks=(CHUNK,) * 3, dtype="uint8"
        )
        for folder in ("train_images", "train_labels")
    ]
    generator = np.random.default_rng(size)
    noise = generator.normal(90, 15, (CHUNK, CHUNK, CHUNK))
    sheet = (np.arange(CHUNK) % 32 < 3)[:, None, None]
    image = np.clip(noise + 80 * sheet, 1, 255).astype(np.uint8)
    label = np.broadcast_to(sheet, image.shape).astype(np.uint8)
    for corner in np.ndindex(*(-(-size // CHUNK),) * 3):
        block = tuple(slice(c * CHUNK, min((c + 1) * CHUNK, size)) for c in corner)
        kept = tuple(slice(0, b.stop - b.start) for b in block)
        arrays[0][block] = np.roll(image, corner, (0, 1, 2))[kept]
        arrays[1][block] = np.roll(label, corner, (0, 1, 2))[kept]


if __name__ == "__main__":
    main()
