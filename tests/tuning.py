"""Volumes with dust that post-processing can remove, in the folders of a run and its data."""

import os
import signal
from pathlib import Path

import numpy as np
import tifffile

from jax_seg.infer.postprocess import scoring
from jax_seg.ops.classes import MASKED


def save(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, voxels, photometric="minisblack", compression="zlib")


def blobs(seed, shape=(14, 15, 16)):
    """A slab, its probabilities with single wrong voxels, and 'image': 0 where they are wrong."""
    generator = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    label[4:8] = 1
    label[:, :, :3] = 2
    probability = np.where(label == 1, 0.8, 0.1) + generator.uniform(-0.1, 0.1, shape)
    dust = np.zeros(shape, bool)
    dust[10::2, ::2, ::2] = generator.random(dust[10::2, ::2, ::2].shape) < 0.3
    probability[dust] = 0.95
    return probability.astype(np.float16), label, np.where(dust, 0, 9).astype(np.uint8)


def encoded(label):
    return np.where(label == 2, MASKED, label)


def write_folder(folder):
    """Three volumes that removing dust makes perfect, in the folders of a run and its data."""
    for seed, name in enumerate("abc"):
        probability, label, image = blobs(seed)
        save(folder / "validation/probabilities" / f"{name}.tif", probability)
        save(folder / "labels" / f"{name}.tif", label)
        save(folder / "images" / f"{name}.tif", image)
    return folder


def arrays(name):
    """The `scoring.Arrays` of a volume of `write_folder`."""
    probability, label, image = blobs("abc".index(name))
    return scoring.Arrays(probability.astype(np.float32), encoded(label), image)


def arrays_or_death(folder, deadly, deaths, name):
    """`arrays`, in a process that dies at one of the volumes as often as asked."""
    marks = list(Path(folder).glob("death*"))
    if name == deadly and len(marks) < deaths:
        (Path(folder) / f"death{len(marks)}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return arrays(name)
