"""Write a workdir from weights that were trained elsewhere, so that every command can use them."""

import contextlib
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import ml_collections
import numpy as np

from jax_seg.data import intensities
from jax_seg.data.folder import find_images
from jax_seg.data.preprocess import PerVolume, Preprocessing, fit_preprocessing, remarks
from jax_seg.data.readers import read_image
from jax_seg.runs import checkpoints, members
from jax_seg.system import configuration
from jax_seg.system.files import read_json, remove_unfinished_beside, unfinished, write_json


class Imported(NamedTuple):
    """A network that was trained elsewhere.

    Attributes:
      model: `unet.Model` or another of `models.MODELS`.
      params: its parameters.
      preprocessing: `Preprocessing` or `PerVolume` that the network was trained with.
      patch: window size in voxels.
      name: of the model in `models.MODELS`.
      validate: what differs in the configuration's section of that name.
      source: dict of JSON types about where the weights come from.
      rule: fields of the section preprocess with which a run normalises new volumes like this; {}
        where there are none.
      data: fields of that section: what label values mean, where that is not the default, and the
        spacing.
    """

    model: object
    params: dict
    preprocessing: Preprocessing | PerVolume
    patch: tuple
    name: str = "unet"
    validate: dict = {}  # noqa: RUF012 (nothing writes to it)
    source: dict | None = None
    rule: dict = {}  # noqa: RUF012
    data: dict = {}  # noqa: RUF012


def write_workdir(workdir, networks):
    """Write networks as the folders of runs; they appear complete or not at all.

    Args:
      workdir: a folder that does not exist, or is empty.
      networks: {name of a subfolder: `Imported`}; '' is `workdir` itself.

    Raises:
      ValueError: the folder is not empty.
      OSError: it cannot be written.
    """
    workdir = Path(workdir)
    require_empty(workdir)
    remove_unfinished_beside(workdir)
    beside = unfinished(workdir, "")
    try:
        for name, network in networks.items():
            _write(beside / name, network)
        beside.replace(workdir)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write(folder, network):
    model = network.model
    fields = {field: getattr(model, field) for field in model.__dataclass_fields__}
    fields = {k: v for k, v in fields.items() if k not in ("parent", "name")}
    validate = {"metric": "loss", "overlap": 0.5, "windows": 1, "threshold": 0.5}
    config = configuration.as_dict(
        ml_collections.ConfigDict(
            {
                "model": {"name": network.name, **fields},
                "data": {"patch": tuple(network.patch), **network.data},
                "validate": validate | network.validate,
                **({"preprocess": network.rule} if network.rule else {}),
            }
        )
    )
    stored = {
        "epoch": 0,
        "config": config,
        "preprocessing": network.preprocessing._asdict(),
        "code_version": checkpoints.code_version(),
    }
    if network.source:
        stored["source"] = network.source
    write_json(folder / "config.json", config)
    with contextlib.closing(checkpoints.open_checkpoints(folder, metric="loss")) as manager:
        checkpoints.save_params(manager, network.params, stored)


def inherit(config, defaults, workdir):
    """Complete the configuration of a run that starts from an imported network.

    The fields of `model` and `preprocess`, data.patch, data.target_spacing and the meaning of label
    values that the configuration leaves at their defaults become those of the network, so that its
    weights fit and see what they were trained on.

    Args:
      config: ConfigDict, changed in place.
      defaults: ConfigDict with the default of every field.
      workdir: of the run, which repeats what it inherited where the network has moved since.

    Returns:
      ({dotted path: value} that was set, a sentence that names them); ({}, '') where
      train.start_from names no imported network.
    """
    source = config.train.start_from
    if not source:
        return {}, ""
    stored = _stored_config(members.parse(source).workdir)
    if not stored:  # moved since
        stored = _stored_config(workdir)
        if not stored or stored.train.start_from != source:
            return {}, ""
    elif "train" in stored:  # a run of this project: its network is named on purpose
        return {}, ""
    known, given = configuration.flat(stored), configuration.flat(config)
    usual, changed = configuration.flat(defaults), {}
    for field, value in known.items():
        inherited = field.startswith(("model.", "preprocess.", "data."))
        if inherited and given.get(field, value) == usual.get(field) != value:
            changed[field] = value
    config.update_from_flattened_dict(changed)
    if not changed:
        return {}, ""
    words = ", ".join(f"{field}={value}" for field, value in changed.items())
    return changed, (
        f"Taken from {source}, since the configuration leaves them at their defaults: {words}."
    )


def _stored_config(workdir):
    """The configuration of a run, or of the first of its folds; {} where there is none."""
    folder = Path(workdir)
    for path in (folder / "config.json", *sorted(folder.glob("fold_*/config.json"))):
        if path.is_file():
            return configuration.from_dict(read_json(path))
    return {}


def require_empty(workdir):
    """Raise a ValueError if a folder is not empty."""
    workdir = Path(workdir)
    if workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty; choose another folder.")


def preprocessing_of_range(low, high):
    """`Preprocessing` that maps the intensity `low` to 0 and `high` to 1.

    Raises:
      ValueError: `low` is not less than `high`.
    """
    if not low < high:
        raise ValueError(
            f"The range of intensities is {low:g} to {high:g}; give the lower number first."
        )
    return Preprocessing(low, high, low, 1 / (high - low))


def preprocessing_of_images(folder, channels=1):
    """`Preprocessing` from the percentiles 0.5 and 99.5 of each channel of all images in a folder.

    Warns if their intensities are unusual.

    Args:
      folder: of images.
      channels: that the network takes.

    Raises:
      ValueError, FileNotFoundError: there are no images, or one cannot be read, or it has another
        number of channels.
    """
    samples = {v.id: _sample(v.image, channels) for v in find_images(folder, channels)}
    preprocessing = fit_preprocessing(
        np.concatenate([*samples.values()]),
        name="percentile",
        low_percentile=0.5,
        high_percentile=99.5,
    )
    for remark in remarks(samples, {}, preprocessing):
        print(f"Warning: {remark}", file=sys.stderr)
    return preprocessing


def _sample(path, channels):
    """Intensities of an image, [N] or [N, C]."""
    image = read_image(path)
    found = image.shape[3] if image.ndim == 4 else 1
    if found != channels:
        raise ValueError(
            f"{path} has {found} channel{'s' * (found > 1)}, but the network takes {channels}: "
            "name a folder of such images."
        )
    if found == 1:
        return intensities.sample(image)
    return np.stack([intensities.sample(one) for one in np.moveaxis(image, -1, 0)], -1)
