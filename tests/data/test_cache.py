"""The decoded cache: right bytes, bounded bytes, and no half-written file whatever happens."""

import errno
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import zarr

from jax_seg.data import cache as module
from jax_seg.data.cache import Cache
from jax_seg.system.files import remove_unfinished
from tests.small_disk import files_of_at_most

SHAPE = (8, 32, 32)
FILE_BYTES = 8 * 32 * 32 + 128  # voxels and the .npy header


@pytest.fixture
def make_tiff(tmp_path):
    def make(name, seed=0, dtype=np.uint8):
        voxels = np.random.default_rng(seed).integers(0, 100, SHAPE).astype(dtype)
        tifffile.imwrite(tmp_path / name, voxels, compression="lzw")
        return tmp_path / name, voxels

    return make


def read_whole(reader):
    return reader.read((0, 0, 0), reader.shape)


def stored(cache):
    return sorted(cache.directory.glob("*.npy"))


@pytest.fixture
def always_checked(monkeypatch):
    monkeypatch.setattr(module, "CHECK_SECONDS", 0)


def forbid_decoding(monkeypatch):
    def fail(*arguments):
        raise AssertionError("decoded again")

    monkeypatch.setattr(Cache, "_decode", fail)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool, np.float64])
def test_decodes_once(tmp_path, make_tiff, monkeypatch, dtype):
    path, voxels = make_tiff("a.tif", dtype=dtype)
    cache = Cache(tmp_path / "cache", 10**6)
    monkeypatch.setattr(module, "SLAB_BYTES", 3 * 32 * 32)  # several slabs, the last one shorter
    reader = cache.open(path)
    assert reader.path == path
    assert reader.shape == SHAPE
    assert reader.dtype == {bool: np.uint8, np.float64: np.float32}.get(dtype, dtype)
    np.testing.assert_array_equal(read_whole(reader), voxels)
    forbid_decoding(monkeypatch)
    module._open_map.cache_clear()
    again = cache.open(str(path))
    np.testing.assert_array_equal(again.read((2, 3, 4), (5, 6, 7)), voxels[2:7, 3:9, 4:11])
    assert isinstance(again.voxels, np.memmap)
    assert np.shares_memory(again.read((0, 0, 0), (1, 1, 1)), again.voxels)
    assert type(again.read((0, 0, 0), (1, 1, 1))) is np.ndarray


def test_block_outside(tmp_path, make_tiff):
    reader = Cache(tmp_path / "cache", 10**6).open(make_tiff("a.tif")[0])
    with pytest.raises(ValueError, match=r"a\.tif has shape \(8, 32, 32\), so a block"):
        reader.read((0, 0, 30), (1, 1, 3))


@pytest.mark.usefixtures("always_checked")
@pytest.mark.parametrize("same", ["size", "modification time"])
def test_changed_source_is_decoded_again(tmp_path, make_tiff, same):
    cache = Cache(tmp_path / "cache", 10**6)
    path, _ = make_tiff("a.tif", seed=0)
    length = 20_000 if same == "size" else path.stat().st_size
    os.truncate(path, length)  # longer than its pages: TIFF allows that
    os.utime(path, ns=(1, 1))
    cache.open(path)
    path, changed = make_tiff("a.tif", seed=1)
    os.truncate(path, 20_000)
    os.utime(path, ns=(1, 2 if same == "size" else 1))
    np.testing.assert_array_equal(read_whole(cache.open(path)), changed)
    assert len(stored(cache)) == 2


@pytest.mark.usefixtures("always_checked")
def test_changed_slice_is_decoded_again(tmp_path):
    """Its folder does not notice: neither its size nor its modification time changes."""
    folder, voxels = tmp_path / "scroll", np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    folder.mkdir()
    for number, plane in enumerate(voxels):
        tifffile.imwrite(folder / f"{number}.tif", plane, compression="lzw")
    cache = Cache(tmp_path / "cache", 10**6)
    np.testing.assert_array_equal(read_whole(cache.open(folder)), voxels)
    voxels[1] += 100
    tifffile.imwrite(folder / "1.tif", voxels[1], compression="lzw")
    os.utime(folder / "1.tif", ns=(1, 1))  # two writes may share a tick of the clock
    np.testing.assert_array_equal(read_whole(cache.open(folder)), voxels)
    assert len(stored(cache)) == 2


def test_random_access_volumes_are_not_cached(tmp_path):
    voxels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    tifffile.imwrite(tmp_path / "plain.tif", voxels, photometric="minisblack")
    zarr.create_array(tmp_path / "a.zarr", data=voxels)
    cache = Cache(tmp_path / "cache", 1)
    for number, plane in enumerate(voxels):
        (tmp_path / "slices").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"slices/{number}.tif", plane)
    for name in ("plain.tif", "a.zarr", "slices"):
        np.testing.assert_array_equal(read_whole(cache.open(tmp_path / name)), voxels)
    assert list(cache.directory.iterdir()) == []


@pytest.mark.parametrize("compression", ["lzw", None])
def test_a_source_is_checked_once_a_minute(tmp_path, monkeypatch, compression):
    path, clock, checked = tmp_path / "a.tif", [100.0], []
    tifffile.imwrite(path, np.ones(SHAPE, np.uint8), compression=compression)
    version = module._version
    monkeypatch.setattr(module, "_version", lambda path: checked.append(path) or version(path))
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    cache = Cache(tmp_path / "cache", 10**6)
    for moment, checks in ((100, 1), (100, 1), (159, 1), (161, 2), (220, 2)):
        clock[0] = moment
        assert read_whole(cache.open(path)).all() and len(checked) == checks


@pytest.mark.usefixtures("always_checked")
def test_bound_and_eviction_of_the_least_recently_used(tmp_path, make_tiff):
    paths, arrays = zip(*(make_tiff(f"{n}.tif", seed=n) for n in range(3)), strict=True)
    cache = Cache(tmp_path / "cache", 2 * FILE_BYTES)
    first = cache.open(paths[0])
    (file_0,) = stored(cache)
    cache.open(paths[1])
    assert len(stored(cache)) == 2
    cache.open(paths[0])  # so that volume 1 is the older one
    cache.open(paths[2])
    assert len(stored(cache)) == 2
    assert file_0 in stored(cache)
    cache.open(paths[1])
    assert file_0 not in stored(cache)
    np.testing.assert_array_equal(read_whole(first), arrays[0])  # its map outlives its file
    for _ in range(2):
        for path, array in zip(paths, arrays, strict=True):
            np.testing.assert_array_equal(read_whole(cache.open(path)), array)
            assert sum(file.stat().st_size for file in stored(cache)) <= cache.limit_bytes


def test_bound_holds_while_a_volume_is_written(tmp_path, make_tiff, monkeypatch):
    cache = Cache(tmp_path / "cache", FILE_BYTES)
    sizes = []

    def measure(descriptor):
        sizes.append(sum(file.stat().st_size for file in cache.directory.iterdir()))

    monkeypatch.setattr(os, "fsync", measure)
    for n in range(2):
        cache.open(make_tiff(f"{n}.tif", seed=n)[0])
    assert sizes == [FILE_BYTES, FILE_BYTES]


def test_bound_holds_after_two_volumes_were_written_at_once(tmp_path, make_tiff, monkeypatch):
    (path, voxels), (other, _) = make_tiff("a.tif", seed=0), make_tiff("b.tif", seed=1)
    cache = Cache(tmp_path / "cache", FILE_BYTES)
    fsync = os.fsync

    def meanwhile(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        Cache(cache.directory, FILE_BYTES).open(other)

    monkeypatch.setattr(os, "fsync", meanwhile)
    np.testing.assert_array_equal(read_whole(cache.open(path)), voxels)
    assert len(list(cache.directory.iterdir())) == 1


def test_exactly_the_limit_fits_and_one_byte_less_does_not(tmp_path, make_tiff):
    path, voxels = make_tiff("a.tif")
    cache = Cache(tmp_path / "cache", FILE_BYTES)
    np.testing.assert_array_equal(read_whole(cache.open(path)), voxels)
    assert len(stored(cache)) == 1
    with pytest.raises(ValueError, match=r"a\.tif takes .* GiB decoded.*raise data\.cache_gb"):
        Cache(tmp_path / "smaller", FILE_BYTES - 1).open(path)


def test_only_few_maps_stay_open(tmp_path, make_tiff):
    cache = Cache(tmp_path / "cache", 10**7)
    for n in range(module.OPEN_MAPS + 4):
        cache.open(make_tiff(f"{n}.tif", seed=n)[0])
        cache.open(tmp_path / f"{n}.tif")
    assert module._open_map.cache_info().currsize <= module.OPEN_MAPS


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk(tmp_path, make_tiff, monkeypatch, code):
    def full(descriptor):
        raise OSError(code, "no space")

    path, voxels = make_tiff("a.tif")
    cache = Cache(tmp_path / "cache", 10**6)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"disk of the cache .* is full .*a\.tif") as caught:
            cache.open(path)
    assert caught.value.errno == code
    assert list(cache.directory.iterdir()) == []
    np.testing.assert_array_equal(read_whole(cache.open(path)), voxels)


def test_a_limit_on_the_size_of_files(tmp_path, make_tiff):
    path, _ = make_tiff("a.tif")
    cache = Cache(tmp_path / "cache", 10**6)
    with (
        pytest.raises(OSError, match=r"\.npy could not be written \(File too large\): raise"),
        files_of_at_most(1000),
    ):
        cache.open(path)
    assert list(cache.directory.iterdir()) == []


def test_damaged_source_leaves_nothing(tmp_path, make_tiff, monkeypatch):
    path, voxels = make_tiff("a.tif", dtype=np.float32)
    voxels[7, 0, 0] = np.nan
    tifffile.imwrite(path, voxels, compression="lzw")
    monkeypatch.setattr(module, "SLAB_BYTES", 1)
    cache = Cache(tmp_path / "cache", 10**6)
    with pytest.raises(ValueError, match=r"a\.tif holds nan at voxel \(7, 0, 0\)"):
        cache.open(path)
    assert list(cache.directory.iterdir()) == []


def test_no_name_before_the_last_byte(tmp_path, make_tiff, monkeypatch):
    """Whoever looks while a volume is written sees no .npy file."""
    seen = []
    cache = Cache(tmp_path / "cache", 10**6)
    fsync = os.fsync

    def look(descriptor):
        seen.append([file.suffix for file in cache.directory.iterdir()])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    cache.open(make_tiff("a.tif")[0])
    assert seen == [[".part"]]
    assert [file.suffix for file in cache.directory.iterdir()] == [".npy"]


DAMAGE = {
    "cut": lambda content: content[:500],
    "cut in its header": lambda content: content[:50],
    "empty": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "header zeroed in part": lambda content: content[:20] + bytes(40) + content[60:],
    "other bytes": lambda content: os.urandom(500),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_cache_file_is_replaced(tmp_path, make_tiff, damage):
    path, voxels = make_tiff("a.tif")
    cache = Cache(tmp_path / "cache", 10**6)
    cache.open(path)
    module._open_map.cache_clear()
    (file,) = stored(cache)
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    np.testing.assert_array_equal(read_whole(cache.open(path)), voxels)
    module._open_map.cache_clear()
    assert np.load(file).tobytes() == voxels.tobytes()


def test_what_a_killed_decoder_leaves_is_recognised(tmp_path, make_tiff, monkeypatch):
    """A file under way names the process that writes it: a later run removes it."""
    seen = []

    def look(descriptor):
        seen.extend(file.name for file in cache.directory.iterdir())

    cache = Cache(tmp_path / "cache", 10**6)
    monkeypatch.setattr(os, "fsync", look)
    cache.open(make_tiff("a.tif")[0])
    (name,) = seen
    assert f".{os.getpid()}@" in name
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    left = cache.directory / name.replace(f".{os.getpid()}@", f".{dead.pid}@")
    left.touch()
    remove_unfinished(cache.directory, shared=True)
    assert len(stored(cache)) == 1 and not left.exists()


def test_part_files_of_dead_writers_are_removed(tmp_path, make_tiff):
    cache = Cache(tmp_path / "cache", FILE_BYTES)
    dead, alive = cache.directory / "dead.part", cache.directory / "alive.part"
    dead.write_bytes(bytes(100))
    alive.write_bytes(bytes(100))
    long_ago = time.time() - module.ABANDONED_SECONDS - 60
    os.utime(dead, (long_ago, long_ago))
    path, voxels = make_tiff("a.tif")
    np.testing.assert_array_equal(read_whole(cache.open(path)), voxels)
    assert not dead.exists()
    assert alive.exists()


def test_one_file_decoded_by_two_writers_at_once(tmp_path, make_tiff, monkeypatch):
    """The second writer starts and ends while the first is about to rename."""
    path, voxels = make_tiff("a.tif")
    cache = Cache(tmp_path / "cache", 10**6)
    inner = []
    fsync = os.fsync

    def meanwhile(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        inner.append(Cache(cache.directory, 10**6).open(path))

    monkeypatch.setattr(os, "fsync", meanwhile)
    outer = cache.open(path)
    np.testing.assert_array_equal(read_whole(outer), voxels)
    np.testing.assert_array_equal(read_whole(inner[0]), voxels)
    assert len(list(cache.directory.iterdir())) == 1


def test_file_unlinked_by_another_process_between_rename_and_use(tmp_path, make_tiff, monkeypatch):
    path, voxels = make_tiff("a.tif")
    cache = Cache(tmp_path / "cache", 10**6)

    def evict_everything(self, needed=0):
        for file in stored(cache):
            file.unlink()

    monkeypatch.setattr(Cache, "make_room", evict_everything)
    np.testing.assert_array_equal(read_whole(cache.open(path)), voxels)


def test_threads(tmp_path, make_tiff):
    paths, arrays = zip(*(make_tiff(f"{n}.tif", seed=n) for n in range(4)), strict=True)
    cache = Cache(tmp_path / "cache", 2 * FILE_BYTES)
    with ThreadPoolExecutor(4) as pool:
        for reader, array in zip(pool.map(cache.open, paths * 8), arrays * 8, strict=True):
            np.testing.assert_array_equal(read_whole(reader), array)
    cache.make_room()
    assert sum(file.stat().st_size for file in cache.directory.iterdir()) <= cache.limit_bytes


def test_two_processes(tmp_path, make_tiff):
    """Cache, paths and readers travel both ways; the readers come back as open volumes."""
    paths, arrays = zip(*(make_tiff(f"{n}.tif", seed=n) for n in range(3)), strict=True)
    cache = Cache(tmp_path / "cache", 2 * FILE_BYTES)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        jobs = [paths[n // 2 % 3] for n in range(24)]
        expected = [arrays[n // 2 % 3] for n in range(24)]
        for reader, array in zip(pool.map(cache.open, jobs), expected, strict=True):
            np.testing.assert_array_equal(read_whole(reader), array)
    cache.make_room()
    assert sum(file.stat().st_size for file in cache.directory.iterdir()) <= cache.limit_bytes


def test_pickles(tmp_path, make_tiff):
    path, voxels = make_tiff("a.tif")
    cache = pickle.loads(pickle.dumps(Cache(tmp_path / "cache", 10**6)))
    data = pickle.dumps(cache.open(path))
    assert len(data) < 1000  # the way to the voxels, not the voxels
    np.testing.assert_array_equal(read_whole(pickle.loads(data)), voxels)


def test_missing_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.tif does not exist"):
        Cache(tmp_path / "cache", 10**6).open(tmp_path / "a.tif")


def test_files_of_others_are_not_removed_to_make_room(tmp_path, make_tiff):
    cache = Cache(tmp_path / "cache", FILE_BYTES)
    mine = cache.directory / "features.npy"
    mine.write_bytes(bytes(2 * FILE_BYTES))
    os.utime(mine, (0, 0))
    for name in ("a.tif", "b.tif"):
        cache.open(make_tiff(name)[0])
    assert mine.exists() and len(stored(cache)) == 2  # the last decoded one, and theirs
