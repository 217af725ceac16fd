"""A folder of labelled volumes made ready: split, decoded, measured, with its preprocessing."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_seg.data import cache as volume_cache
from jax_seg.data import folder, folds, intensities, labels, synthetic
from jax_seg.data.fingerprint import fingerprint
from jax_seg.data.preprocess import PerVolume, Preprocessing, fit_preprocessing, measure
from jax_seg.data.readers import check_pair, open_volume
from jax_seg.system.files import existing, remove_unfinished


class Dataset(NamedTuple):
    """The data that a run trains and validates on.

    Attributes:
      train, validation: lists of labelled `Volume`.
      train_facts, validation_facts: their `Fingerprint`s.
      cache: opens their files.
      table: of `labels.label_table`.
      dtype: of the images, uint8 when all of them are, else float32.
      preprocessing: `Preprocessing`, fitted to the training volumes, or `PerVolume`.
      numbers: {id: `Preprocessing`} of each volume under `PerVolume`, else None.
      remarks: sentences on unusual intensities.
    """

    train: list
    validation: list
    train_facts: list
    validation_facts: list
    cache: object
    table: labels.LabelTable
    dtype: np.dtype
    preprocessing: Preprocessing | PerVolume
    numbers: dict | None
    remarks: list


def prepare(
    root,
    *,
    images,
    labels_folder,
    background,
    foreground,
    ignore,
    fold,
    fold_count,
    group,
    seed,
    cache_directory,
    cache_gb,
    threads,
    preprocess,
    preprocessing=None,
):
    """Find, split, decode and measure the volumes of a folder.

    Args:
      root: folder in one of the layouts of `folder.find_volumes`.
      images, labels_folder: names of its two subfolders, '' to find them.
      background, foreground, ignore: label values.
      fold: the one held out, or 'none' for none.
      fold_count: number of folds.
      group: 'scroll_id' keeps the volumes of a scroll in one fold, '' shuffles volumes.
      seed: of the split.
      cache_directory: for decoded volumes and measurements.
      cache_gb: GiB that decoded volumes may take on the disk.
      threads: volumes measured at once.
      preprocess: keyword arguments of `fit_preprocessing`.
      preprocessing: stored values of a resumed run; None fits them.

    Returns:
      Dataset.

    Raises:
      ValueError, FileNotFoundError: bad input, naming the file or the field.
    """
    if not 0 <= cache_gb < math.inf:
        raise ValueError(f"data.cache_gb is {cache_gb}; give GiB, 0 or more.")
    found = folder.find_volumes(existing(root, "data.root"), images=images, labels=labels_folder)
    table = labels.label_table(foreground=foreground, ignore=ignore, background=background)
    train, validation = _split(found, fold=fold, fold_count=fold_count, group=group, seed=seed)
    cache_directory = Path(cache_directory)
    for part in ("volumes", "measured"):  # other runs may share them
        remove_unfinished(cache_directory / part, shared=True)
    cache = volume_cache.Cache(cache_directory / "volumes", int(cache_gb * 2**30))
    used = sorted({v.id: v for v in (*train, *validation)}.values(), key=lambda v: v.id)
    facts = _measure(used, cache, table, cache_directory / "measured", threads)
    train_facts = [facts[v.id] for v in train]
    if preprocessing is None:
        sample = np.concatenate([one.intensities for one in train_facts])
        preprocessing = fit_preprocessing(sample, **preprocess)
    if not any(len(one.foreground) for one in train_facts):
        raise ValueError(
            f"No training volume of {root} has a voxel of data.foreground {tuple(foreground)}; "
            "correct data.foreground."
        )
    own = isinstance(preprocessing, PerVolume)
    return Dataset(
        train=train,
        validation=validation,
        train_facts=train_facts,
        validation_facts=[facts[v.id] for v in validation],
        cache=cache,
        table=table,
        dtype=sample_type(volume.image for volume in used),
        preprocessing=preprocessing,
        numbers=_numbers(used, cache, preprocessing, threads) if own else None,
        # Volumes that differ by a factor are what a normalisation of each is for.
        remarks=[] if own else _remarks(train, validation, facts, preprocessing),
    )


def _remarks(train, validation, facts, preprocessing):
    """Sentences on unusual intensities, see `intensities.remarks`."""
    return intensities.remarks(
        {v.id: facts[v.id].intensities for v in train},
        {v.id: facts[v.id].intensities for v in validation},
        preprocessing.low,
        preprocessing.high,
    )


def _numbers(volumes, cache, rule, threads):
    """{id: `Preprocessing`} of each volume by itself."""

    def one(volume):
        reader = cache.open(volume.image)
        return measure(reader.read((0, 0, 0), reader.shape), rule)[0]

    with ThreadPoolExecutor(threads) as pool:
        return dict(zip([v.id for v in volumes], pool.map(one, volumes), strict=True))


def _split(found, *, fold, fold_count, group, seed):
    """(training, validation): the volumes of either part of a fold."""
    if group not in ("scroll_id", ""):
        raise ValueError(f"data.group is {group!r}; choose 'scroll_id', or '' for single volumes.")
    parts = folds.split(
        [v.id for v in found],
        [v.scroll_id for v in found] if group else None,
        fold=fold,
        folds=fold_count,
        seed=seed,
    )
    by_id = {v.id: v for v in found}
    return tuple([by_id[i] for i in ids] for ids in parts)


def _measure(volumes, cache, table, directory, threads):
    """{id: `Fingerprint`}, after a check that each image fits its label."""
    for volume in volumes:
        check_pair(open_volume(volume.image), open_volume(volume.label))
    measured = fingerprint(volumes, cache, table, directory, threads)
    return {volume.id: facts for volume, facts in zip(volumes, measured, strict=True)}


def sample_type(images):
    """uint8 where all image files hold uint8, else float32; reads headers only."""
    types = {np.dtype(open_volume(image).dtype) for image in images}
    return np.dtype(np.uint8) if types == {np.dtype(np.uint8)} else np.dtype(np.float32)


def write_synthetic(directory, *, volumes, size, seed):
    """Write the generated scrolls of a configuration once, and return their folder."""
    root = Path(directory) / f"synthetic-{volumes}x{size}-seed{seed}"
    if not root.exists():
        synthetic.write_folder(root, count=volumes, size=size, seed=seed)
    return root
