"""Facts about each volume for training, measured once: shape, counts, intensities, places."""

import hashlib
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_seg.data import labels
from jax_seg.data.intensities import SAMPLE
from jax_seg.ops.classes import FOREGROUND, MASKED
from jax_seg.system.files import replacing, stamp, writing

COORDINATES = 20_000  # sampled per class and volume: places where patches may be centred


class Fingerprint(NamedTuple):
    """Facts of one labelled volume.

    Attributes:
      shape: [3] voxels.
      counts: [3] voxels of background, foreground and masked.
      intensities: [<= SAMPLE] float32 sample of the image.
      checksums: [2] CRC-32 of the image's and of the encoded label's voxels.
      labelled, foreground: [<= COORDINATES, 3] sampled coordinates of such voxels, of those where
        the image is not zero: a patch around one has input. Where all are zero, of all.
    """

    shape: np.ndarray
    counts: np.ndarray
    intensities: np.ndarray
    checksums: np.ndarray
    labelled: np.ndarray
    foreground: np.ndarray


def measure(image, label, seed=0):
    """Measure one volume.

    Args:
      image: [D, H, W], any real dtype.
      label: [D, H, W] uint8, encoded as in `ops.classes`.
      seed: of the samples.

    Returns:
      Fingerprint.
    """
    generator = np.random.Generator(np.random.Philox(seed))

    label, image = np.asarray(label), np.asarray(image)
    seen = np.where(image != 0, label, MASKED)

    def places(condition):
        chosen = random_places(seen, condition, COORDINATES, generator)
        if not chosen.size:
            chosen = random_places(label, condition, COORDINATES, generator)
        return np.stack(np.unravel_index(chosen, label.shape), -1).astype(np.int32)

    if image.size <= SAMPLE:
        voxels = np.arange(image.size)
    else:  # with replacement: a permutation would cost eight times the volume's memory
        voxels = np.sort(generator.integers(0, image.size, SAMPLE))
    return Fingerprint(
        shape=np.array(label.shape),
        counts=np.array(labels.count(label)),
        intensities=image.reshape(-1)[voxels].astype(np.float32),
        checksums=np.array([_checksum(image), _checksum(label)], np.uint32),
        labelled=places(lambda section: section != MASKED),
        foreground=places(lambda section: section == FOREGROUND),
    )


def _checksum(voxels):
    """CRC-32 of an array [D, H, W], slice by slice: it may be larger than memory."""
    checksum = 0
    for section in voxels:
        checksum = zlib.crc32(np.ascontiguousarray(section), checksum)
    return checksum


def random_places(label, condition, count, generator):
    """Flat indices, sorted, of at most `count` voxels that meet a condition, drawn at random.

    Slice by slice: the indices of all of them would take eight times the volume's memory.

    Args:
      label: [D, H, W].
      condition: section [H, W] -> bool.
      count: number of voxels to draw.
      generator: numpy.random.Generator.
    """
    found = np.array([np.count_nonzero(condition(section)) for section in label])
    total, ends = found.sum(), np.cumsum(found)
    if total <= count:
        ranks = np.arange(total)
    else:
        ranks = np.sort(generator.choice(total, count, replace=False, shuffle=False))
    chosen = []
    for number, section in enumerate(label):
        here = ranks[np.searchsorted(ranks, ends[number] - found[number]) :]
        here = here[: np.searchsorted(here, ends[number])] - (ends[number] - found[number])
        if here.size:
            chosen.append(number * section.size + np.flatnonzero(condition(section))[here])
    return np.concatenate([*chosen, np.zeros(0, np.int64)])


def fingerprint(volumes, cache, table, directory, threads):
    """Measure every volume, or read the measurements of an earlier start.

    Args:
      volumes: list of labelled `Volume`.
      cache: `Cache` that decodes the files; the volumes are in it afterwards.
      table: of `labels.label_table`.
      directory: where the measurements are kept.
      threads: volumes measured at once.

    Returns:
      List of Fingerprint, in the order of `volumes`.

    Raises:
      ValueError: a volume is damaged, mismatched or wholly unlabelled; it names the file.
    """
    directory = Path(directory)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)

    def one(volume):
        stored = directory / f"{volume.id}-{_identity(volume, table)}.npz"
        if stored.exists() and (known := _stored(stored)) is not None:
            return known
        image, label = read_pair(volume, cache, table)
        result = measure(image, label)
        if not len(result.labelled):
            raise ValueError(
                f"{volume.label} has no labelled voxel: every value is in data.ignore; remove the "
                "volume or correct data.ignore."
            )
        with replacing(stored) as beside:
            np.savez_compressed(beside, **result._asdict())
        return result

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, volumes))


def _stored(path):
    """The Fingerprint in a file; None where it is damaged and has to be measured again."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return Fingerprint(**arrays)
    except (ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
        return None


def read_pair(volume, cache, table):
    """Read a whole volume: image [D, H, W] and encoded label [D, H, W] uint8."""
    image, label = cache.open(volume.image), cache.open(volume.label)
    zero = (0,) * len(image.shape)
    return (
        image.read(zero, image.shape),
        labels.encode(label.read(zero, label.shape), table, volume.label),
    )


def _identity(volume, table):
    files = (volume.image, volume.label)
    text = repr(["places with input", *((str(path), stamp(path)) for path in files)])
    return hashlib.sha256(text.encode() + table.tobytes()).hexdigest()[:16]
