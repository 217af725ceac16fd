"""Does the device wait for data? Compare training steps fed by the loader with resident data.

    python -m benchmarks.input [--patch 128] [--batch 8] [--filters 32]

Volumes are decoded into the cache first, as in training. Prints patches/s of the loader alone and
of both kinds of step, alternating, their ratio, and the memory of the process.
"""

import argparse
import functools
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tifffile

from jax_seg import losses
from jax_seg.data import labels, pipeline
from jax_seg.data.cache import Cache
from jax_seg.data.fingerprint import fingerprint
from jax_seg.data.folder import find_volumes
from jax_seg.data.preprocess import Preprocessing
from jax_seg.data.sampling import PatchSampler
from jax_seg.models.unet import Model
from jax_seg.system import startup
from jax_seg.training import console, optimizers, state
from jax_seg.training.step import make_train_step


def make_sampler(root, volumes, size, patch):
    """A sampler over random volumes of `size`³, written as LZW TIFF and decoded into the cache."""
    generator = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for number in range(volumes):
        image = generator.integers(0, 256, (size,) * 3, np.uint8)
        tifffile.imwrite(root / "images" / f"{number}.tif", image, compression="lzw")
        label = (image > 240).astype(np.uint8)
        tifffile.imwrite(root / "labels" / f"{number}.tif", label, compression="lzw")
    found, cache, table = find_volumes(root), Cache(root / "cache", 2**40), labels.label_table()
    return PatchSampler(
        volumes=found,
        fingerprints=fingerprint(found, cache, table, root / "measured", 2),
        cache=cache,
        table=table,
        patch=(patch,) * 3,
        patches_per_volume=1,
        foreground_share=1 / 3,
        balance_target=0.0,
        dtype=np.dtype(np.uint8),
        seed=0,
    )


def make_trainer(patch, *, filters, poolings, dtype):
    """A network ready to train on patches of `patch`³ voxels.

    Returns:
      (state, train): train takes a state and batches on the device, and returns the state after
      one step with each and the seconds that they took.
    """
    model = Model(filters=filters, poolings=poolings, dtype=dtype)
    optimizer = optimizers.make_optimizer(
        "sgd", momentum=0.99, nesterov=True, weight_decay=0.0, clip_norm=1.0
    )
    key = jax.random.PRNGKey(0)
    one = np.float32(1)
    weights = {"dice": one, "cross_entropy": one}
    knobs = {"learning_rates": {"all": np.float32(1e-3)}, "loss_weights": weights}

    loss = functools.partial(losses.combine, terms=tuple(weights))

    @jax.jit
    def fresh_state():
        return state.create(model.init(key, jnp.zeros((1, *(patch,) * 3, 1))), optimizer)

    current = fresh_state()
    train_step = make_train_step(
        model,
        optimizer,
        loss,
        lambda _, batch: batch,
        Preprocessing(0, 255, 0, 1 / 255),
        key,
        part_of=optimizers.label_parameters(current.params, {"all": ""}),
    )

    def train(current, source):
        started = time.perf_counter()
        for arrays in source:
            current, metrics = train_step(current, arrays, knobs)
        jax.block_until_ready(metrics)
        return current, time.perf_counter() - started

    return current, train


def measure(sampler, current, train, *, batch, steps, threads, repeats):
    """Seconds for `steps` batches.

    Args:
      sampler: of `make_sampler`.
      current, train: of `make_trainer`.
      batch: patches of a step.
      steps: of each timing.
      threads: that read ahead.
      repeats: timings of each kind.

    Returns:
      (the loader alone, [(steps with the loader, steps on resident data), …]).
    """
    number = itertools.count()

    def batches():
        start = next(number) * steps * batch
        return pipeline.batches(sampler, batch=batch, start=start, count=steps, threads=threads)

    def loaded():
        return (arrays for arrays, _ in pipeline.on_device(batches()))

    started = time.perf_counter()
    for _ in batches():
        pass
    alone, pairs = time.perf_counter() - started, []
    resident = next(iter(loaded()))
    current, _ = train(current, [resident])  # compiles
    for _ in range(repeats):
        current, with_loader = train(current, loaded())
        current, on_resident = train(current, [resident] * steps)
        pairs.append((with_loader, on_resident))
    return alone, pairs


def parse(argv=None):
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--size", type=int, default=320, help="voxels along each axis")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--poolings", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="per timing")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(argv)


def main(argv=None):
    """Print the table; return the time of steps with the loader over that on resident data."""
    arguments = parse(argv)
    startup.convolve_channels_last()
    current, train = make_trainer(
        arguments.patch,
        filters=arguments.filters,
        poolings=arguments.poolings,
        dtype=arguments.dtype,
    )
    with tempfile.TemporaryDirectory() as folder:
        sampler = make_sampler(Path(folder), arguments.volumes, arguments.size, arguments.patch)
        alone, pairs = measure(
            sampler,
            current,
            train,
            batch=arguments.batch,
            steps=arguments.steps,
            threads=arguments.threads,
            repeats=arguments.repeats,
        )
    with_loader, on_resident = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    patches = arguments.steps * arguments.batch
    print(
        f"patch {arguments.patch}³, batch {arguments.batch}, {arguments.filters} filters, "
        f"{jax.devices()[0]}"
    )
    print(f"{'':24}{'patches/s':>12}")
    print(f"{'loader alone':24}{patches / alone:>12.1f}")
    print(f"{'steps with the loader':24}{patches / with_loader:>12.2f}")
    print(f"{'steps on resident data':24}{patches / on_resident:>12.2f}")
    print(f"time with the loader / on resident data: {ratio:.3f}")
    print(f"{console.memory()[1]}: {console.memory()[0]:.2f} GiB")
    return ratio


if __name__ == "__main__":
    main()
