"""Stored measurements: read again where they are whole, measured again where they are damaged."""

import os
import zlib

import numpy as np
import pytest

from jax_seg.data import fingerprint as module
from jax_seg.data import labels
from jax_seg.data.cache import Cache
from jax_seg.data.folder import find_volumes
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED
from tests.conftest import write_volumes


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(function that measures, folder of the measurements, what was measured)."""
    folder = tmp_path_factory.mktemp("measured")
    volumes = find_volumes(write_volumes(folder / "data", count=2, size=12))
    table = labels.label_table(foreground=(1,), ignore=(2,), background=(0,))
    cache = Cache(folder / "volumes", 10**6)

    def measure():
        return module.fingerprint(volumes, cache, table, folder / "measured", threads=1)

    return measure, folder / "measured", measure()


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_a_second_start_reads_them(measured, monkeypatch):
    measure, _, expected = measured
    monkeypatch.setattr(module, "_measure", None)
    assert_same(measure(), expected)


DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:300],
    "cut by a byte": lambda content: content[:-1],
    "zeroed": lambda content: bytes(len(content)),
    "zeroed within": lambda content: content[:200] + bytes(50) + content[250:],
    "other bytes": lambda content: os.urandom(500),
    "text": lambda content: b"{}",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_measured_again(measured, damage):
    measure, folder, expected = measured
    path = sorted(folder.iterdir())[0]
    before = path.read_bytes()
    path.write_bytes(DAMAGE[damage](before))
    assert_same(measure(), expected)
    with np.load(path) as arrays:  # whole again
        assert set(arrays) == set(module.Fingerprint._fields)


def test_other_arrays_are_measured_again(measured):
    """A file of a version that measured something else."""
    measure, folder, expected = measured
    path = sorted(folder.iterdir())[0]
    with path.open("wb") as file:
        np.savez(file, shape=np.ones(3), spacing=np.ones(3))
    assert_same(measure(), expected)


def volume(share_of_zeros):
    """(image, encoded label) of three kinds of voxels in equal parts."""
    generator = np.random.default_rng(3)
    image = generator.integers(1, 255, (40, 70, 50)).astype(np.uint8)
    image[generator.random(image.shape) < share_of_zeros] = 0
    kinds = np.array([BACKGROUND, FOREGROUND, MASKED], np.uint8)
    return image, kinds[generator.integers(0, 3, image.shape)]


@pytest.mark.parametrize("share_of_zeros", [0.3, 1.0])
@pytest.mark.parametrize("slab", [1, 7 * 3500 + 1, 2**26])
def test_a_volume_is_measured_slab_by_slab(slab, share_of_zeros, monkeypatch):
    """As it would be at once, and no more than a slab is read at a time."""
    image, label = volume(share_of_zeros)
    monkeypatch.setattr(module, "SLAB", slab)
    read = []

    def reader(first, last):
        read.append(last - first)
        return image[first:last], label[first:last]

    found = module._measure(label.shape, reader, (1,))
    assert set(read) <= {1, 5, 7, 40} and max(read) <= max(slab // 3500, 1)
    assert found.counts.tolist() == [
        int((label == kind).sum()) for kind in (BACKGROUND, FOREGROUND, MASKED)
    ]
    assert found.checksums.tolist() == [zlib.crc32(image), zlib.crc32(label)]
    assert len(found.labelled) == len(found.foreground) == module.COORDINATES
    for places, kinds in (
        (found.labelled, {BACKGROUND, FOREGROUND}),
        (found.foreground, {FOREGROUND}),
    ):
        assert len(np.unique(places, axis=0)) == module.COORDINATES
        here = tuple(places.T)
        assert set(label[here].tolist()) == kinds
        assert (share_of_zeros == 1) or image[here].all()
        assert 18 < places[:, 0].mean() < 21  # from everywhere
    assert_same([found], [module.measure(image, label)])


def test_a_measurement_that_was_interrupted_goes_on_where_it_was(tmp_path, monkeypatch):
    image, label = volume(0.3)
    monkeypatch.setattr(module, "SLAB", 10 * 3500)
    partial, read = tmp_path / "one.partial.npz", []

    def reader(first, last):
        read.append(first)
        if len(read) == 3:
            raise KeyboardInterrupt
        return image[first:last], label[first:last]

    with pytest.raises(KeyboardInterrupt):
        module._measure(label.shape, reader, (1,), partial=partial)
    found = module._measure(label.shape, reader, (1,), partial=partial)
    assert read == [0, 10, 20, *(20, 30), *(0, 10, 20, 30)]  # then once more, for the places
    assert_same([found], [module.measure(image, label)])
