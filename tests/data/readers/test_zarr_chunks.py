"""Chunks that are not where the metadata says, and codecs that tensorstore lacks."""

import json
import pickle
import re
import shutil
import warnings

import numcodecs
import numpy as np
import pytest
import zarr

from jax_seg.data.readers import open_volume
from jax_seg.data.readers import zarr as zarr_reader
from tests.volumes import check_reader, make_voxels
from tests.zarr_volumes import edit_metadata, write_image, write_zarr


@pytest.mark.parametrize(
    ("stored", "said", "first", "last"),
    [("/", None, r"\d/\d/\d", "1.2.1"), (".", "/", r"\d\.\d\.\d", "1/2/1")],
)
def test_zarr_chunks_under_another_separator(tmp_path, stored, said, first, last):
    encoding = {"name": "v2", "separator": stored}
    write_zarr(tmp_path / "a.zarr", make_voxels(), 2, chunk_key_encoding=encoding)
    edit_metadata(tmp_path / "a.zarr/.zarray", dimension_separator=said)
    words = rf"a\.zarr holds the chunk {first}, which .* the last is {re.escape(last)}\)"
    with pytest.raises(ValueError, match=words):
        open_volume(tmp_path / "a.zarr")


def test_zarr_chunks_outside_its_shape(tmp_path):
    write_zarr(tmp_path / "a.zarr", make_voxels(), 3)
    edit_metadata(tmp_path / "a.zarr/zarr.json", shape=[4, 20, 24])
    with pytest.raises(ValueError, match=r"holds the chunk c/1/\d/\d, which .* is 0/2/1\)"):
        open_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fill", [0, 7])
def test_zarr_without_a_chunk(tmp_path, version, fill):
    """Also where the fill value was meant: who writes that can write the chunks."""
    path, voxels = tmp_path / "a.zarr", np.full((6, 20, 24), fill, np.uint8)
    write_zarr(path, voxels, version, fill_value=fill)
    with pytest.raises(ValueError, match=r"a\.zarr holds none of its 12 chunks"):
        open_volume(path)
    shutil.rmtree(path)
    write_zarr(path, voxels, version, fill_value=fill, config={"write_empty_chunks": True})
    check_reader(path, voxels)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_with_absent_chunks_says_their_share(tmp_path, version):
    path, voxels = tmp_path / "a.zarr", make_voxels()
    write_zarr(path, voxels, version, fill_value=9)
    for name in ("1.0.0", "0.2.1") if version == 2 else ("c/1/0/0", "c/0/2/1"):
        (path / name).unlink()
    (path / ".0.0.0.partial").touch()
    (path / "notes.txt").touch()
    voxels[4:, :8, :16] = voxels[:4, 16:, 16:] = 9
    with pytest.warns(match=r"lacks 2 of its 12 chunks \(16\.7%\), which read as 9: copy"):
        check_reader(path, voxels)


def test_sharded_zarr(tmp_path):
    """Shards are the files, so their chunks are not counted as absent."""
    voxels = make_voxels(shape=(8, 32, 32))
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=voxels, chunks=(4, 8, 8), shards=(8, 16, 16))
    reader = open_volume(path)
    np.testing.assert_array_equal(reader.read((0, 0, 0), reader.shape), voxels)
    assert reader.notes == ()


CODECS = {
    "lz4": (2, {"compressors": numcodecs.LZ4()}),
    "lzma": (2, {"compressors": numcodecs.LZMA()}),
    "delta": (2, {"filters": [numcodecs.Delta(dtype="<i4")]}),
    "v3-lz4": (3, {"compressors": [{"name": "numcodecs.lz4", "configuration": {}}]}),
    "v3-delta": (3, {"filters": [{"name": "numcodecs.delta", "configuration": {"dtype": "<i4"}}]}),
}


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")
@pytest.mark.parametrize("codec", CODECS)
def test_zarr_with_codecs_that_tensorstore_lacks(tmp_path, codec):
    version, options = CODECS[codec]
    voxels = make_voxels(np.int32)
    write_image(tmp_path / "a.zarr", voxels.T.copy(), "xyz", version, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_reader(tmp_path / "a.zarr", voxels)
    chunk = next(p for p in sorted((tmp_path / "a.zarr/0").rglob("0*")) if p.is_file())
    chunk.write_bytes(b"broken")
    reader = open_volume(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match=r"a\.zarr could not be decoded"):
        reader.read((0, 0, 0), reader.shape)


def test_zarr_with_a_codec_that_nothing_reads(tmp_path):
    write_zarr(tmp_path / "v2.zarr", make_voxels(), 2)
    edit_metadata(tmp_path / "v2.zarr/.zarray", compressor={"id": "secret"})
    write_zarr(tmp_path / "v3.zarr", make_voxels(), 3)
    edit_metadata(tmp_path / "v3.zarr/zarr.json", codecs=[{"name": "bytes"}, {"name": "secret"}])
    shards = {"chunks": (2, 4, 4), "shards": (4, 8, 16)}
    zarr.create_array(tmp_path / "shards.zarr", data=make_voxels(), **shards)
    metadata = json.loads((tmp_path / "shards.zarr/zarr.json").read_text())
    metadata["codecs"][0]["configuration"]["codecs"] = [{"name": "bytes"}, {"name": "secret"}]
    edit_metadata(tmp_path / "shards.zarr/zarr.json", **metadata)
    for name in ("v2", "v3", "shards"):
        with pytest.raises(ValueError, match=rf"{name}\.zarr is encoded with secret, which"):
            open_volume(tmp_path / f"{name}.zarr")


def test_zarr_with_invalid_metadata(tmp_path):
    write_zarr(tmp_path / "v2.zarr", make_voxels(), 2)
    edit_metadata(tmp_path / "v2.zarr/.zarray", chunks=[4, 8])
    write_zarr(tmp_path / "v3.zarr", make_voxels(), 3)
    edit_metadata(tmp_path / "v3.zarr/zarr.json", codecs=["?"])
    for name in ("v2", "v3"):
        with pytest.raises(ValueError, match=rf"{name}\.zarr could not be decoded"):
            open_volume(tmp_path / f"{name}.zarr")


def test_a_copy_in_a_worker_does_not_list_the_chunks_again(tmp_path, monkeypatch):
    write_zarr(tmp_path / "a.zarr", make_voxels(), 3)
    reader = open_volume(tmp_path / "a.zarr")
    monkeypatch.setattr(zarr_reader, "check_chunks", None)
    assert pickle.loads(pickle.dumps(reader)).shape == reader.shape
