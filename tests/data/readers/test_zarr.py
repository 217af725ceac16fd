"""Zarr arrays against the array that was written, and every error by its words."""

import numpy as np
import pytest
import zarr

from jax_seg.data.readers import open_volume
from jax_seg.data.readers import zarr as zarr_reader
from jax_seg.system.files import stamp
from tests.volumes import check_reader, make_voxels
from tests.zarr_volumes import write_attributes, write_image, write_ome_zarr, write_zarr


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
        "level": "its array is missing",
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
