"""Images, masks and grey maps of every depth and mode, and what cannot be read as one."""

import warnings

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from jax_seg.data.readers.pictures import (
    as_map,
    read_image,
    read_map,
    read_mask,
    read_size,
    resize_image,
    resize_mask,
    resize_probability,
    write_map,
)

ORIENTATION = 0x0112
GREY, RGB = {"photometric": "minisblack"}, {"photometric": "rgb"}


@pytest.fixture(autouse=True)
def no_warnings():
    """What is clear is read without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def levels(shape, top, seed=0):
    """Random levels from 0 to `top`, both of them among the first."""
    found = np.random.default_rng(seed).integers(0, top + 1, shape)
    found.flat[:2] = 0, top
    return found


def save(path, array, **options):
    """An array as it is, without what Pillow would do to it."""
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(array))
    else:
        tifffile.imwrite(path, array, **options)
    return path


RED = np.zeros((4, 6, 3), np.uint8) + np.array([200, 30, 10], np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "LA", "1", "I;16"])
def test_image_modes(tmp_path, mode):
    if mode == "I;16":
        image, expected = Image.fromarray(np.full((4, 6), 80 * 257, np.uint16)), 80
    elif mode in ("L", "LA", "1"):
        grey = Image.fromarray(np.full((4, 6), 255, np.uint8))
        image, expected = grey.convert(mode), 255
    else:
        image, expected = Image.fromarray(RED).convert(mode, dither=Image.Dither.NONE), RED
    path = tmp_path / "image.tif"
    image.save(path)
    found = read_image(path)
    assert found.shape == (4, 6, 3)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=25)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :16] = 255  # a bright corner, and where it goes by the EXIF specification
    corner = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    found = read_image(path)
    assert found.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3))
    rows = slice(0, 12) if corner[0] == "t" else slice(-12, None)
    columns = slice(0, 12) if corner[1] == "l" else slice(-12, None)
    assert found[rows, columns].min() > 200
    found = found.copy()
    found[rows, columns] = 0
    assert found.mean() < 60


OBJECT = np.zeros((4, 6), bool)
OBJECT[1:3, 2:5] = True


def mask_images():
    eight = OBJECT.astype(np.uint8)
    white = np.repeat((eight * 255)[..., None], 3, -1)
    palette = Image.fromarray(eight, mode=None).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    turned = Image.fromarray(1 - eight).convert("P")
    turned.putpalette([255, 255, 255, 0, 0, 0])
    yield "grey", Image.fromarray(eight * 255)
    yield "label", Image.fromarray(eight)
    yield "bits", Image.fromarray(OBJECT)
    yield "colour", Image.fromarray(white * np.array([0, 0, 1], np.uint8))
    yield "opacity", Image.fromarray(np.dstack([np.full_like(white, 255), eight * 255]))
    yield "opaque", Image.fromarray(np.dstack([white, np.full_like(eight, 255)]))
    yield "voc palette", palette
    yield "white first palette", turned
    yield "sixteen bits", Image.fromarray(OBJECT.astype(np.uint16) * 65535)
    yield "anti-aliased", Image.fromarray(np.where(OBJECT, 200, 100).astype(np.uint8))


@pytest.mark.parametrize(("name", "image"), list(mask_images()))
def test_mask_formats(tmp_path, name, image):
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), OBJECT, err_msg=name)


def test_masks_of_one_value(tmp_path):
    for value, expected in ((0, False), (255, True), (1, True)):
        Image.fromarray(np.full((3, 4), value, np.uint8)).save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), np.full((3, 4), expected))


def test_masks_of_unclear_values(tmp_path):
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask.png has 3 values up to 2, none above 128"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("name", "dtype", "top", "options"),
    [
        ("a.png", "u2", 65535, {}),
        ("a.tif", "u2", 65535, GREY),
        ("a.tif", "u2", 65535, GREY | {"compression": "zlib", "byteorder": ">"}),
        ("a.tif", "u4", 65535, GREY),
        ("a.tif", "i4", 65535, GREY),
        ("a.tif", "u2", 4095, GREY | {"bitspersample": 12}),  # the file says so itself
        ("a.tif", "f2", 1, GREY),
        ("a.tif", "f4", 1, GREY),
        ("a.tif", "f8", 1, GREY),
    ],
)
def test_grey_levels_of_every_depth(tmp_path, name, dtype, top, options):
    share = levels((20, 30), 2**11) / 2**11
    stored = (share * top).astype(dtype)
    expected = np.rint(stored.astype(np.float64) / top * 255)
    path = save(tmp_path / name, stored, **options)
    np.testing.assert_array_equal(read_image(path), np.repeat(expected[..., None], 3, -1))
    np.testing.assert_array_equal(read_map(path), expected)
    np.testing.assert_array_equal(read_mask(path), stored > 128 / 255 * top)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.tif", RGB),
        ("a.tif", RGB | {"compression": "zlib"}),
        ("planes.tif", RGB | {"planarconfig": "separate"}),
    ],
)
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_sixteen_bits(tmp_path, name, options, channels):
    """Of a 12-bit camera: their upper bytes alone would be 16 grey levels."""
    stored = levels((20, 30, channels), 4095).astype(np.uint16)
    shown = np.moveaxis(stored, -1, 0) if "planarconfig" in options else stored
    if channels == 4:
        options = options and options | {"extrasamples": ["unassalpha"]}
    path = save(tmp_path / name, shown, **options)
    with pytest.warns(UserWarning, match=r"none above 4095, which are read as images of 12 bits"):
        found = read_image(path)
    np.testing.assert_array_equal(found, np.rint(stored[..., :3] / 4095 * 255))
    assert len(np.unique(found)) > 200
    full = save(tmp_path / name, shown * np.uint16(16) + np.uint16(15), **options)
    np.testing.assert_allclose(read_image(full), found, atol=1)


def test_the_depth_of_a_camera_is_the_least_that_holds_all_levels(tmp_path):
    path = tmp_path / "a.png"
    for bits in (8, 10, 12, 14):
        for top in (2 ** (bits - 1) + 1 if bits > 8 else 1, 2**bits - 1):
            top = max(top, 2 ** (bits - 2)) if bits > 8 else top
            save(path, np.array([[0, top]], np.uint16))
            with pytest.warns(UserWarning, match=f"{tmp_path} holds .* images of {bits} bits"):
                found = read_image(path)
            assert found[0, :, 0].tolist() == [0, np.rint(255 * top / (2**bits - 1))]
    assert not read_image(save(path, np.zeros((2, 3), np.uint16))).any()


def test_white_may_be_zero(tmp_path):
    white = {"photometric": "miniswhite"}
    for dtype, top in (("u1", 255), ("u2", 65535)):
        stored = levels((8, 9), top).astype(dtype)
        path = save(tmp_path / "a.tif", stored, **white)
        np.testing.assert_array_equal(read_map(path), np.rint((top - stored) / top * 255))
        np.testing.assert_array_equal(read_mask(path), top - stored > 128 / 255 * top)
    path = save(tmp_path / "a.tif", OBJECT, **white)
    np.testing.assert_array_equal(read_mask(path), ~OBJECT)
    path = save(tmp_path / "a.tif", np.array([[0, 4095]], np.uint16), **white)
    with pytest.warns(UserWarning, match="12 bits"):
        assert read_image(path)[0, :, 0].tolist() == [255, 0]


def test_maps_are_the_same_in_every_depth(tmp_path):
    share = np.random.default_rng(0).random((20, 30))
    share[0, :2] = 0, 1
    expected = np.rint(255 * share)
    stored = {
        "a.png": np.rint(255 * share).astype(np.uint8),
        "b.png": np.rint(65535 * share).astype(np.uint16),
        "c.tif": np.rint(65535 * share).astype(np.int32),
        "d.tif": share.astype(np.float32),
        "e.png": np.repeat(np.rint(255 * share).astype(np.uint8)[..., None], 3, -1),
        "f.tif": np.rint(65535 * share).astype(np.uint16)[..., None].repeat(3, -1),
    }
    for name, array in stored.items():
        options = {} if name.endswith("png") else GREY if array.ndim == 2 else RGB
        found = read_map(save(tmp_path / name, array, **options))
        assert found.dtype == np.uint8
        np.testing.assert_allclose(found, expected, atol=1, err_msg=name)


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
def test_maps_of_eight_bits_in_wider_types_are_read_with_a_warning(tmp_path, dtype):
    stored = levels((4, 5), 255).astype(dtype)
    path = save(tmp_path / "a.tif", stored, **GREY)
    with pytest.warns(UserWarning, match=r"none above 255, which are read as images of 8 bits"):
        np.testing.assert_array_equal(read_map(path), stored)


def test_floating_point_may_miss_its_ends(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[-1e-6, 1 + 1e-6]], np.float32), **GREY)
    assert read_map(path).tolist() == [[0, 255]]


def test_soft_masks(tmp_path):
    """The object is where more than half of the pixel is its own."""
    share = np.where(OBJECT, 0.75, 0.3)
    for name, stored in (
        ("a.tif", share.astype(np.float32)),
        ("b.png", np.rint(65535 * share).astype(np.uint16)),
        ("c.png", np.rint(255 * share).astype(np.uint8)),
    ):
        path = save(tmp_path / name, stored, **({} if name.endswith("png") else GREY))
        np.testing.assert_array_equal(read_mask(path), OBJECT, err_msg=name)
    for stored in (OBJECT * np.uint16(1), OBJECT * np.uint16(4095), OBJECT * np.uint16(65535)):
        np.testing.assert_array_equal(read_mask(save(tmp_path / "d.png", stored)), OBJECT)
    opacity = np.dstack([np.full((4, 6, 3), 65535), OBJECT * 65535]).astype(np.uint16)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "e.png", opacity)), OBJECT)


def test_soft_masks_of_unclear_levels_are_refused(tmp_path):
    path = save(tmp_path / "a.png", levels((8, 9), 4095).astype(np.uint16))
    with pytest.raises(
        ValueError, match=r"a.png has \d+ values up to 4095, none above 32896: save"
    ):
        read_mask(path)
    faint = 0.4 * np.random.default_rng(0).random((8, 9)).astype(np.float32)
    path = save(tmp_path / "a.tif", faint, **GREY)
    with pytest.raises(
        ValueError, match=r"a.tif has 72 values up to 0\.3.*, none above 0\.5.* 1 for"
    ):
        read_mask(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_deep_images_turn_as_others_do(tmp_path, name, orientation):
    shallow = levels((4, 6), 255).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    paths = tmp_path / f"shallow{name}", tmp_path / name
    for path, array in zip(paths, (shallow, shallow * np.uint16(257)), strict=True):
        Image.fromarray(array).save(path, exif=exif)
        assert read_size(path) == ((4, 6) if orientation >= 5 else (6, 4))
    found = [read_image(path) for path in paths]
    np.testing.assert_array_equal(*found)
    if orientation == 6:
        np.testing.assert_array_equal(found[0][..., 0], np.rot90(shallow, -1))


def test_what_cannot_be_meant_as_grey_levels_is_refused_by_name(tmp_path):
    path = tmp_path / "a.tif"
    for stored, message in (
        (np.array([[0, np.nan]], np.float32), "a.tif holds the value nan: save levels from 0"),
        (np.array([[0, np.inf]], np.float32), "a.tif holds the value inf: save levels from 0"),
        (np.array([[0.5, -0.5]], np.float32), "a.tif holds the value -0.5: save levels from 0"),
        (np.array([[5, -3]], np.int16), "a.tif holds the value -3: save levels from 0"),
        (np.array([[5, -3]], np.int8), "a.tif holds the value -3: save levels from 0"),
        (np.array([[5, 70000]], np.uint32), "a.tif holds values up to 70000: save levels from 0"),
        (np.array([[5, 1e6]], np.float32), r"a.tif holds values up to 1e\+06: save levels from 0"),
    ):
        save(path, stored, **GREY)
        for read in (read_image, read_mask, read_map):
            with pytest.raises(ValueError, match=message):
                read(path)


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "message"),
    [
        ((3, 8, 9), "u1", GREY, "a.tif holds 3 pages: save one image per file"),
        ((3, 8, 9), "u2", GREY, "a.tif holds 3 pages"),
        ((8, 9, 4), "u2", {"photometric": "separated"}, "a.tif holds SEPARATED colours of 16 bits"),
        ((8, 9, 6), "u2", GREY | {"planarconfig": "contig"}, "a.tif has 6 channels"),
    ],
)
def test_what_is_not_one_image_is_refused_by_name(tmp_path, shape, dtype, options, message):
    path = save(tmp_path / "a.tif", np.ones(shape, dtype), **options)
    for read in (read_image, read_mask, read_map):
        with pytest.raises(ValueError, match=message):
            read(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_files_that_are_damaged_are_named(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", levels((40, 50), 65535).astype(np.uint16))
    whole = path.read_bytes()
    for content in (whole[:30], whole[: len(whole) // 2], whole[:200] + bytes(300)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"a{suffix} cannot be read as an image"):
            read_image(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"a{suffix}"):
        read_image(path)


def test_resizing():
    mask = np.zeros((90, 60), bool)
    mask[:, :30] = True
    small = resize_mask(mask, 20)
    np.testing.assert_array_equal(small, np.arange(20) < 10 + np.zeros((20, 1)))
    image = np.repeat(mask[..., None] * np.uint8(200), 3, -1)
    assert resize_image(image, 20).shape == (20, 20, 3)
    assert resize_image(image, 20)[:, :9].min() == 200


def test_maps_return_to_the_original_size(tmp_path):
    probability = np.full((8, 8), 0.5)
    probability[:, :4] = 1
    prediction = as_map(resize_probability(probability, (33, 50)))
    assert prediction.shape == (33, 50)
    assert prediction.dtype == np.uint8
    np.testing.assert_array_equal(prediction[:, :20], 255)
    np.testing.assert_array_equal(prediction[:, -20:], 128)
    write_map(tmp_path / "new/map.png", prediction)
    with Image.open(tmp_path / "new/map.png") as stored:
        assert stored.mode == "L"
        np.testing.assert_array_equal(np.asarray(stored), prediction)
    np.testing.assert_array_equal(read_map(tmp_path / "new/map.png"), prediction)
