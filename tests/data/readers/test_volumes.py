"""Every reader against tifffile or the array that was written, and every error by its words."""

import pickle
import struct

import numpy as np
import pytest
import tifffile
import zarr

from jax_seg.data.readers import check_pair, open_volume
from jax_seg.data.readers import zarr as zarr_reader
from jax_seg.system.files import stamp
from tests.conftest import SHARED

GREY = {"photometric": "minisblack"}
MEMBRANE = SHARED / "data/membrane3d"


def make_voxels(dtype=np.uint8, shape=(6, 20, 24)):
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def check_reader(path, voxels):
    reader = pickle.loads(pickle.dumps(open_volume(str(path))))
    assert reader.shape == voxels.shape
    assert reader.dtype == voxels.dtype
    whole = reader.read((0, 0, 0), reader.shape)
    assert whole.dtype == voxels.dtype
    np.testing.assert_array_equal(whole, voxels)
    np.testing.assert_array_equal(reader.read((1, 2, 3), (2, 5, 7)), voxels[1:3, 2:7, 3:10])
    np.testing.assert_array_equal(reader.read((5, 0, 0), (1, 20, 24)), voxels[5:])
    return reader


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "lzw"},
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "bigtiff": True},
        {"compression": "zstd"},
        {"compression": "packbits"},
        {"compression": "lzw", "metadata": None},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"imagej": True},
        {"truncate": True},
        {"ome": True, "compression": "lzw"},
        {"tile": (16, 16), "compression": "lzw"},
        {"tile": (2, 16, 16), "volumetric": True, "compression": "zlib"},
    ],
    ids=str,
)
def test_tiff_in_every_wrapping(tmp_path, options):
    voxels = make_voxels(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", voxels, **GREY, **options)
    reader = check_reader(tmp_path / "a.tif", voxels)
    assert reader.random_access == ("compression" not in options)


@pytest.mark.parametrize(
    ("stored", "read"),
    [("?", "u1"), ("f8", "f4"), *((f"{kind}2", f"{kind}2") for kind in "uif"), ("i8", "i8")],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_every_type(tmp_path, stored, read, compression):
    voxels = (make_voxels() % 2).astype(stored)
    tifffile.imwrite(tmp_path / "a.tif", voxels, compression=compression, **GREY)
    check_reader(tmp_path / "a.tif", voxels.astype(read))


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"tile": (16, 16, 16)}])
def test_tiff_leading_axes_of_length_1(tmp_path, options):
    voxels = make_voxels()
    tifffile.imwrite(tmp_path / "a.tif", voxels[None], **GREY, **options)
    check_reader(tmp_path / "a.tif", voxels)


def test_the_stamp_of_a_folder_sees_its_chunks(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 4, 4), chunks=(2, 4, 4), dtype="u1")
    array[:] = 1
    before = stamp(tmp_path / "a.zarr")
    assert before == stamp(tmp_path / "a.zarr") and before[0] == 3
    array[:2] = np.arange(32).reshape(2, 4, 4)
    assert stamp(tmp_path / "a.zarr") != before


def test_tiff_pyramid_reads_the_full_resolution(tmp_path):
    voxels = make_voxels()
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        options = {"compression": "lzw", "tile": (16, 16), **GREY}
        writer.write(voxels, subifds=1, **options)
        writer.write(voxels[:, ::2, ::2].copy(), subfiletype=1, **options)
    check_reader(tmp_path / "a.tif", voxels)


def first_page_end(data):
    """Offset of the field of a little-endian classic TIFF that points to its second page."""
    (page,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, page)
    return page + 2 + 12 * tags


def test_imagej_stack_beyond_four_gigabytes_lists_one_page_only(tmp_path):
    voxels = make_voxels()
    tifffile.imwrite(tmp_path / "a.tif", voxels, imagej=True)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    struct.pack_into("<I", data, first_page_end(data), 0)
    (tmp_path / "a.tif").write_bytes(data)
    check_reader(tmp_path / "a.tif", voxels)


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


def test_opening_decodes_nothing(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", make_voxels(), compression="lzw")
    write_zarr(tmp_path / "a.zarr", make_voxels(), 3)
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
    ("voxels", "options", "words"),
    [
        (make_voxels()[0], {}, "2-D image"),
        (make_voxels(shape=(8, 9, 3)), {"photometric": "rgb"}, "colour"),
        (make_voxels(shape=(5, 8, 9, 3)), {"photometric": "rgb"}, "colour"),
        (make_voxels(shape=(2, 5, 8, 9)), GREY, r"shape \(2, 5, 8, 9\)"),
        (make_voxels(np.complex64), {}, "complex64 voxels"),
    ],
)
def test_tiff_that_is_no_volume(tmp_path, voxels, options, words):
    tifffile.imwrite(tmp_path / "a.tif", voxels, **options)
    with pytest.raises(ValueError, match=rf"a\.tif .*{words}"):
        open_volume(tmp_path / "a.tif")


def test_tiff_of_pages_that_differ(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(make_voxels()[0])
        writer.write(make_voxels()[0, :10])
    with pytest.raises(ValueError, match=r"a\.tif holds 2 images that differ"):
        open_volume(tmp_path / "a.tif")


def test_tiff_with_pages_in_a_missing_file(tmp_path):
    files = {"a.ome.tif": "uuid-a", "b.ome.tif": "uuid-b"}
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{uuid}'
        "</UUID></TiffData>"
        for z, (name, uuid) in enumerate(files.items())
    )
    description = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:uuid-a"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
        'Type="uint8" SizeX="24" SizeY="20" SizeZ="2" SizeC="1" SizeT="1">'
        f'<Channel ID="Channel:0"/>{planes}</Pixels></Image></OME>'
    )
    tifffile.imwrite(
        tmp_path / "a.ome.tif", make_voxels()[0], description=description, metadata=None
    )
    with pytest.raises(ValueError, match=r"a\.ome\.tif refers to pages in other files"):
        open_volume(tmp_path / "a.ome.tif")


def test_no_tiff_and_empty_file(tmp_path):
    (tmp_path / "text.tif").write_text("not an image")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(ValueError, match=r"text\.tif is not a readable TIFF"):
        open_volume(tmp_path / "text.tif")
    with pytest.raises(ValueError, match=r"empty\.tif is an empty file"):
        open_volume(tmp_path / "empty.tif")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "lzw"},
        {"compression": "lzw", "metadata": None},
        {"imagej": True},
        {"truncate": True},
    ],
    ids=str,
)
def test_tiff_cut_anywhere(tmp_path, options):
    """Never fewer pages than were written: tifffile alone takes some cut files for short stacks."""
    tifffile.imwrite(tmp_path / "whole.tif", make_voxels(), **options)
    data = (tmp_path / "whole.tif").read_bytes()
    cut = tmp_path / "cut.tif"
    for size in range(0, len(data) - 1, 211):
        cut.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut\.tif is (truncated|not a readable|an empty)"):
            open_volume(cut)


def test_tiff_with_whole_header_but_cut_pages(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", make_voxels(), imagej=True)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    struct.pack_into("<I", data, first_page_end(data), 0)  # one page list, before all pixels
    (tmp_path / "a.tif").write_bytes(data[:400])
    with pytest.raises(ValueError, match=r"a\.tif is truncated"):
        open_volume(tmp_path / "a.tif")


def test_tiff_with_damaged_pages(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, make_voxels(), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[3].dataoffsets[0], tiff.pages[3].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    reader = open_volume(path)
    reader.read((0, 0, 0), (3, 20, 24))
    with pytest.raises(ValueError, match=r"a\.tif could not be decoded"):
        reader.read((3, 0, 0), (1, 20, 24))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_float_tiff_with_nan_or_infinity(tmp_path, compression, value):
    voxels = make_voxels(np.float64)
    voxels[4, 5, 6] = value
    tifffile.imwrite(tmp_path / "a.tif", voxels, compression=compression)
    reader = open_volume(tmp_path / "a.tif")
    reader.read((0, 0, 0), (4, 20, 24))
    with pytest.raises(ValueError, match=r"a\.tif holds .*(nan|inf) at voxel \(4, 5, 6\)"):
        reader.read((3, 1, 0), (2, 19, 24))


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
    for name, words in {
        "4d": r"shape \(2, 4, 5, 6\)",
        "2d": "2-D image",
        "complex": "complex64 voxels",
        "text": r"could not be decoded .*Unsupported zarr dtype: \"<U3\"\): copy",
        "group": "group without OME-Zarr multiscales",
        "level": "no array is there",
        "scales": "name no dataset",
        "json": "could not be decoded",
        "folder": "folder without a Zarr array",
    }.items():
        with pytest.raises(ValueError, match=rf"{name}\.zarr.*{words}"):
            open_volume(tmp_path / f"{name}.zarr")


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


def test_zarr_volumes_share_one_cache():
    assert zarr_reader._zarr_context() is zarr_reader._zarr_context()


@pytest.mark.skipif(not MEMBRANE.exists(), reason="the example volumes are not here")
def test_example_volumes():
    path = MEMBRANE / "train_images/700000.tif"
    reader = open_volume(path)
    assert reader.shape == (20, 256, 256)
    assert reader.dtype == np.uint8
    np.testing.assert_array_equal(reader.read((3, 0, 0), (4, 256, 256)), tifffile.imread(path)[3:7])
