"""Set-ups to examine: a configuration with its data, and a run where one is needed."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from configs import base
from jax_seg.data import synthetic
from jax_seg.system import configuration
from jax_seg.system.files import write_json
from jax_seg.training import run as training


class Setup(NamedTuple):
    """What is examined.

    Attributes:
      config: ConfigDict; its data lie in `folder / "data"`.
      folder: Path, for this set-up alone.
      after: (workdir) -> None, functions that change what its run has left.
      trains: whether its run is examined; else its configuration is.
    """

    config: object
    folder: Path
    after: tuple = ()
    trains: bool = False

    @property
    def data(self):
        """The folder of images and labels."""
        return self.folder / "data"


class Fault(NamedTuple):
    """A fault that the doctor has to find.

    Attributes:
      cause: of `diagnosis.finding.CAUSES`.
      says: what is done, in a few words.
      plant: (setup, generator) -> Setup, with the fault in its data, configuration or run.
        Magnitudes are drawn from the generator, around the smallest that costs 0.05 Dice.
      trains: whether it shows in a run alone.
      start: (folder, seed) -> healthy Setup.
    """

    cause: str
    says: str
    plant: Callable
    trains: bool = False
    start: Callable | None = None


def learner(root):
    """The configuration of a network of four filters that learns small volumes in half a minute."""
    config = base.get_config()
    config.data.update(root=str(root), patch=(32, 32, 32), batch=2, threads=1, folds=4)
    config.data.patches_per_volume = 6
    config.model.update(filters=4, poolings=2)
    config.loss.weights.update(dice=0.5, cross_entropy=0.5, focal=0.0)
    config.optimizer.update(name="adamw", weight_decay=1e-2, clip_norm=1.0)
    config.schedule.update(name="cosine", learning_rate=5e-3, warmup_epochs=1)
    config.train.epochs = 10
    config.validate.update(metric="dice", volumes_every=2, patches_per_volume=4)
    config.plateau.update(worse_epochs=0, rollback_fraction=0.0, patience=0)
    config.average.swa_every = 0
    config.noise.std = 0.0
    config.postprocess.steps = ()
    return config


def scrolls(folder, seed=0, *, size=48, volumes=8):
    """Generated scrolls, and a network that learns them."""
    folder = Path(folder)
    synthetic.write_folder(folder / "data", volumes, size=size, seed=seed)
    return Setup(learner(folder / "data"), folder)


def train(setup, kept):
    """The workdir of a set-up's finished run, after its `after`.

    Args:
      setup: Setup.
      kept: folder of finished runs: one with the same configuration and data is copied.
    """
    workdir, identity = setup.folder / "run", _identity(setup)
    finished = Path(kept) / identity
    if not (finished / "scores.json").exists():
        training.run(setup.config, finished)
    shutil.copytree(finished, workdir)
    write_json(workdir / "config.json", configuration.as_dict(setup.config))  # where its data are
    for change in setup.after:
        change(workdir)
    return workdir


def _identity(setup):
    digest = hashlib.sha256()
    text = setup.config.to_json().replace(str(setup.folder), "")
    digest.update(text.encode())
    for path in sorted(p for p in setup.data.rglob("*") if p.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def names(setup):
    """The ids of the volumes, sorted."""
    return sorted(path.stem for path in (setup.data / "train_images").glob("*.tif"))


def read(setup, name):
    """(image, label) of a volume, [D, H, W] each."""
    return tuple(
        tifffile.imread(setup.data / f"train_{kind}" / f"{name}.tif")
        for kind in ("images", "labels")
    )


def write(setup, name, *, image=None, label=None):
    """Replace the image or the label of a volume."""
    for kind, array in (("images", image), ("labels", label)):
        if array is not None:
            path = setup.data / f"train_{kind}" / f"{name}.tif"
            tifffile.imwrite(path, np.ascontiguousarray(array), compression="lzw")


def changed(setup, **fields):
    """`setup` with other fields: changed(setup, **{"loss.focal_alpha": 0.9})."""
    config = setup.config.copy_and_resolve_references()
    config.update_from_flattened_dict(fields)
    return setup._replace(config=config)
