"""A workdir made of weights that were trained elsewhere, so that every command finds its run."""

import contextlib
import os
import shutil
from pathlib import Path

import ml_collections
import numpy as np

from jax_seg.data.folder import find_images
from jax_seg.data.preprocess import Preprocessing, fit_preprocessing
from jax_seg.data.readers import open_volume
from jax_seg.runs import checkpoints
from jax_seg.runs import config as configuration
from jax_seg.system.files import write_json


def write_workdir(workdir, model, params, *, preprocessing, patch):
    """Write a network as the folder of a run; it appears whole or not at all.

    Args:
      workdir: a folder that does not exist, or is empty.
      model: `unet.Model`.
      params: its parameters.
      preprocessing: `Preprocessing` that the network was trained with.
      patch: window size in voxels.

    Raises:
      ValueError: the folder holds something.
      OSError: it cannot be written.
    """
    workdir = Path(workdir)
    if workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty; choose another folder.")
    fields = {field: getattr(model, field) for field in model.__dataclass_fields__}
    fields = {k: v for k, v in fields.items() if k not in ("parent", "name")}
    config = configuration.as_dict(
        ml_collections.ConfigDict(
            {
                "model": {"name": "unet", **fields},
                "data": {"patch": tuple(patch)},
                "validate": {"metric": "loss", "overlap": 0.5, "windows": 1, "threshold": 0.5},
            }
        )
    )
    stored = {
        "epoch": 0,
        "config": config,
        "preprocessing": preprocessing._asdict(),
        "code_version": checkpoints.code_version(),
    }
    beside = workdir.with_name(f".{workdir.name}.{os.getpid()}")
    try:
        write_json(beside / "config.json", config)
        with contextlib.closing(checkpoints.open_checkpoints(beside, metric="loss")) as manager:
            checkpoints.save_params(manager, params, stored)
        beside.replace(workdir)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def preprocessing_of_range(low, high):
    """`Preprocessing` that makes the intensity `low` 0 and `high` 1.

    Raises:
      ValueError: `low` is not the smaller.
    """
    if not low < high:
        raise ValueError(
            f"The range of intensities is {low:g} to {high:g}; give the lower number first."
        )
    return Preprocessing(low, high, low, 1 / (high - low))


def preprocessing_of_images(folder):
    """`Preprocessing` by the percentiles 0.5 and 99.5 of all volumes of a folder.

    Raises:
      ValueError, FileNotFoundError: there are none, or one cannot be read.
    """
    sample = np.concatenate([_intensities(volume.image) for volume in find_images(folder)])
    return fit_preprocessing(sample, name="percentile", low_percentile=0.5, high_percentile=99.5)


def _intensities(path):
    reader = open_volume(path)
    voxels = reader.read((0,) * len(reader.shape), reader.shape).reshape(-1)
    # Not every n-th: where rows are as long as n, that is a single column of the volume.
    drawn = np.random.default_rng(0).integers(0, voxels.size, 100_000)
    return voxels[np.sort(drawn)].astype(np.float32)
