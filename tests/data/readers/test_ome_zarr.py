"""OME-Zarr images and other groups: which array is read, and how its axes lie."""

import numpy as np
import pytest
import zarr

from jax_seg.data.readers import open_volume
from tests.volumes import check_reader, make_voxels
from tests.zarr_volumes import write_image, write_ome_zarr


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_reads_level_0(tmp_path, version):
    write_ome_zarr(tmp_path / "a.ome.zarr", make_voxels(), version)
    check_reader(tmp_path / "a.ome.zarr", make_voxels())
    check_reader(tmp_path / "a.ome.zarr/s0", make_voxels())


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
    with pytest.raises(ValueError, match=rf"a\.zarr names {missing} .* but its array is missing"):
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
