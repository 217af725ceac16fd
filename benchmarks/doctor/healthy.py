"""Set-ups in which nothing is wrong; those of real images need the folder that JAX_SEG_DATA names.

It holds `membrane3d` (electron microscopy, 45 × 4.6 × 4.6 nm; Gerhard et al. 2013), `hippocampus`
(magnetic resonance, Task04 of the Medical Segmentation Decathlon; Antonelli et al. 2022) and
`mitochondria2d` (slices of the former in the layout of COD10K).
"""

import functools
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.doctor.setups import Setup, changed, learner, names, read, scrolls, write
from configs import cod10k, demo, membrane

REAL = Path(os.environ.get("JAX_SEG_DATA", "data"))


def strong(folder):
    """Muon, which takes larger steps than AdamW."""
    fields = {"optimizer.name": "muon", "optimizer.momentum": 0.95, "schedule.learning_rate": 2e-2}
    return changed(scrolls(folder, 1), **fields)._replace(trains=True)


def weak(folder):
    """Plain gradient descent with momentum at a moderate rate, for longer."""
    fields = {"optimizer.name": "sgd", "optimizer.momentum": 0.9, "schedule.learning_rate": 0.05}
    return changed(scrolls(folder, 2), **fields, **{"train.epochs": 20})._replace(trains=True)


def as_in_the_demo(folder):
    """What `make demo` trains."""
    setup = scrolls(folder, 0, size=96)
    config = demo.get_config()
    config.data.root = str(setup.data)
    return setup._replace(config=config)


def sparse(folder):
    """Labels in every fourth slice alone; the others are unlabelled."""
    setup = scrolls(folder, 4)
    for name in names(setup):
        label = read(setup, name)[1]
        label[np.arange(len(label)) % 4 != 0] = 2
        write(setup, name, label=label)
    return setup


def membranes(folder):
    """Slices ten times as thick as a pixel is wide, with the two finest levels in plane."""
    if not (root := _copy("membrane3d", folder)):
        return None
    config = membrane.get_config()
    config.data.update(root=str(root), patch=(8, 64, 64), patches_per_volume=8)
    config.model.filters = 6
    config.train.epochs = 12
    return Setup(config, Path(folder), trains=True)


def slices(folder):
    """Single slices: a network in two dimensions."""
    if not (root := _copy("membrane3d", folder)):
        return None
    config = membrane.get_config()
    config.data.update(root=str(root), patch=(1, 96, 96))
    config.model.update(filters=8, planar_levels=3)
    return Setup(config, Path(folder))


def hippocampus(folder):
    """Small compact objects in volumes of different scanners, normalised beforehand."""
    source = REAL / "hippocampus"
    if not source.is_dir():
        return None
    for kind, target in (("imagesTr", "train_images"), ("labelsTr", "train_labels")):
        (Path(folder) / "data" / target).mkdir(parents=True)
        for path in sorted((source / kind).glob("[!.]*.nii.gz"))[:16]:
            volume = _nifti(path)
            if kind == "imagesTr":
                volume = (255 * np.clip(volume / np.percentile(volume, 99.5), 0, 1)).round()
            name = path.name.removesuffix(".nii.gz").removesuffix("_0000")
            tifffile.imwrite(Path(folder) / "data" / target / f"{name}.tif", volume.astype("u1"))
    config = learner(Path(folder) / "data")
    config.data.update(foreground=(1, 2), ignore=(), patches_per_volume=4)
    config.validate.patches_per_volume = 2
    config.train.epochs = 16
    return Setup(config, Path(folder))


def photographs(folder):
    """Images of the second system, and its small detector."""
    if not (root := _copy("mitochondria2d", folder)):
        return None
    config = cod10k.get_config("demo")
    config.data.root = str(root)
    return Setup(config, Path(folder))


def _copy(name, folder):
    """The folder `data` of a set-up with a copy of real images; None where they are absent."""
    if not (REAL / name).is_dir():
        return None
    return shutil.copytree(REAL / name, Path(folder) / "data")


def _nifti(path):
    """The voxels [D, H, W] of a NIfTI-1 file (nifti.nimh.nih.gov/nifti-1): header, then voxels."""
    content = gzip.decompress(path.read_bytes())
    width, height, depth = np.frombuffer(content, "<i2", 3, 42)
    kinds = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 512: "<u2"}
    kind = kinds[int(np.frombuffer(content, "<i2", 1, 70)[0])]
    start = int(np.frombuffer(content, "<f4", 1, 108)[0])
    count = int(depth) * int(height) * int(width)
    return np.frombuffer(content, kind, count, start).reshape(depth, height, width)


SETUPS = {
    "generated scrolls, trained": lambda folder: scrolls(folder, 0)._replace(trains=True),
    "the demo": as_in_the_demo,
    "larger scrolls of another seed": functools.partial(scrolls, seed=3, size=72),
    "labels in every fourth slice": sparse,
    "a strong optimizer, trained": strong,
    "a weak optimizer, trained": weak,
    "membranes, anisotropic, trained": membranes,
    "membranes slice by slice": slices,
    "hippocampus": hippocampus,
    "images of the second system": photographs,
}
"""{name: folder -> Setup, or None where its data are not on this machine}."""
