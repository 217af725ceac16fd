"""Zarr and OME-Zarr against the array that was written, and every error by its words."""

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
from jax_seg.system.files import stamp
from tests.volumes import check_reader, make_voxels


def write_zarr(path, voxels, version, lead=(), **options):
    shape = (*(1,) * len(lead), *voxels.shape)
    chunks = (*(1,) * len(lead), 4, 8, 16)
    zarr.create_array(
        path, data=voxels.reshape(shape), chunks=chunks, zarr_format=version, **options
    )


def write_ome_zarr(path, voxels, version):
    group = zarr.create_group(path, zarr_format=version)
    multiscales = [{"axes": [], "datasets": [{"path": "s0"}, {"path": "s1"}]}]
    group.attrs.update(
        {"multiscales": multiscales}
        if version == 2
        else {"ome": {"version": "0.5", "multiscales": multiscales}}
    )
    write_zarr(path / "s0", voxels, version, lead=(1, 1))
    write_zarr(path / "s1", voxels[:, ::2, ::2], version, lead=(1, 1))


def write_image(path, voxels, axes, version=2, name="0", scale=(), unit=None, **options):
    """One level of an OME-Zarr image with named axes; a second call adds another level."""
    group = zarr.open_group(path, mode="a", zarr_format=version)
    kinds = {"c": "channel", "t": "time"}
    described = [{"name": n, "type": kinds.get(n, "space")} for n in axes]
    if unit:
        described = [axis | {"unit": unit} for axis in described]
    ome = dict(group.attrs) if version == 2 else dict(group.attrs.get("ome", {"version": "0.5"}))
    image = ome.setdefault("multiscales", [{"axes": described, "datasets": []}])[0]
    level = {"path": name}
    if scale:
        level["coordinateTransformations"] = [{"type": "scale", "scale": list(scale)}]
    image["datasets"].append(level)
    group.attrs.update(ome if version == 2 else {"ome": ome})
    if voxels is not None:
        chunks = tuple(min(8, length) for length in voxels.shape)
        zarr.create_array(path / name, data=voxels, chunks=chunks, zarr_format=version, **options)


def write_attributes(folder, text, name=".zattrs"):
    folder.mkdir()
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / name).write_bytes(text)


def edit_metadata(path, **fields):
    metadata = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_zarr(tmp_path, version, dtype):
    write_zarr(tmp_path / "a.zarr", make_voxels(dtype), version)
    assert check_reader(tmp_path / "a.zarr", make_voxels(dtype)).random_access


def test_zarr_leading_axes_big_endian_and_separator(tmp_path):
    write_zarr(
        tmp_path / "a.zarr",
        make_voxels(">u2"),
        2,
        lead=(1, 1),
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    check_reader(tmp_path / "a.zarr", make_voxels("u2"))


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_reads_level_0(tmp_path, version):
    write_ome_zarr(tmp_path / "a.ome.zarr", make_voxels(), version)
    check_reader(tmp_path / "a.ome.zarr", make_voxels())
    check_reader(tmp_path / "a.ome.zarr/s0", make_voxels())


def test_float_zarr_with_nan(tmp_path):
    voxels = make_voxels(np.float32)
    voxels[0, 0, 1] = np.nan
    write_zarr(tmp_path / "a.zarr", voxels, 3)
    with pytest.raises(ValueError, match=r"a\.zarr holds nan at voxel \(0, 0, 1\)"):
        open_volume(tmp_path / "a.zarr").read((0, 0, 0), voxels.shape)


def test_zarr_that_is_no_volume(tmp_path):
    zarr.create_array(tmp_path / "4d.zarr", shape=(2, 4, 5, 6), dtype="u1")
    zarr.create_array(tmp_path / "2d.zarr", shape=(5, 6), dtype="u1")
    zarr.create_array(tmp_path / "complex.zarr", shape=(4, 5, 6), dtype="c8")
    zarr.create_array(tmp_path / "text.zarr", shape=(4, 5, 6), dtype="U3", zarr_format=2)
    zarr.create_group(tmp_path / "group.zarr")
    write_ome_zarr(tmp_path / "level.zarr", make_voxels(), 2)
    (tmp_path / "level.zarr/s0/.zarray").unlink()
    (tmp_path / "level.zarr/s0/.zattrs").unlink()
    zarr.create_group(tmp_path / "scales.zarr", attributes={"ome": {"multiscales": [{}]}})
    (tmp_path / "json.zarr").mkdir()
    (tmp_path / "json.zarr/zarr.json").write_text("{")
    (tmp_path / "folder.zarr").mkdir()
    write_attributes(tmp_path / "list.zarr", b"[]")
    write_attributes(tmp_path / "latin.zarr", b'{"a": "\xe9"}')
    write_attributes(tmp_path / "ome.zarr", b'{"ome": "text"}')
    write_attributes(tmp_path / "object.zarr", b'{"multiscales": {"datasets": []}}')
    write_attributes(tmp_path / "names.zarr", b'{"multiscales": ["0"]}')
    group = b'{"node_type": "group", "attributes": []}'
    write_attributes(tmp_path / "attributes.zarr", group, name="zarr.json")
    write_attributes(tmp_path / "shape.zarr", b'{"shape": "(6, 20, 24)"}', name=".zarray")
    write_image(tmp_path / "axes.zarr", make_voxels(), "yx")
    write_image(tmp_path / "twice.zarr", make_voxels(), "zyy")
    for name in "01":
        write_image(tmp_path / "many.zarr" / name, make_voxels(), "zyx")
    zarr.create_group(tmp_path / "many.zarr")
    for name, words in {
        "4d": r"shape \(2, 4, 5, 6\)",
        "2d": "2-D image",
        "complex": "complex64 voxels",
        "text": "<U3 voxels",
        "group": "group without OME-Zarr multiscales",
        "level": "no array is there",
        "scales": "name no dataset",
        "json": r"zarr\.json is not valid JSON",
        "list": r"\.zattrs holds a list instead of an object",
        "latin": r"\.zattrs is not valid JSON",
        "ome": "whose field ome holds a string",
        "attributes": "attributes that are a list",
        "object": "multiscales that are an object",
        "names": "name no dataset",
        "shape": "without the shape of its array",
        "axes": r"names 2 axes, yx, but its array has shape \(6, 20, 24\)",
        "twice": "names several axes y, in zyy",
        "many": r"holds 2 members \(0, 1\): give the path",
        "folder": "folder without a Zarr array",
    }.items():
        with pytest.raises(ValueError, match=rf"{name}\.zarr.*{words}"):
            open_volume(tmp_path / f"{name}.zarr")


def test_zarr_volumes_share_one_cache():
    assert zarr_reader._zarr_context() is zarr_reader._zarr_context()


def test_the_stamp_of_a_folder_sees_its_chunks(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 4, 4), chunks=(2, 4, 4), dtype="u1")
    array[:] = 1
    before = stamp(tmp_path / "a.zarr")
    assert before == stamp(tmp_path / "a.zarr") and before[0] == 3
    array[:2] = np.arange(32).reshape(2, 4, 4)
    assert stamp(tmp_path / "a.zarr") != before


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("axes", ["zyx", "xyz", "yxz", "tczyx", "zcyx", "zyxc", "xtyz"])
def test_ome_zarr_axes_by_name(tmp_path, version, axes):
    voxels = make_voxels(np.uint16)
    stored = voxels.transpose(["zyx".index(name) for name in axes if name in "zyx"])
    lengths = iter(stored.shape)
    shape = [next(lengths) if name in "zyx" else 1 for name in axes]
    write_image(tmp_path / "a.zarr", stored.reshape(shape), axes, version)
    check_reader(tmp_path / "a.zarr", voxels)
    check_reader(tmp_path / "a.zarr/0", voxels)  # by its own path: the names lie above it


@pytest.mark.parametrize(
    ("axes", "shape", "words"),
    [
        ("cyx", (3, 20, 24), r"3 channels \(axes cyx, shape \(3, 20, 24\)\)"),
        ("tyx", (3, 20, 24), "3 times"),
        ("tcyx", (1, 3, 20, 24), "3 channels"),
        ("tczyx", (1, 2, 6, 20, 24), "2 channels"),
        ("tczyx", (2, 1, 6, 20, 24), "2 times"),
        (["phase", "y", "x"], (3, 20, 24), r"3 places along the axis phase \(axes phase y x"),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_of_channels_or_times(tmp_path, version, axes, shape, words):
    write_image(tmp_path / "a.zarr", make_voxels(shape=shape), axes, version)
    with pytest.raises(ValueError, match=rf"a\.zarr has {words}"):
        open_volume(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match=rf"0 has {words}"):
        open_volume(tmp_path / "a.zarr/0")


def test_ome_zarr_from_before_axes_had_names(tmp_path):
    """Versions 0.1 and 0.2 fix five axes, t c z y x; 0.3 names them by strings."""
    for name, image in {"old": {}, "strings": {"axes": ["c", "y", "x"]}}.items():
        group = zarr.create_group(tmp_path / name, zarr_format=2)
        group.attrs["multiscales"] = [image | {"datasets": [{"path": "0"}]}]
    zarr.create_array(tmp_path / "old/0", data=make_voxels(shape=(1, 3, 1, 20, 24)))
    zarr.create_array(tmp_path / "strings/0", data=make_voxels(shape=(3, 20, 24)))
    for name in ("old", "strings"):
        with pytest.raises(ValueError, match=rf"{name} has 3 channels"):
            open_volume(tmp_path / name)


@pytest.mark.parametrize("names", ["xyz", ("Width", "height", "DEPTH")])
def test_axes_that_an_array_names_itself(tmp_path, names):
    voxels = make_voxels()
    zarr.create_array(tmp_path / "v3", data=voxels.T, dimension_names=list(names))
    array = zarr.create_array(tmp_path / "v2", data=voxels.T, zarr_format=2)
    array.attrs["_ARRAY_DIMENSIONS"] = list(names)
    check_reader(tmp_path / "v3", voxels)
    check_reader(tmp_path / "v2", voxels)


def test_names_without_meaning_leave_it_to_position(tmp_path):
    names = ["dim_0", None, "dim_2"]
    zarr.create_array(tmp_path / "a", data=make_voxels(), dimension_names=names)
    check_reader(tmp_path / "a", make_voxels())


@pytest.mark.parametrize("shape", [(6, 1, 20, 24), (6, 20, 1, 24), (6, 20, 24, 1)])
@pytest.mark.parametrize("version", [2, 3])
def test_zarr_axes_of_length_1_anywhere(tmp_path, version, shape):
    zarr.create_array(tmp_path / "a", data=make_voxels().reshape(shape), zarr_format=version)
    check_reader(tmp_path / "a", make_voxels())


def test_zarr_whose_axes_of_length_1_leave_two_ways(tmp_path):
    zarr.create_array(tmp_path / "a", data=make_voxels(shape=(1, 20, 24, 1)))
    with pytest.raises(ValueError, match=r"a volume of \(1, 20, 24\) or \(20, 24, 1\): save"):
        open_volume(tmp_path / "a")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("scaled", [True, False])
def test_ome_zarr_listed_coarse_first_reads_the_finest(tmp_path, version, scaled):
    voxels = make_voxels()
    for name, step in {"coarse": 2, "fine": 1}.items():
        scale = (1, step, step) if scaled else ()
        level = voxels[:, ::step, ::step].copy()
        write_image(tmp_path / "a.zarr", level, "zyx", version, name=name, scale=scale)
    check_reader(tmp_path / "a.zarr", voxels)


@pytest.mark.parametrize(
    ("levels", "missing"),
    [
        ({"fine": (1, 1, 1), "coarse": (1, 2, 2)}, "fine"),
        ({"coarse": (1, 2, 2), "fine": (1, 1, 1)}, "fine"),
        ({"fine": (), "coarse": ()}, "fine"),
        ({"coarse": (), "fine": (), "other": ()}, "other"),
    ],
)
def test_ome_zarr_without_its_finest_level(tmp_path, levels, missing):
    for name, scale in levels.items():
        step = 2 if name == "coarse" else 1
        level = None if name == missing else make_voxels()[:, ::step, ::step].copy()
        write_image(tmp_path / "a.zarr", level, "zyx", name=name, scale=scale)
    with pytest.raises(ValueError, match=rf"a\.zarr names {missing} .* but no array is there"):
        open_volume(tmp_path / "a.zarr")


def test_ome_zarr_without_a_coarse_level(tmp_path):
    write_image(tmp_path / "a.zarr", make_voxels(), "zyx", name="0", scale=(1, 1, 1))
    write_image(tmp_path / "a.zarr", None, "zyx", name="1", scale=(1, 2, 2))
    check_reader(tmp_path / "a.zarr", make_voxels())


def test_spacing_of_ome_zarr(tmp_path):
    """A pixel of 0.5 µm, stored x y z, and twice that for the whole image."""
    scale = (500, 500, 2000)
    write_image(tmp_path / "a.zarr", make_voxels().T, "xyz", scale=scale, unit="nanometer")
    group = zarr.open_group(tmp_path / "a.zarr")
    (image,) = group.attrs["multiscales"]
    image["coordinateTransformations"] = [{"type": "scale", "scale": [2, 2, 2]}]
    group.attrs["multiscales"] = [image]
    with pytest.warns(match=r"voxel spacing of 4 × 1 × 1 \(z, y, x\): spacing is not used"):
        assert open_volume(tmp_path / "a.zarr").spacing == pytest.approx((4, 1, 1))
    zarr.create_array(tmp_path / "plain", data=make_voxels())
    assert open_volume(tmp_path / "plain").spacing is None


@pytest.mark.parametrize("version", [2, 3])
def test_group_of_bioformats2raw(tmp_path, version):
    layout = {"bioformats2raw.layout": 3}
    attributes = layout if version == 2 else {"ome": layout | {"version": "0.5"}}
    zarr.create_group(tmp_path / "a.zarr", zarr_format=version, attributes=attributes)
    zarr.create_group(tmp_path / "a.zarr/OME", zarr_format=version)
    write_image(tmp_path / "a.zarr/0", make_voxels().T, "xyz", version)
    check_reader(tmp_path / "a.zarr", make_voxels())
    write_image(tmp_path / "a.zarr/1", make_voxels(), "zyx", version)
    with pytest.raises(ValueError, match=r"holds 2 members \(0, 1\): give the path"):
        open_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_group_with_one_array(tmp_path, version):
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=version)
    group.create_array("raw", data=make_voxels())
    check_reader(tmp_path / "a.zarr", make_voxels())


def test_ome_zarr_of_two_images_reads_the_first_with_a_notice(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    group.attrs["multiscales"] = [{"datasets": [{"path": name}]} for name in "ab"]
    zarr.create_array(tmp_path / "a.zarr/a", data=make_voxels(), zarr_format=2)
    zarr.create_array(tmp_path / "a.zarr/b", data=make_voxels()[:3], zarr_format=2)
    with pytest.warns(match=r"a\.zarr describes 2 OME-Zarr images: the first is read"):
        check_reader(tmp_path / "a.zarr", make_voxels())


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
        warnings.simplefilter("error")
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
