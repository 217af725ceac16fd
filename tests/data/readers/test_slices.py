"""A folder of slices against the array that was written, and every error by its words."""

import numpy as np
import pytest
import tifffile

from jax_seg.data.folder import find_images
from jax_seg.data.readers import open_volume
from jax_seg.data.readers.tiff import TiffReader
from tests.volumes import check_reader, make_voxels


def write_slices(folder, voxels, names="{:05d}.tif", first=0, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(voxels, first):
        tifffile.imwrite(folder / names.format(number), plane, **options)
    return folder


@pytest.mark.parametrize(
    ("names", "first"),
    [("{:05d}.tif", 0), ("{}.TIFF", 7), ("scan_2um_{:03d}_raw.tif", 1), ("-{}.ome.tif", 98)],
)
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_slices_in_the_order_of_their_numbers(tmp_path, names, first, compression):
    voxels = make_voxels(np.uint16)
    folder = write_slices(tmp_path / "scroll", voxels, names, first, compression=compression)
    (folder / "notes.txt").write_text("other files")
    (folder / "._00000.tif").write_text("of macOS")
    reader = check_reader(folder, voxels)
    assert reader.by_slices and reader.spacing is None
    assert reader.random_access == (compression is None)
    assert [(volume.id, volume.image) for volume in find_images(folder)] == [("scroll", folder)]
    assert [volume.image for volume in find_images(tmp_path)] == [folder]


def test_a_block_opens_its_own_slices_only(tmp_path, monkeypatch):
    folder = write_slices(tmp_path / "scroll", make_voxels(), compression="zlib")
    reader = open_volume(folder)
    (folder / "00004.tif").write_bytes(b"")
    opened = []
    read = TiffReader.read
    monkeypatch.setattr(TiffReader, "read", lambda *a: opened.append(a[0].path.name) or read(*a))
    reader.read((1, 2, 3), (3, 4, 5))
    assert opened == ["00001.tif", "00002.tif", "00003.tif"]
    with pytest.raises(ValueError, match=r"00004\.tif is an empty file"):
        reader.read((4, 0, 0), (1, 1, 1))


def test_slices_with_white_as_zero(tmp_path):
    folder = write_slices(tmp_path / "scroll", make_voxels(), photometric="miniswhite")
    with pytest.warns(match=r"00000\.tif declares 0 as white"):
        check_reader(folder, 255 - make_voxels())


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ((0, 1, 2, 4, 5), r"lacks 1 of the slices 0 to 5, number 3: copy"),
        ((0, 9), r"lacks 8 of the slices 0 to 9, number 1, 2, 3, 4, 5, …: copy"),
    ],
)
def test_gaps_in_the_numbering(tmp_path, kept, words):
    folder = write_slices(tmp_path / "scroll", make_voxels(shape=(10, 4, 5)))
    for number in set(range(10)) - set(kept):
        (folder / f"{number:05d}.tif").unlink()
    with pytest.raises(ValueError, match=rf"scroll {words}"):
        open_volume(folder)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.tif", "01.tif", "2.tif"], r"several slices of one number, 01\.tif, 1\.tif: keep"),
        (["a.tif", "b.tif"], "names differ in one number"),
        (["z1_c1.tif", "z2_c2.tif"], "names differ in one number"),
        (["x1.tif", "y2.tif"], "names differ in one number"),
        (["1.tif"], "names differ in one number"),
    ],
)
def test_names_that_are_no_numbering(tmp_path, names, words):
    for name in names:
        tifffile.imwrite(tmp_path / name, make_voxels()[0])
    with pytest.raises(ValueError, match=words):
        open_volume(tmp_path)


@pytest.mark.parametrize(
    "other", [make_voxels()[0, :10], make_voxels(np.uint16)[0], make_voxels()], ids=["2", "16", "3"]
)
def test_a_slice_unlike_the_first(tmp_path, other):
    folder = write_slices(tmp_path / "scroll", make_voxels())
    tifffile.imwrite(folder / "00003.tif", other)
    reader = open_volume(folder)
    with pytest.raises(ValueError, match=r"00003\.tif is .* but the first slice 00000\.tif is"):
        reader.read((2, 0, 0), (2, 4, 4))


def test_a_folder_of_volumes_is_none(tmp_path):
    write_slices(tmp_path / "train", [make_voxels()] * 2)
    with pytest.raises(ValueError, match=r"train is a folder of volumes, 00000\.tif of shape"):
        open_volume(tmp_path / "train")


def test_slices_of_several_channels(tmp_path):
    metadata = {"axes": "CYX"}
    folder = write_slices(tmp_path / "a", [make_voxels()] * 2, metadata=metadata, imagej=True)
    with pytest.raises(ValueError, match=r"00000\.tif has 6 channels"):
        open_volume(folder)
