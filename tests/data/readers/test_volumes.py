"""What all readers share: opening, blocks, pairs, notices, and which paths are volumes."""

import pickle
import warnings

import numpy as np
import pytest
import tifffile
import zarr

from jax_seg.data.readers import check_pair, open_volume, recognised
from tests.conftest import SHARED
from tests.volumes import make_voxels

MEMBRANE = SHARED / "data/membrane3d"


def test_opening_decodes_nothing(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", make_voxels(), compression="lzw")
    zarr.create_array(tmp_path / "a.zarr", data=make_voxels(), chunks=(4, 8, 16))
    for chunk in (tmp_path / "a.zarr/c").rglob("0"):
        if chunk.is_file():
            chunk.write_bytes(b"broken")
    monkeypatch.setattr(tifffile.TiffPage, "decode", None)
    assert open_volume(tmp_path / "a.tif").shape == (6, 20, 24)
    reader = open_volume(tmp_path / "a.zarr")
    assert reader.shape == (6, 20, 24)
    with pytest.raises(ValueError, match=r"a\.zarr could not be decoded"):
        reader.read((0, 0, 0), reader.shape)


def test_missing():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tif does not exist"):
        open_volume("nowhere.tif")


@pytest.mark.parametrize(
    ("start", "size"),
    [
        ((-1, 0, 0), (2, 2, 2)),
        ((5, 0, 0), (2, 2, 2)),
        ((0, 0, 24), (1, 1, 1)),
        ((0,) * 3, (0,) * 3),
    ],
)
def test_block_outside_the_volume(tmp_path, start, size):
    tifffile.imwrite(tmp_path / "a.tif", make_voxels())
    with pytest.raises(ValueError, match=r"a\.tif has shape \(6, 20, 24\), so a block"):
        open_volume(tmp_path / "a.tif").read(start, size)


def test_check_pair(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", make_voxels())
    tifffile.imwrite(tmp_path / "label.tif", make_voxels()[:5])
    image, label = open_volume(tmp_path / "image.tif"), open_volume(tmp_path / "label.tif")
    check_pair(image, image)
    words = r"label\.tif has shape \(5, 20, 24\) but its image .*image\.tif has \(6, 20, 24\)"
    with pytest.raises(ValueError, match=words):
        check_pair(image, label)


@pytest.mark.skipif(not MEMBRANE.exists(), reason="the example volumes are not here")
def test_example_volumes():
    path = MEMBRANE / "train_images/700000.tif"
    reader = open_volume(path)
    assert reader.shape == (20, 256, 256)
    assert reader.dtype == np.uint8
    np.testing.assert_array_equal(reader.read((3, 0, 0), (4, 256, 256)), tifffile.imread(path)[3:7])


def test_a_notice_is_given_once_and_not_by_copies(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", make_voxels(), photometric="miniswhite")
    with pytest.warns(match="declares 0 as white") as given:
        reader = open_volume(tmp_path / "a.tif")
    assert [str(warning.message) for warning in given] == list(reader.notes)
    assert given[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        open_volume(tmp_path / "a.tif")
        pickle.loads(pickle.dumps(reader))


def test_recognised(tmp_path):
    """True for what is a volume, or is called one; False for a folder of volumes and all else."""
    voxels = make_voxels()
    for name in ("volume.tif", "VOLUME.TIFF", "folder/1.tif", "folder/2.tif", "a._tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / name, voxels, photometric="minisblack")
    for name in ("slices/1.tif", "slices/2.tif", "single/1.tif", "named/a.tif", "named/b.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / name, voxels[0], photometric="minisblack")
    zarr.create_array(tmp_path / "array", data=voxels)
    zarr.create_group(tmp_path / "group", zarr_format=2)
    zarr.create_array(tmp_path / "parent/array", data=voxels)
    (tmp_path / "empty.tif").touch()
    (tmp_path / "damaged.zarr").mkdir()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "text.txt").write_text("text")
    found = {path.name for path in tmp_path.iterdir() if recognised(path)}
    volumes = {"volume.tif", "VOLUME.TIFF", "slices", "array", "group"}
    assert found == volumes | {"empty.tif", "damaged.zarr"}


def test_a_damaged_slice_does_not_hide_the_others(tmp_path):
    for number in range(3):
        tifffile.imwrite(tmp_path / f"{number}.tif", make_voxels()[0])
    (tmp_path / "0.tif").write_bytes(b"")
    assert recognised(tmp_path)
    with pytest.raises(ValueError, match=r"0\.tif is an empty file"):
        open_volume(tmp_path)
