"""Jobs of small volumes, with networks that cost nothing, and what they write."""

import functools
import hashlib
import os
import signal
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import tensorstore

from jax_seg.data.readers import open_volume
from jax_seg.infer.blocks.cuts import Cuts
from jax_seg.infer.blocks.job import Job, records_folder
from jax_seg.infer.blocks.run import identity, run
from jax_seg.infer.part import box
from jax_seg.infer.sliding_window import predict_volume
from jax_seg.ops.classes import ONE
from jax_seg.system import engine

CALLS = Counter()


@jax.jit
def network(patches):
    """Logits around 0 that depend on all voxels nearby."""
    kernel = np.random.default_rng(1).normal(0, 0.01, (3, 3, 3, 1, 1)).astype(np.float32)
    names = ("NDHWC", "DHWIO", "NDHWC")
    x = patches.astype(np.float32) - 128
    return jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=names)


def load_network():
    CALLS["loaded"] += 1
    return functools.partial(predict_volume, network, patch=(8, 8, 8), batch=2)


def load_logits(path):
    """A network that has learned the logits in a file by heart."""
    logits = np.load(path)
    return lambda part: logits[box(part.start, part.size)]


def load_killer(folder, index_start, deaths):
    """The network, in a process that dies at a block as often as asked."""

    def segment(part):
        marks = list(Path(folder).glob("death*"))
        if tuple(part.start) == tuple(index_start) and len(marks) < deaths:
            (Path(folder) / f"death{len(marks)}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return load_network()(part)

    return segment


def load_slow(seconds):
    def segment(part):
        time.sleep(seconds)
        return load_network()(part)

    return segment


def make_job(image, output, **changes):
    """A job of the volume at `image` in blocks of 16³ and chunks of 8³."""
    reader = changes.pop("reader", None) or open_volume(image)
    settings = {"kind": changes.get("kind", "mask"), "digest": "a", **changes.pop("settings", {})}
    defaults = {
        "reader": reader,
        "within": None,
        "load": load_network,
        "store": str(output),
        "records": str(records_folder(output)),
        "cuts": Cuts(tuple(reader.shape), (16,) * 3),
        "chunk": (8,) * 3,
        "kind": "mask",
        "threshold": 0.5,
        "steps": (),
        "classes": ONE,
        "measured": {},
        "version": "0.5",
        "threads": engine_threads(),
        "settings": settings,
        "digest": identity(settings),
    }
    return Job(**defaults | changes)


def engine_threads():
    from jax_seg.infer.blocks.job import threads

    return threads()


def compute(job, opened=None, **options):
    """Run a job in this process; its exit status."""
    spans = [(0, length) for length in job.cuts.shape]
    options.setdefault("grids", [((8, 8, 8), 0.5, 1, spans)])
    return run(job, opened or (lambda work: nullcontext(engine.Here(work))), **options)


def read(folder, level=0, driver="zarr3"):
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/{level}"}}
    return tensorstore.open(spec).result().read().result()


def checksums(folder):
    """{path: digest} of all files of an image."""
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
