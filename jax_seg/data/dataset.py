"""A folder of labelled volumes made ready: split, decoded, measured, with its preprocessing."""

import contextlib
import hashlib
import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_seg.data import dataset_json, folder, folds, labels, spacing, synthetic
from jax_seg.data.cache import Cache, source
from jax_seg.data.fingerprint import fingerprint
from jax_seg.data.preprocess import (
    PerVolume,
    Preprocessing,
    fit_preprocessing,
    measure,
    remarks,
    stored,
)
from jax_seg.data.readers import check_pair, sections
from jax_seg.data.readers.contract import channels_of, require_one_channel
from jax_seg.ops.classes import ONE
from jax_seg.system.files import existing, read_json, remove_unfinished, stamp, write_json

RESAMPLED = "resampled"  # folder in the cache


class Dataset(NamedTuple):
    """The data that a run trains and validates on.

    Attributes:
      train, validation: lists of labelled `Volume`; those of another spacing than the run's are
        resampled copies.
      originals: {id: the `Volume` as it was found} of both.
      spacing: (z, y, x) of the run, see `spacing.of_run`; None where it is not known.
      spacings: {id: that of the original, or None where it is not known}.
      train_facts, validation_facts: their `Fingerprint`s.
      cache: opens their files.
      table: of `labels.label_table`.
      dtype: of the images, uint8 when all of them are, else float32.
      channels: of every image.
      preprocessing: `Preprocessing`, fitted to the training volumes, or `PerVolume`.
      numbers: {id: `Preprocessing`} of each volume under `PerVolume`, else None.
      remarks: sentences on label values that may be masked by mistake and unusual intensities.
    """

    train: list
    validation: list
    originals: dict
    spacing: tuple | None
    spacings: dict
    train_facts: list
    validation_facts: list
    cache: object
    table: labels.LabelTable
    dtype: np.dtype
    channels: int
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
    at,
    classes=(),
    preprocessing=None,
):
    """Find, split, decode and measure the volumes of a folder.

    Args:
      root: folder in one of the layouts of `folder.find_volumes`.
      images, labels_folder: names of its two subfolders, '' to find them.
      background, foreground, ignore, classes: of `labels.label_table`.
      fold, fold_count: the one held out, or 'none' for none; the number of folds.
      group: 'scroll_id' keeps the volumes of a scroll in one fold, '' shuffles volumes.
      seed: of the split.
      cache_directory: for decoded volumes and measurements.
      cache_gb: GiB that decoded and resampled volumes may take on the disk.
      threads: volumes measured at once.
      preprocess: keyword arguments of `fit_preprocessing`.
      at: `spacing.Rule`.
      preprocessing: stored values of a resumed run; None fits them.

    Returns:
      Dataset.

    Raises:
      ValueError, FileNotFoundError: bad input, naming the file or the field.
    """
    spacing.check(at)
    found = folder.find_volumes(existing(root, "data.root"), images=images, labels=labels_folder)
    table = labels.label_table(
        foreground=foreground, ignore=ignore, background=background, classes=classes
    )
    train, validation = _split(found, fold=fold, fold_count=fold_count, group=group, seed=seed)
    channels = require_same_channels([*train, *validation])
    cache_directory = Path(cache_directory)
    originals, spacings, target, copies = _at_one_spacing(
        [*train, *validation], table, cache_directory / RESAMPLED, at
    )
    cache = cache_in(cache_directory, cache_gb, copies)
    at_target = originals | {copy.source.id: spacing.write(copy, table) for copy in copies}
    train, validation = ([at_target[v.id] for v in part] for part in (train, validation))
    used = [*at_target.values()]
    facts = _measure(used, cache, table, cache_directory / "measured", threads)
    train_facts = [facts[v.id] for v in train]
    if preprocessing is None:
        everything = np.concatenate([one.intensities for one in train_facts])
        preprocessing = fit_preprocessing(everything, **preprocess)
    _require_foreground(train_facts, root, table)
    return Dataset(
        train=train,
        validation=validation,
        originals=originals,
        spacing=target,
        spacings=spacings,
        train_facts=train_facts,
        validation_facts=[facts[v.id] for v in validation],
        cache=cache,
        table=table,
        dtype=sample_type(volume.image for volume in used),
        channels=channels,
        preprocessing=preprocessing,
        numbers=_numbers(used, cache, preprocessing, cache_directory / "measured", threads),
        remarks=dataset_json.masked_although_named(root, table)
        + _remarks(train, validation, facts, preprocessing),
    )


def _require_foreground(facts, root, table):
    if not any(len(one.foreground) for one in facts):
        field = "data.foreground" if table.classes == ONE else "data.classes"
        raise ValueError(
            f"No training volume of {root} has a voxel of {field} {table.foreground}; "
            f"correct {field}."
        )


def _remarks(train, validation, facts, preprocessing):
    """Sentences on unusual intensities, see `preprocess.remarks`."""
    if isinstance(preprocessing, PerVolume):
        return []  # volumes that differ by a factor are what a normalisation of each is for
    parts = ({v.id: facts[v.id].intensities for v in part} for part in (train, validation))
    return remarks(*parts, preprocessing)


def _numbers(volumes, cache, rule, directory, threads):
    """{id: `Preprocessing`} of each volume by itself under `PerVolume`, else None.

    Stored in a directory as JSON, since all voxels are read for them.
    """
    if not isinstance(rule, PerVolume):
        return None

    def one(volume):
        kind = str(source(volume.image).dtype)
        facts = repr((str(volume.image), stamp(volume.image), kind, rule)).encode()
        file = directory / f"{volume.id}-{hashlib.sha256(facts).hexdigest()[:16]}.json"
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            return stored(read_json(file))
        found = measure(sections.in_memory_if_small(cache.open(volume.image)), rule)[0]
        write_json(file, found._asdict())
        return found

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


def cache_in(directory, gigabytes, copies=()):
    """The `Cache` in a folder of a run, within what the copies of volumes leave of its limit.

    Decoded volumes may be removed at any time, since they are decoded again. Copies are kept, those
    of other runs too, which may be reading them.

    Args:
      directory: of decoded, measured and resampled volumes.
      gigabytes: data.cache_gb.
      copies: list of `spacing.Copy` that the run needs.
    """
    if not 0 <= gigabytes < math.inf:
        raise ValueError(f"data.cache_gb is {gigabytes}; give GiB, 0 or more.")
    for part in ("volumes", "measured", RESAMPLED):  # other runs may share them
        remove_unfinished(directory / part, shared=True)
    own = {file for copy in copies for file in spacing.files_of(copy)}
    others = set((directory / RESAMPLED).glob("*.tif")) - own
    of_others = sum(file.stat().st_size for file in others)
    needed = sum(map(spacing.bytes_of, copies))
    left = int(gigabytes * 2**30) - of_others - needed
    if copies and left < 0:
        raise ValueError(
            f"Volumes of another spacing take {needed / 2**30:.3g} GiB resampled, besides "
            f"{of_others / 2**30:.3g} GiB of other runs or versions in {directory / RESAMPLED}, "
            f"but data.cache_gb is {gigabytes:g}: raise it, or delete what no run needs there."
        )
    cache = Cache(directory / "volumes", max(left, 0))
    if copies:
        cache.make_room()
    return cache


def _at_one_spacing(volumes, table, directory, rule):
    """The spacing of a run, and what is to be resampled to it; all volumes are checked.

    Returns:
      ({id: Volume} as found, {id: spacing or None}, spacing of the run, list of `spacing.Copy` of
      those of another).
    """
    found = {v.id: v for v in sorted(volumes, key=lambda v: v.id)}
    spacings = {
        id: tuple(map(float, rule.voxels)) or spacing.stated(v.image, v.spacing)
        for id, v in found.items()
    }
    target = spacing.of_run(spacings.values(), rule.target)
    for volume in found.values():
        image, label = source(volume.image), source(volume.label)
        require_one_channel(label)
        check_pair(image, label)
    copies = [
        spacing.copy_of(volume, spacings[id], target, table, directory)
        for id, volume in found.items()
        if spacing.to_resample(volume.image, spacings[id], target, rule.resample)
    ]
    return found, spacings, target, copies


def _measure(volumes, cache, table, directory, threads):
    """{id: `Fingerprint`}."""
    measured = fingerprint(volumes, cache, table, directory, threads)
    return {volume.id: facts for volume, facts in zip(volumes, measured, strict=True)}


def sample_type(images):
    """uint8 where all image files hold uint8, else float32; reads headers only."""
    types = {np.dtype(source(image).dtype) for image in images}
    return np.dtype(np.uint8) if types == {np.dtype(np.uint8)} else np.dtype(np.float32)


def require_same_channels(volumes):
    """The number of channels of all images of a list of `Volume`; reads headers only.

    Raises:
      ValueError: naming an image that has another number than the others.
    """
    counts = {volume.image: channels_of(source(volume.image)) for volume in volumes}
    usual = statistics.mode(counts.values())
    for image, count in counts.items():
        if count != usual:
            raise ValueError(
                f"{image} has {count} channel{'s' * (count > 1)}, but other images have {usual}: "
                "give every image the same channels, as NAME_0000, NAME_0001 and so on."
            )
    return usual


def write_synthetic(directory, *, volumes, size, seed):
    """Write the generated scrolls of a configuration once, and return their folder."""
    root = Path(directory) / f"synthetic-{volumes}x{size}-seed{seed}"
    if not root.exists():
        synthetic.write_folder(root, count=volumes, size=size, seed=seed)
    return root
