"""Images of several channels: how they are found, read, measured and normalised."""

import pickle
import re

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from jax_seg.data import intensities, labels, spacing
from jax_seg.data.cache import Cache
from jax_seg.data.dataset import require_same_channels
from jax_seg.data.fingerprint import measure as facts_of
from jax_seg.data.folder import Volume, find_images, find_volumes
from jax_seg.data.preprocess import (
    PerVolume,
    Preprocessing,
    as_array,
    fit_preprocessing,
    measure,
    preprocess,
    remarks,
    stored,
)
from jax_seg.data.readers import open_image, open_volume, read_image
from jax_seg.data.resample import resample_image
from jax_seg.data.sampling import read_patch
from jax_seg.data.spacing import stated
from jax_seg.data.write_like import suffix_like, write_like
from jax_seg.system.files import channel_files, existing, stamp
from jax_seg.tasks import sources
from tests.zarr_volumes import write_image

SHAPE = (3, 4, 5)
GREY = {"photometric": "minisblack"}
VOXELS = np.random.default_rng(0).integers(1, 100, (*SHAPE, 2)).astype(np.uint8)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_channels(folder, name="a", voxels=VOXELS, ending=".tif"):
    """One file per channel; returns the path that stands for all."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(voxels.shape[-1]):
        path = folder / f"{name}_{number:04}{ending}"
        tifffile.imwrite(path, voxels[..., number], compression="lzw", **GREY)
    return folder / f"{name}_{{0000..{voxels.shape[-1] - 1:04}}}{ending}"


def found(volumes):
    return [(volume.id, volume.image.name) for volume in volumes]


# Finding


@pytest.mark.parametrize("pair", [("imagesTr", "labelsTr"), ("images", "labels")])
def test_files_of_one_name_are_its_channels(tmp_path, pair):
    images, masks = pair
    names = [f"{images}/{id}_000{n}.nii.gz" for id in ("a_1", "b") for n in (0, 1, 2)]
    touch(tmp_path, *names, f"{masks}/a_1.nii.gz", f"{masks}/b.nii.gz")
    expected = [("a_1", "a_1_{0000..0002}.nii.gz"), ("b", "b_{0000..0002}.nii.gz")]
    assert found(find_volumes(tmp_path)) == expected
    files = channel_files(find_volumes(tmp_path)[0].image)
    assert [file.name for file in files] == [f"a_1_000{n}.nii.gz" for n in (0, 1, 2)]


def test_numbered_volumes_with_labels_of_their_own_stay_volumes(tmp_path):
    names = [f"{folder}/scan_000{n}.tif" for folder in ("images", "labels") for n in (0, 1)]
    touch(tmp_path, *names)
    expected = [("scan_0000", "scan_0000.tif"), ("scan_0001", "scan_0001.tif")]
    assert found(find_volumes(tmp_path)) == expected
    assert found(find_images(tmp_path / "images")) == expected
    joined = [("scan", "scan_{0000..0001}.tif")]
    assert found(find_images(tmp_path / "images", channels=2)) == joined
    both = sorted((tmp_path / "images").iterdir())  # as a shell passes images/*
    assert found(find_images(both, channels=2)) == joined
    assert found(find_images(str(tmp_path / "images" / "scan_{0000..0001}.tif"))) == joined


def test_images_to_predict_in_a_folder_of_nnunet_are_joined(tmp_path):
    touch(tmp_path, "imagesTs/a_0000.tif", "imagesTs/a_0001.tif")
    assert found(find_images(tmp_path / "imagesTs")) == [("a", "a_{0000..0001}.tif")]
    (tmp_path / "imagesTs" / "a_0001.tif").unlink()
    assert found(find_images(tmp_path / "imagesTs")) == [("a", "a_0000.tif")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a_0000.tif", "a_0001.tif", "b_0000.tif", "c_0000.tif", "c_0001.tif"],
            "lacks b_0001.tif, a channel of b: every image must have the same, here 0000 to 0001",
        ),
        (["a_0000.tif", "a_0001.tif", "b_0000.tif"], "lacks b_0001.tif, a channel of b"),
        (["a_0000.tif", "a_0002.tif"], "lacks a_0001.tif, a channel of a"),
        (["a_0001.tif", "a_0002.tif"], "lacks a_0000.tif, a channel of a"),
        (
            [f"{i}_000{n}.tif" for i in "abc" for n in (0, 1)] + ["c_0002.tif"],
            "has c_0002.tif, but most images there have 2 channels, 0000 to 0001",
        ),
        (["a_0000.tif", "a_0001.nii.gz"], "a_0000.tif and a_0001.nii.gz are channels of one image"),
        (["a_0000.tif", "a_0000.zarr"], "a_0000.tif and a_0000.zarr are channels of one image"),
    ],
)
def test_missing_channels_are_named(tmp_path, names, message):
    touch(tmp_path, *(f"images/{name}" for name in names))
    touch(tmp_path, *(f"labels/{name}.tif" for name in {name[0] for name in names}))
    with pytest.raises(ValueError, match=re.escape(message)):
        find_volumes(tmp_path)


def test_an_image_with_other_channels_is_named(tmp_path):
    paths = [write_channels(tmp_path, name) for name in "ab"]
    tifffile.imwrite(tmp_path / "c.tif", VOXELS[..., 0], **GREY)
    volumes = [Volume(path.name[0], path, None, "") for path in paths]
    assert require_same_channels(volumes) == 2
    with pytest.raises(ValueError, match=r"c\.tif has 1 channel, but other images have 2:"):
        require_same_channels([*volumes, Volume("c", tmp_path / "c.tif", None, "")])


# Reading


def check_channels(path):
    reader = pickle.loads(pickle.dumps(open_image(path)))
    assert (reader.shape, reader.channels, reader.dtype) == (SHAPE, 2, np.uint8)
    np.testing.assert_array_equal(read_image(path), VOXELS)
    np.testing.assert_array_equal(reader.read((1, 2, 0), (2, 1, 3)), VOXELS[1:3, 2:3, :3])
    with pytest.raises(ValueError, match="has 2 channels where one is read"):
        open_volume(path)
    return reader


def test_files_of_channels(tmp_path):
    path = write_channels(tmp_path)
    reader = check_channels(path)
    with pytest.raises(ValueError, match="is not inside it"):
        reader.read((0, 0, 0), (4, 4, 5))
    before = stamp(path)
    assert before[0] == 2
    record = sources.record({"a": (path, None)})
    assert sources.changed({"sources": record}) == {}
    tifffile.imwrite(tmp_path / "a_0001.tif", VOXELS[..., 0], **GREY)
    assert stamp(path) != before
    assert sources.changed({"sources": record}) == {"a": ["image"]}
    before = stamp(path)
    for old, new in ((0, 2), (1, 0), (2, 1)):  # the channels change places
        (tmp_path / f"a_{old:04}.tif").rename(tmp_path / f"a_{new:04}.tif")
    assert stamp(path) != before
    (tmp_path / "a_0001.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"a_0001\.tif does not exist"):
        existing(path)


@pytest.mark.parametrize("axes", ["czyx", "zyxc", "tczyx"])
def test_zarr_with_an_axis_of_channels(tmp_path, axes):
    stored_as = VOXELS if axes == "zyxc" else np.moveaxis(VOXELS, -1, 0)
    stored_as = stored_as[None] if axes[0] == "t" else stored_as
    write_image(tmp_path / "a.zarr", stored_as, axes)
    check_channels(tmp_path / "a.zarr")
    names = {"c": "channel"}
    array = zarr.create_array(
        tmp_path / "named.zarr",
        data=stored_as,
        dimension_names=[names.get(name, name) for name in axes],
        zarr_format=3,
    )
    assert array.shape == stored_as.shape
    check_channels(tmp_path / "named.zarr")


@pytest.mark.parametrize("last", [True, False])
def test_hdf5_with_an_axis_of_channels(tmp_path, last):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = VOXELS if last else np.moveaxis(VOXELS, -1, 0)
    check_channels(tmp_path / "a.h5")


@pytest.mark.parametrize("shape", [(4, 2, 5, 6), (2, 2, 5, 6), (10, 11, 12, 13)])
def test_hdf5_whose_channels_cannot_be_seen(tmp_path, shape):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=r"a\.h5 has shape .* label that axis c, or save each"):
        open_image(path)
    with h5py.File(path, "a") as file:
        file["raw"].dims[1].label = "c"
    assert open_image(path).channels == shape[1]


def test_channels_on_other_grids_are_refused(tmp_path):
    path = write_channels(tmp_path)
    tifffile.imwrite(tmp_path / "a_0001.tif", np.zeros((3, 4, 6), np.uint8), **GREY)
    message = r"a_0001\.tif has shape \(3, 4, 6\), but a_0000\.tif, a channel of the same image"
    with pytest.raises(ValueError, match=message):
        open_image(path)
    for number, step in enumerate((1.0, 2.0)):
        image = nibabel.Nifti1Image(VOXELS[..., 0].T, np.diag([1, 1, step, 1]))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, tmp_path / f"b_000{number}.nii")
    message = r"b_0001\.nii has a spacing of 2000 × 1000 × 1000 .*, but b_0000\.nii, a channel"
    with pytest.raises(ValueError, match=message):
        open_image(tmp_path / "b_{0000..0001}.nii")


def test_types_are_joined(tmp_path):
    tifffile.imwrite(tmp_path / "a_0000.tif", VOXELS[..., 0], **GREY)
    tifffile.imwrite(tmp_path / "a_0001.tif", VOXELS[..., 1] / np.float32(3), **GREY)
    image = read_image(tmp_path / "a_{0000..0001}.tif")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 1], VOXELS[..., 1] / np.float32(3))


def test_the_cache_decodes_all_channels_into_one_file(tmp_path):
    path, cache = write_channels(tmp_path / "images"), Cache(tmp_path / "cache", 2**20)
    reader = cache.open(path)
    assert reader.random_access and reader.channels == 2 and reader.shape == SHAPE
    np.testing.assert_array_equal(reader.read((0, 1, 2), (3, 3, 3)), VOXELS[:, 1:4, 2:5])
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    patch = read_patch(reader, (-1, 0, 0), (3, 4, 6), outside="edge")
    expected = np.pad(VOXELS, ((1, 0), (0, 0), (0, 1), (0, 0)), mode="edge")[:3]
    np.testing.assert_array_equal(patch, expected)


def test_a_mask_is_written_like_the_first_channel(tmp_path):
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    for number in (0, 1):
        image = nibabel.Nifti1Image(VOXELS[..., number].T, affine)
        nibabel.save(image, tmp_path / f"a_000{number}.nii.gz")
    source = tmp_path / "a_{0000..0001}.nii.gz"
    assert suffix_like(source) == ".nii.gz"
    write_like(tmp_path / "a.nii.gz", np.ones(SHAPE, np.uint8), source, "test")
    written = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    assert written.shape == SHAPE[::-1]


# Spacing


def test_spacing_beside_the_channels_and_resampling_of_each(tmp_path):
    voxels = np.stack([np.arange(4), 10 * np.arange(4)], -1).astype(np.float32) + 1
    voxels = np.broadcast_to(voxels, (4, 4, 4, 2)).copy()
    path = write_channels(tmp_path, voxels=voxels)
    (tmp_path / "a.json").write_text('{"spacing": [2, 1, 1]}')
    assert stated(path) == (2.0, 1.0, 1.0)
    tifffile.imwrite(tmp_path / "label.tif", np.ones((4, 4, 4), np.uint8), **GREY)
    volume = Volume("a", path, tmp_path / "label.tif", "a")
    table = labels.label_table(foreground=(1,))
    copy = spacing.copy_of(volume, (2.0, 1, 1), (1.0, 1, 1), table, tmp_path / "moved")
    assert spacing.bytes_of(copy) == 8 * 4 * 4 * (2 * 4 + 1)  # two channels of float32, a label
    moved = spacing.write(copy, table)
    image = read_image(moved.image)
    assert image.shape == (8, 4, 4, 2) and len(list((tmp_path / "moved").iterdir())) == 3
    for number in (0, 1):
        one = resample_image(voxels[..., number], (2.0, 1, 1), (1.0, 1, 1))
        np.testing.assert_array_equal(image[..., number], one)
    assert {*spacing.files_of(copy)} == {*(tmp_path / "moved").iterdir()}
    assert spacing.copy_of(volume, (2.0, 1, 1), (1.0, 1, 1), table, tmp_path / "moved") == copy


# Intensities


def test_facts_of_two_channels():
    """A voxel is empty where both channels are; intensities are sampled at the same voxels."""
    image = np.zeros((2, 2, 2, 2), np.uint8)
    image[0, 0, 0] = 3, 0
    image[1, 1, 1] = 0, 4
    facts = facts_of(image, np.ones((2, 2, 2), np.uint8))
    assert facts.labelled.tolist() == [[0, 0, 0], [1, 1, 1]] == facts.foreground.tolist()
    assert facts.intensities.tolist() == [[3, 0], *[[0, 0]] * 6, [0, 4]]
    assert facts.counts.tolist() == [0, 8, 0]


def test_each_channel_has_its_own_range():
    sample = np.stack([np.arange(101), 1000 - 2 * np.arange(101)], -1)
    options = {"low_percentile": 10, "high_percentile": 90}
    fitted = fit_preprocessing(sample, name="percentile", **options)
    assert fitted == Preprocessing((10, 820), (90, 980), (10, 820), (1 / 80, 1 / 160))
    assert stored({name: list(v) for name, v in fitted._asdict().items()}) == fitted
    image = np.array([[50, 900], [0, 2000]], np.float32)
    np.testing.assert_allclose(preprocess(image, fitted), [[0.5, 0.5], [0, 1]])
    alone = [fit_preprocessing(one, name="zscore", **options) for one in sample.T]
    both = fit_preprocessing(sample, name="zscore", **options)
    assert both == Preprocessing(*zip(*alone, strict=True))
    sample[:, 1] = 7
    with pytest.raises(ValueError, match=r"Channel 1 of the training images is constant .*7"):
        fit_preprocessing(sample, name="zscore", **options)


@pytest.mark.parametrize("region", ["all", "box", "nonzero"])
def test_each_volume_and_channel_has_its_own_numbers(region):
    """Worked by hand: voxels 1 to 3 of a row hold input, where channel 0 is zero in one of them."""
    image = np.zeros((1, 1, 6, 2), np.float32)
    image[0, 0, 1:4] = [[2, 10], [0, 20], [4, 30]]
    numbers, box = measure(image, PerVolume("percentile", 0, 100, region))
    inside = slice(None) if region == "all" else slice(1, 4)
    assert box[2] == inside
    low = (0.0, 0.0) if region == "all" else (0.0, 10.0)
    scale = tuple(1 / (high - first) for high, first in zip((4, 30), low, strict=True))
    assert numbers == Preprocessing(low, (4.0, 30.0), low, scale)
    rule = PerVolume("percentile", 0, 100, region)
    result = np.asarray(preprocess(image[None], rule, as_array(numbers)))[0, 0, 0, 1:4]
    expected = {"all": [1 / 3, 2 / 3, 1]}.get(region, [0, 0.5, 1])
    np.testing.assert_allclose(result, np.stack([[0.5, 0, 1], expected], -1), rtol=1e-6)
    outside = np.asarray(preprocess(image[None], rule, as_array(numbers)))[0, 0, 0, 0]
    np.testing.assert_allclose(outside, [0, 0])


def test_a_batch_of_volumes_with_numbers_of_their_own():
    """Entry by entry as each alone, where the batch, its numbers and its channels are four."""
    generator = np.random.default_rng(0)
    images = generator.uniform(0, 9, (4, 2, 2, 2, 4)).astype(np.float32)
    rule = PerVolume("zscore", 0, 100, "nonzero")
    numbers = [measure(image, rule)[0] for image in images]
    own = np.stack([np.array(one, np.float32) for one in numbers])
    assert own.shape == (4, 4, 4)
    together = np.asarray(preprocess(images, rule, own))
    for image, one, result in zip(images, numbers, together, strict=True):
        np.testing.assert_array_equal(preprocess(image[None], rule, as_array(one))[0], result)
        for channel in range(4):
            alone, _ = measure(image[..., channel], rule)
            expected = preprocess(image[..., channel], rule, as_array(alone))
            np.testing.assert_allclose(result[..., channel], expected, rtol=1e-6)


def test_remarks_name_the_channel():
    usual = np.linspace(1, 200, 1000)
    training = {id: np.stack([usual, usual], -1) for id in ("a", "b", "c")}
    training["c"] = np.stack([usual, usual * 257], -1)
    low_high = Preprocessing((1.0, 1.0), (200.0, 200.0), (0.0, 0.0), (1.0, 1.0))
    (sentence,) = remarks(training, {}, low_high)
    assert sentence.startswith("c (channel 1) has intensities from ")
    masked = {"a": np.stack([usual, np.where(usual < 150, 0, usual)], -1)}
    (sentence,) = remarks(masked, {}, low_high)
    assert "of the training volumes' voxels (channel 1) are exactly zero" in sentence


def test_channels_are_blended_without_outweighing_each_other():
    image = np.zeros((1, 1, 4, 2), np.float32)
    image[0, 0, :, 0], image[0, 0, :, 1] = [0, 1, 0, 1], [0, 0, 1000, 1000]
    np.testing.assert_allclose(intensities.blended(image)[0, 0], [0, 0.5, 0.5, 1], rtol=1e-6)
    assert intensities.blended(image[..., 0]).shape == (1, 1, 4)


def test_a_mask_of_channels_of_hdf5_keeps_their_axis(tmp_path):
    source, path = tmp_path / "a.h5", tmp_path / "mask.h5"
    with h5py.File(source, "w") as file:
        dataset = file.create_dataset("raw", data=np.moveaxis(VOXELS, -1, 0))
        for axis, name in zip(dataset.dims, "czyx", strict=True):
            axis.label = name
    mask = (VOXELS[..., 0] > 50).astype(np.uint8)
    write_like(path, mask, source, "a test")
    np.testing.assert_array_equal(open_volume(path).read((0, 0, 0), SHAPE), mask)
    with h5py.File(path) as file:
        assert file["raw"].shape == (1, *SHAPE)
