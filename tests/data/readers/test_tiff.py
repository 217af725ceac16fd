"""TIFF stacks against the array that was written, and every error by its words."""

import struct
import warnings

import numpy as np
import pytest
import tifffile

from jax_seg.data.readers import open_volume, pictures
from tests.volumes import check_reader, make_voxels

GREY = {"photometric": "minisblack"}


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
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"truncate": True},
        {"ome": True, "compression": "lzw", "metadata": {"axes": "ZYX"}},
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


@pytest.mark.parametrize("shape", [(6, 1, 20, 24), (6, 20, 1, 24), (6, 20, 24, 1)])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_tiff_axes_of_length_1_anywhere(tmp_path, shape, compression):
    voxels = make_voxels()
    tifffile.imwrite(tmp_path / "a.tif", voxels.reshape(shape), compression=compression, **GREY)
    check_reader(tmp_path / "a.tif", voxels)


@pytest.mark.parametrize(
    ("axes", "form"),
    [("ZCYX", "imagej"), ("TZYX", "ome"), ("TZCYX", "ome"), ("XYZ", "plain"), ("YXZ", "plain")],
)
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_tiff_axes_by_name(tmp_path, axes, form, compression):
    voxels = make_voxels(np.uint16)
    stored = voxels.transpose(["ZYX".index(name) for name in axes if name in "ZYX"])
    lengths = iter(stored.shape)
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored.reshape([next(lengths) if name in "ZYX" else 1 for name in axes]),
        metadata={"axes": axes},
        compression=None if form == "imagej" else compression,
        imagej=form == "imagej",
        ome=form == "ome",
        **GREY,
    )
    check_reader(tmp_path / "a.tif", voxels)


@pytest.mark.parametrize(
    ("axes", "shape", "words"),
    [
        ("CYX", (6, 20, 24), r"6 channels \(axes cyx, shape \(6, 20, 24\)\)"),
        ("TYX", (6, 20, 24), "6 times"),
        ("ZCYX", (6, 2, 20, 24), "2 channels"),
        ("TZYX", (3, 6, 20, 24), "3 times"),
    ],
)
@pytest.mark.parametrize("form", ["imagej", "ome"])
def test_tiff_of_channels_or_times(tmp_path, form, axes, shape, words):
    options = {form: True, "metadata": {"axes": axes}, **GREY}
    tifffile.imwrite(tmp_path / "a.tif", make_voxels(shape=shape), **options)
    with pytest.raises(ValueError, match=rf"a\.tif has {words}"):
        open_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("append", [False, True])
def test_tiff_written_page_by_page(tmp_path, compression, append):
    path, voxels = tmp_path / "a.tif", make_voxels()
    options = {"compression": compression, **GREY}
    if append:
        for page in voxels:
            tifffile.imwrite(path, page, append=True, **options)
    else:
        with tifffile.TiffWriter(path) as writer:
            for page in voxels:
                writer.write(page, **options)
    reader = check_reader(path, voxels)
    assert reader.by_slices and not reader.random_access


def test_tiff_of_several_stacks(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for _ in range(2):
            writer.write(make_voxels(), **GREY)
    with pytest.raises(ValueError, match=r"a\.tif holds 2 images of shape \(6, 20, 24\)"):
        open_volume(tmp_path / "a.tif")


def test_tiff_of_pages_with_different_meanings(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(make_voxels()[0], photometric="minisblack")
        writer.write(make_voxels()[1], photometric="miniswhite")
    with pytest.raises(ValueError, match=r"a\.tif holds pages that differ in what"):
        open_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_tiff_with_white_as_zero_is_inverted(tmp_path, dtype, white, compression):
    voxels = make_voxels(dtype)
    options = {"photometric": "miniswhite", "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", voxels, **options)
    with pytest.warns(match=rf"a\.tif declares 0 as white .* read inverted, as {white} minus"):
        check_reader(tmp_path / "a.tif", white - voxels)


def test_packed_tiff_with_white_as_zero_is_inverted_within_its_bits(tmp_path):
    options = {"photometric": "miniswhite", "bitspersample": 12}
    tifffile.imwrite(tmp_path / "a.tif", make_voxels(np.uint16), **options)
    with pytest.warns(match="as 4095 minus the stored value"):
        check_reader(tmp_path / "a.tif", 4095 - make_voxels(np.uint16))


def test_white_is_zero_as_the_reader_of_images_has_it(tmp_path):
    """Pages of one bit, as a scanner writes them: 0 is white, so white is 1."""
    voxels = make_voxels() % 2
    options = {"photometric": "miniswhite", "software": "scanner", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", voxels == 1, **options)
    with pytest.warns(match="as 1 minus the stored value"):
        check_reader(tmp_path / "a.tif", 1 - voxels)
    tifffile.imwrite(tmp_path / "page.tif", voxels[0] == 1, **options)
    picture = pictures.read_image(tmp_path / "page.tif")[..., 0]
    np.testing.assert_array_equal(picture, 255 * (1 - voxels[0]))


def test_booleans_written_by_tifffile_are_read_as_stored(tmp_path):
    """Without being asked, tifffile declares 0 as white in each of them."""
    voxels = make_voxels() % 2
    tifffile.imwrite(tmp_path / "a.tif", voxels == 1)
    with pytest.warns(match=rf"Boolean TIFF files in {tmp_path} .* read as stored"):
        check_reader(tmp_path / "a.tif", voxels)


def test_tiff_with_a_palette(tmp_path):
    voxels = make_voxels()
    red = np.zeros((3, 256), np.uint16)
    red[0] = np.arange(256) * 257
    for name, colours in {"red": red, "grey": red[[0, 0, 0]]}.items():
        options = {"photometric": "palette", "colormap": colours}
        tifffile.imwrite(tmp_path / f"{name}.tif", voxels, **options)
    with pytest.warns(match=r"red\.tif has a colour palette: its palette indices are read"):
        check_reader(tmp_path / "red.tif", voxels)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_reader(tmp_path / "grey.tif", voxels)


def test_spacing_of_an_imagej_stack(tmp_path):
    """Two pixels to a micrometre, slices three apart."""
    metadata = {"axes": "ZYX", "spacing": 3.0, "unit": "um"}
    options = {"imagej": True, "resolution": (2, 4)}
    tifffile.imwrite(tmp_path / "a.tif", make_voxels(), metadata=metadata, **options)
    assert open_volume(tmp_path / "a.tif").spacing == (3, 0.25, 0.5)


def test_spacing_of_an_ome_tiff(tmp_path):
    sizes = {"PhysicalSizeZ": 2.0, "PhysicalSizeY": 500, "PhysicalSizeX": 500}
    units = {"PhysicalSizeYUnit": "nm", "PhysicalSizeXUnit": "nm"}
    metadata = {"axes": "ZYX", **sizes, **units}
    tifffile.imwrite(tmp_path / "a.ome.tif", make_voxels(), metadata=metadata, **GREY)
    assert open_volume(tmp_path / "a.ome.tif").spacing == pytest.approx((2, 0.5, 0.5))


def test_spacing_that_no_file_gives(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", make_voxels(), **GREY)
    tifffile.imwrite(tmp_path / "b.tif", make_voxels(), imagej=True, metadata={"axes": "ZYX"})
    assert open_volume(tmp_path / "a.tif").spacing is None
    assert open_volume(tmp_path / "b.tif").spacing is None


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
    tifffile.imwrite(tmp_path / "a.tif", voxels, imagej=True, metadata={"axes": "ZYX"})
    data = bytearray((tmp_path / "a.tif").read_bytes())
    struct.pack_into("<I", data, first_page_end(data), 0)
    (tmp_path / "a.tif").write_bytes(data)
    check_reader(tmp_path / "a.tif", voxels)


@pytest.mark.parametrize(
    ("voxels", "options", "words"),
    [
        (make_voxels()[0], {}, "2-D image"),
        (make_voxels(shape=(8, 9, 3)), {"photometric": "rgb"}, "colour"),
        (make_voxels(shape=(5, 8, 9, 3)), {"photometric": "rgb"}, "colour"),
        (make_voxels(shape=(2, 5, 8, 9)), GREY, r"shape \(2, 5, 8, 9\)"),
        (make_voxels(shape=(1, 8, 9, 1)), GREY, r"could be a volume of \(1, 8, 9\) or \(8, 9, 1\)"),
        (make_voxels(), {**GREY, "planarconfig": "separate"}, "6 samples per pixel"),
        (make_voxels(np.int16), {"photometric": "miniswhite"}, "int16 voxels of which 0 is white"),
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
