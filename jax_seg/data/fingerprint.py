"""Facts about each volume for training, measured once: shape, counts, intensities, places."""

import hashlib
import math
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_seg.data import labels
from jax_seg.data.cache import source
from jax_seg.data.intensities import SAMPLE
from jax_seg.data.preprocess import has_input
from jax_seg.data.readers.contract import channels_of
from jax_seg.ops.classes import FOREGROUND, MASKED
from jax_seg.system.arrays import load_arrays
from jax_seg.system.files import replacing, stamp, writing

COORDINATES = 20_000  # sampled per class and volume: places where patches may be centred
SLAB = 2**26  # voxels looked at together: a larger volume is never in memory as a whole


class Fingerprint(NamedTuple):
    """Facts of one labelled volume.

    Attributes:
      shape: [3] voxels.
      counts: [3] voxels of background, foreground and masked.
      intensities: [<= SAMPLE] float32 sample of the image; [<= SAMPLE, C] of several channels.
      checksums: [2] CRC-32 of the image's and of the encoded label's voxels.
      labelled, foreground: [<= COORDINATES, 3] sampled coordinates of such voxels, of those where
        the image is not zero in every channel: a patch around one has input. Where all are, of all.
        Of foreground so many of each code, one code after another.
      ends: [codes] where the coordinates of each code of foreground end.
    """

    shape: np.ndarray
    counts: np.ndarray
    intensities: np.ndarray
    checksums: np.ndarray
    labelled: np.ndarray
    foreground: np.ndarray
    ends: np.ndarray


def measure(image, label, seed=0, codes=(FOREGROUND,)):
    """Measure one volume that is in memory.

    Args:
      image: [D, H, W], any real dtype; or [D, H, W, C].
      label: [D, H, W] uint8, encoded as in `ops.classes`.
      seed: of the samples.
      codes: of foreground.

    Returns:
      Fingerprint.
    """
    image, label = np.asarray(image), np.asarray(label)
    several = image.shape[3] if image.ndim == 4 else 1

    def read(first, last):
        return image[first:last], label[first:last]

    return _measure(label.shape, read, codes, seed=seed, channels=several)


class _Scan(NamedTuple):
    """What one pass over the sections of a volume finds; saved after each slab.

    Attributes:
      done: [] sections that have been looked at.
      counts: [3] voxels of each kind so far.
      found: [2 + 2 codes, D] voxels of each of `_wanted` in every section.
      intensities: [SAMPLE or fewer] of the sampled voxels so far; or [.., C].
      checksums: [2] so far.
    """

    done: np.ndarray
    counts: np.ndarray
    found: np.ndarray
    intensities: np.ndarray
    checksums: np.ndarray


def _wanted(codes):
    """Places for patches: (image, label) -> bool. Of a kind, those with input, then all of them."""

    def of_kind(is_it):
        return [
            lambda image, label: is_it(label) & has_input(image, label.ndim),
            lambda _, label: is_it(label),
        ]

    kinds = [lambda label: label != MASKED]
    kinds += [lambda label, code=code: label == code for code in codes]
    return [condition for is_it in kinds for condition in of_kind(is_it)]


def _measure(shape, read, codes, seed=0, partial=None, channels=1):
    """Measure a volume slab by slab: it may be larger than memory.

    Args:
      shape: (D, H, W).
      read: (first, last) section -> (image, encoded label) of these sections.
      codes: of foreground.
      seed: of the samples.
      partial: file that keeps how far the first pass has come; None for none.
      channels: of the image.

    Returns:
      Fingerprint.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    size = math.prod(shape)
    # With replacement: a permutation would cost eight times the volume's memory.
    drawn = np.arange(size) if size <= SAMPLE else generator.integers(0, size, SAMPLE)
    voxels = np.sort(drawn)
    conditions = _wanted(codes)
    scan = _scanned(shape, read, conditions, voxels, partial, channels)
    wanted, ranks = [], []
    for of_kind in range(0, len(conditions), 2):
        for which in (of_kind, of_kind + 1):
            chosen = _ranks(int(scan.found[which].sum()), COORDINATES, generator)
            if chosen.size:
                break
        wanted.append(which)
        ranks.append(chosen)
    found = scan.found[wanted]
    labelled, *places = _located(shape, read, found, [conditions[n] for n in wanted], ranks)
    return Fingerprint(
        shape=np.array(shape),
        counts=scan.counts,
        intensities=scan.intensities,
        checksums=scan.checksums,
        labelled=labelled,
        foreground=np.concatenate(places),
        ends=np.cumsum([len(one) for one in places]),
    )


def _scanned(shape, read, conditions, voxels, partial, channels):
    """The `_Scan` of a volume, taken up where an earlier start has left it in `partial`."""
    depth, page = shape[0], math.prod(shape[1:])
    scan = partial and partial.exists() and _stored(partial, _Scan)
    scan = scan or _Scan(
        done=np.array(0),
        counts=np.zeros(3, np.int64),
        found=np.zeros((len(conditions), depth), np.int64),
        intensities=np.zeros((len(voxels), *((channels,) if channels > 1 else ())), np.float32),
        checksums=np.zeros(2, np.uint32),
    )
    for first, last in _slabs(shape, int(scan.done)):
        image, label = read(first, last)
        here = slice(*np.searchsorted(voxels, (first * page, last * page)))
        flat = image.reshape(-1, *image.shape[3:])
        scan.intensities[here] = flat[voxels[here] - first * page]
        for number, condition in enumerate(conditions):
            scan.found[number, first:last] = [
                np.count_nonzero(condition(*section)) for section in zip(image, label, strict=True)
            ]
        checksums = [_checksum(*pair) for pair in zip((image, label), scan.checksums, strict=True)]
        scan = scan._replace(
            done=np.array(last),
            counts=scan.counts + labels.count(label),
            checksums=np.array(checksums, np.uint32),
        )
        if partial and last < depth:
            with replacing(partial) as beside:
                np.savez_compressed(beside, **scan._asdict())
    return scan


def _located(shape, read, found, wanted, ranks):
    """Coordinates of the voxels with these ranks among those that meet each wanted condition.

    `found` [conditions, D] is how many do in each section.
    """
    places = [[np.zeros((0, 3), np.int32)] for _ in wanted]
    ends = np.cumsum(found, -1)
    for first, last in _slabs(shape):
        before = [end[first - 1] if first else 0 for end in ends]
        spans = [
            np.searchsorted(chosen, (start, end[last - 1]))
            for chosen, start, end in zip(ranks, before, ends, strict=True)
        ]
        if all(start == stop for start, stop in spans):
            continue
        image, label = read(first, last)
        for number, (start, stop) in enumerate(spans):
            here, condition = ranks[number][start:stop] - before[number], wanted[number]
            flat = _nth(zip(image, label, strict=True), condition, here)
            one = np.stack(np.unravel_index(flat, label.shape), -1).astype(np.int32)
            places[number].append(one + np.array([first, 0, 0], np.int32))
    return [np.concatenate(one) for one in places]


def _slabs(shape, start=0):
    """(first, last) sections of the slabs of a volume, from section `start`."""
    sections = max(SLAB // math.prod(shape[1:]), 1)
    return [(n, min(n + sections, shape[0])) for n in range(start, shape[0], sections)]


def _checksum(voxels, checksum):
    """CRC-32 of an array [D, H, W], slice by slice, continued from that of the slices before."""
    for section in voxels:
        checksum = zlib.crc32(np.ascontiguousarray(section), int(checksum))
    return checksum


def _ranks(total, count, generator):
    """Sorted numbers below `total`, all of them or `count` drawn without replacement."""
    if total <= count:
        return np.arange(total)
    return np.sort(generator.choice(total, count, replace=False, shuffle=False))


def _nth(sections, condition, ranks):
    """Flat indices of the voxels of these ranks, sorted, among those that meet a condition."""
    chosen, offset = [np.zeros(0, np.int64)], 0
    for number, section in enumerate(sections):
        met = condition(*section)
        flat = np.flatnonzero(met)
        here = ranks[slice(*np.searchsorted(ranks, (offset, offset + flat.size)))] - offset
        chosen.append(number * met.size + flat[here])
        offset += flat.size
    return np.concatenate(chosen)


def random_places(label, condition, count, generator):
    """Flat indices, sorted, of at most `count` voxels that meet a condition, drawn at random.

    Slice by slice: the indices of all of them would take eight times the volume's memory.

    Args:
      label: [D, H, W].
      condition: section [H, W] -> bool.
      count: number of voxels to draw.
      generator: numpy.random.Generator.
    """
    total = sum(np.count_nonzero(condition(section)) for section in label)
    return _nth(zip(label), condition, _ranks(total, count, generator))


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
        if stored.exists() and (known := _stored(stored, Fingerprint)) is not None:
            return known
        partial = stored.with_suffix(".partial.npz")
        image, label = cache.open(volume.image), cache.open(volume.label)
        result = _measure(
            label.shape,
            _reader_of_slabs(image, label, table),
            table.classes.all_codes,
            partial=partial,
            channels=channels_of(image),
        )
        if not len(result.labelled):
            raise ValueError(
                f"{volume.label} has no labelled voxel: every value is in data.ignore; remove the "
                "volume or correct data.ignore."
            )
        with replacing(stored) as beside:
            np.savez_compressed(beside, **result._asdict())
        partial.unlink(missing_ok=True)
        return result

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, volumes))


def _reader_of_slabs(image, label, table):
    """(first, last) section -> (image, encoded label), from a pair of readers."""

    def read(first, last):
        block = (first, 0, 0), (last - first, *label.shape[1:])
        return image.read(*block), labels.encode(label.read(*block), table, label.path)

    return read


def _stored(path, kind):
    """The NamedTuple in a file; None where it is damaged and has to be measured again."""
    try:
        return kind(**load_arrays(path))
    except (ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
        return None


def read_pair(volume, cache, table):
    """Read a whole volume: image [D, H, W], or [D, H, W, C], and encoded label [D, H, W] uint8."""
    image, label = cache.open(volume.image), cache.open(volume.label)
    zero = (0,) * len(image.shape)
    return (
        image.read(zero, image.shape),
        labels.encode(label.read(zero, label.shape), table, volume.label),
    )


def _identity(volume, table):
    files = [
        (str(path), stamp(path), str(source(path).dtype)) for path in (volume.image, volume.label)
    ]
    text = repr(["places of each code with input", *files])
    return hashlib.sha256(text.encode() + table.tobytes()).hexdigest()[:16]
