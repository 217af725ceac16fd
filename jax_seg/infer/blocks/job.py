"""All that a process needs in order to compute any block of one output."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_seg.infer.blocks.cuts import Cuts
from jax_seg.ops.classes import Classes

BLOCK_BYTES = 2**31
MASK, PROBABILITIES = "mask", ("uint8", "float16")


@dataclass(frozen=True)
class Job:
    """One volume to segment. It pickles: readers by path, networks by the function that loads them.

    Attributes:
      reader: of the image.
      within: reader of the mask that limits the prediction, or None.
      load: () -> (`Part` -> logits); called once in each process.
      store: folder of the OME-Zarr image.
      records: folder beside it.
      cuts: the volume and its blocks.
      chunk: voxels of a chunk along each axis.
      kind: MASK, or of PROBABILITIES.
      threshold: of a mask without steps.
      steps: of post-processing, as `postprocess.apply` takes them; empty for none.
      classes: `Classes` of the logits.
      measured: {`PerVolume`: what `preprocess.measure` finds on the volume}.
      version: of OME-Zarr.
      threads: of XLA on a CPU, on which the last bits of its products depend; 0 on other devices.
      settings: dict of JSON types, all that decides the result.
      digest: of the settings.
    """

    reader: object
    within: object
    load: Callable
    store: str
    records: str
    cuts: Cuts
    chunk: tuple
    kind: str
    threshold: float | None
    steps: tuple
    classes: Classes
    measured: dict
    version: str
    threads: int
    settings: dict
    digest: str


def threads():
    """Threads of XLA's pool on a CPU: NPROC, or the processors that this process may use."""
    if os.environ.get("NPROC", "").isdigit():
        return int(os.environ["NPROC"])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def default_block(patches, classes=1):
    """Voxels of a block along an axis: four windows, in steps of 64 and at least 256.

    At most as many as leave twice its sums, float32 of each class, within BLOCK_BYTES.

    Every block computes the windows that touch it, so those at its border are computed twice:
    for blocks of four windows that overlap by half, 9 / 8 as many along each axis.
    """
    largest = max(max(patch) for patch in patches)
    most = 64 * int((BLOCK_BYTES / (2 * 4 * classes)) ** (1 / 3) / 64)
    return max(256, min(64 * math.ceil(4 * largest / 64), most))


def require_divided(block, chunk):
    """Raise a ValueError unless chunks divide a block."""
    if any(b % c for b, c in zip(block, chunk, strict=True)):
        raise ValueError(
            f"--block {block[0]} is not a multiple of --chunk {chunk[0]}: a block is written as "
            "whole chunks, so choose sizes that divide, as 256 and 64."
        )


def records_folder(store):
    """Where the records of an output lie: beside it, as 'scroll.blocks' beside 'scroll.zarr'."""
    store = Path(store).absolute()
    return store.with_name(f"{store.name.removesuffix('.zarr')}.blocks")


def within_box(reader, shape, start, size):
    """Where a mask allows foreground in a box of a volume: bool [size].

    Args:
      reader: of the mask, at the volume's resolution or a coarser one; not zero is inside.
      shape: of the volume.
      start, size: of the box.
    """
    places = [
        np.minimum(np.arange(a, a + n) // factor, length - 1)
        for a, n, factor, length in zip(
            start, size, coarseness(reader, shape), reader.shape, strict=True
        )
    ]
    low = [int(p[0]) for p in places]
    voxels = reader.read(low, [int(p[-1]) - a + 1 for p, a in zip(places, low, strict=True)])
    return (voxels != 0)[np.ix_(*(p - a for p, a in zip(places, low, strict=True)))]


def coarseness(reader, shape):
    """Voxels of a volume for one of a mask, along each axis.

    Raises:
      ValueError: the mask's shape is not that of the volume, divided by a whole number.
    """
    factors = [max(round(n / m), 1) for n, m in zip(shape, reader.shape, strict=True)]
    for n, m, factor in zip(shape, reader.shape, factors, strict=True):
        if m not in (n // factor, -(-n // factor)):
            raise ValueError(
                f"--mask {reader.path} has shape {tuple(reader.shape)}, but the volume has "
                f"{tuple(shape)}: give a mask of that shape or of a coarser level of it."
            )
    return factors
