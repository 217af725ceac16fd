"""Stored measurements: read again where they are whole, measured again where they are damaged."""

import os

import numpy as np
import pytest

from jax_seg.data import fingerprint as module
from jax_seg.data import labels
from jax_seg.data.cache import Cache
from jax_seg.data.folder import find_volumes
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
    monkeypatch.setattr(module, "measure", None)
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
