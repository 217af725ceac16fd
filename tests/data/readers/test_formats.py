"""NIfTI, NRRD, MRC, HDF5 and N5: written by their own libraries, read, and written back."""

import json
import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import h5py
import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
import tensorstore

from jax_seg.data.cache import Cache
from jax_seg.data.folder import find_images
from jax_seg.data.readers import check_pair, open_volume, read_volume
from jax_seg.data.write_like import suffix_like, write_like
from jax_seg.infer.inspection import spacing_as_nnunet
from jax_seg.system import outputs

SHAPE = (3, 4, 5)  # depth, height, width
VOXELS = np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)
AFFINE = np.diag([-0.5, 0.25, 2.0, 1.0])
AFFINE[:3, 3] = 7, 8, 9


def write_nifti(path):
    image = nibabel.Nifti1Image(VOXELS.T, AFFINE)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def write_nrrd(path):
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([0.5, 0.25, 2.0]),
        "space origin": [1.0, 2.0, 3.0],
        "space units": ["mm", "mm", "mm"],
    }
    nrrd.write(str(path), VOXELS, header, index_order="C")


def write_mrc(path):
    with mrcfile.new(path, VOXELS) as file:
        file.voxel_size = (5e6, 2.5e6, 2e7)  # x, y, z in ångström
        file.header.origin = (1, 2, 3)


def write_h5(path):
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("volumes/raw", data=VOXELS, chunks=(2, 2, 2))
        dataset.attrs["element_size_um"] = (2000.0, 250.0, 500.0)


def write_n5(path):
    spec = {
        "driver": "n5",
        "kvstore": {"driver": "file", "path": str(path / "raw")},
        "metadata": {
            "dimensions": SHAPE[::-1],
            "blockSize": [2, 2, 2],
            "dataType": "int16",
            "compression": {"type": "gzip"},
            "resolution": [500, 250, 2000],
            "units": ["um", "um", "um"],
        },
        "create": True,
    }
    tensorstore.open(spec).result().write(VOXELS.T).result()


FORMATS = {
    "a.nii": write_nifti,
    "a.nii.gz": write_nifti,
    "a.nrrd": write_nrrd,
    "a.mrc": write_mrc,
    "a.h5": write_h5,
    "a.n5": write_n5,
}


@pytest.mark.parametrize("name", FORMATS)
def test_voxels_spacing_and_blocks(tmp_path, name):
    path = tmp_path / name
    FORMATS[name](path)
    (volume,) = find_images(tmp_path)
    assert (volume.id, volume.image) == ("a", path)
    reader = open_volume(path)
    assert reader.shape == SHAPE and reader.dtype == np.int16
    assert reader.spacing == pytest.approx((2000, 250, 500))
    for one in (reader, pickle.loads(pickle.dumps(reader))):
        block = one.read((1, 0, 2), (2, 3, 3))
        np.testing.assert_array_equal(block, VOXELS[1:, :3, 2:])
        assert block.dtype == np.int16
    cached = Cache(tmp_path / "cache", 2**20).open(path)
    np.testing.assert_array_equal(cached.read((0, 0, 0), SHAPE), VOXELS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_mask_lies_where_its_input_does(tmp_path, name):
    source = tmp_path / name
    FORMATS[name](source)
    mask = (VOXELS > 50).astype(np.uint8)
    path = tmp_path / f"mask{suffix_like(source)}"
    write_like(path, mask, source, outputs.written_by("predict"))
    assert path.suffix == {"a.nii.gz": ".gz"}.get(name, source.suffix)
    np.testing.assert_array_equal(read_volume(path), mask)
    assert open_volume(path).dtype == (np.int8 if name == "a.mrc" else np.uint8)
    assert open_volume(path).spacing == pytest.approx((2000, 250, 500))
    assert outputs.is_own(path, "predict") and not outputs.is_own(source, "predict")
    assert not list(tmp_path.glob(".*"))
    if "nii" in name:
        image = nibabel.load(path)
        np.testing.assert_array_equal(image.affine, AFFINE)
        assert image.get_data_dtype() == np.uint8 and image.header.get_xyzt_units()[0] == "mm"
    if path.suffix == ".nrrd":
        header = nrrd.read_header(str(path))
        np.testing.assert_array_equal(header["space directions"], np.diag([0.5, 0.25, 2.0]))
        np.testing.assert_array_equal(header["space origin"], [1, 2, 3])
    if name == "a.mrc":
        with mrcfile.open(path) as file:
            assert file.voxel_size.tolist() == (5e6, 2.5e6, 2e7)
            assert file.header.origin.tolist() == (1, 2, 3)


def test_a_mask_of_hdf5_is_a_dataset_like_the_inputs(tmp_path):
    """Of one channel, with axes x, z, y, in the file's own attributes and chunks."""
    source, mask = tmp_path / "a.hdf5", (VOXELS > 50).astype(np.uint8)
    with h5py.File(source, "w") as file:
        file["other"] = VOXELS
        dataset = file.create_dataset("t0/raw", data=VOXELS.transpose(2, 0, 1)[None])
        for axis, label in zip(dataset.dims, "cxzy", strict=True):
            axis.label = label
        dataset.attrs["axistags"] = '{"axes": [{"key": "c"}]}'
        dataset.attrs["resolution"] = np.array([1, 500, 2000, 250], np.float32)
        dataset.attrs["maximum"] = 99  # of the image, not of its mask
    path = tmp_path / f"mask{suffix_like(f'{source}:/t0/raw')}"
    write_like(path, mask, f"{source}:/t0/raw", "us")
    np.testing.assert_array_equal(read_volume(path), mask)
    with h5py.File(path) as file:
        assert list(file) == ["t0"] and list(file["t0"]) == ["raw"]
        written = file["t0/raw"]
        np.testing.assert_array_equal(written[0], mask.transpose(2, 0, 1))
        assert written.dtype == np.uint8 and written.chunks == (1, 5, 3, 4)
        assert written.compression == "gzip"
        assert written.attrs["axistags"] == '{"axes": [{"key": "c"}]}'
        np.testing.assert_array_equal(written.attrs["resolution"], [1, 500, 2000, 250])
        assert "maximum" not in written.attrs


def test_a_mask_of_n5_is_a_dataset_like_the_inputs(tmp_path):
    """Of the root, with its axes stored as z, y, x; an older mask goes."""
    source, mask = tmp_path / "a.n5", (VOXELS > 50).astype(np.uint8)
    about = {"axes": ["z", "y", "x"], "pixelResolution": {"unit": "um", "dimensions": [4, 2, 1]}}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(source)}, "create": True}
    spec["metadata"] = {"dimensions": SHAPE, "blockSize": SHAPE, "dataType": "int16"}
    spec["metadata"]["compression"] = {"type": "raw"}
    tensorstore.open(spec).result().write(VOXELS).result()
    attributes = json.loads((source / "attributes.json").read_text())
    (source / "attributes.json").write_text(json.dumps(attributes | about | {"maximum": 99}))
    path = tmp_path / "mask.n5"
    for content in (1 - mask, mask):
        write_like(path, content, source, outputs.written_by("predict"))
    assert outputs.is_own(path, "predict")
    reader = open_volume(path)
    assert reader.name == "/" and reader.spacing == (4, 2, 1)
    np.testing.assert_array_equal(reader.read((0, 0, 0), SHAPE), mask)
    written = json.loads((path / "attributes.json").read_text())
    assert written["dataType"] == "uint8" and written["compression"]["type"] == "gzip"
    assert {name: written[name] for name in about} == about and "maximum" not in written
    plain = {"driver": "n5", "kvstore": {"driver": "file", "path": str(path)}}
    np.testing.assert_array_equal(tensorstore.open(plain).result().read().result(), mask)
    assert {one.name for one in tmp_path.iterdir()} == {"a.n5", "mask.n5"}


def test_scaled_nifti_and_turned_mrc(tmp_path):
    image = nibabel.Nifti1Image(VOXELS.T[..., None], AFFINE)  # one time point
    image.header.set_slope_inter(2, 10)
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "scaled.nii")
    stored = np.asarray(nibabel.load(tmp_path / "scaled.nii").dataobj)[..., 0].T
    reader = open_volume(tmp_path / "scaled.nii")
    assert reader.dtype == np.float32
    np.testing.assert_allclose(reader.read((0, 0, 0), SHAPE), stored)
    write_like(tmp_path / "mask.nii", (VOXELS > 50).astype(np.uint8), reader.path, "us")
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.nii"), VOXELS > 50)
    with mrcfile.new(tmp_path / "turned.mrc", VOXELS) as file:  # its columns are z
        file.header.mapc, file.header.mapr, file.header.maps = 3, 2, 1
    np.testing.assert_array_equal(read_volume(tmp_path / "turned.mrc"), VOXELS.T)


@pytest.mark.parametrize(("flags", "dtype"), [(None, np.int8), (1, np.int8), (0, np.uint8)])
def test_bytes_of_imod_are_signed_where_its_flag_says_so(tmp_path, flags, dtype):
    voxels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    with mrcfile.new(tmp_path / "a.mrc", voxels.view(np.int8)) as file:
        file.voxel_size = 10.0
        if flags is not None:
            extra = bytearray(file.header.extra2.tobytes())
            extra[40:48] = np.array([1146047817, flags], file.header.mode.dtype).tobytes()
            file.header.extra2 = bytes(extra)
    reader = open_volume(tmp_path / "a.mrc")
    assert reader.dtype == dtype and reader.unit == "micrometer"
    assert reader.spacing == pytest.approx((1e-3, 1e-3, 1e-3))
    np.testing.assert_array_equal(reader.read((0, 0, 0), (4, 8, 8)), voxels.view(dtype))


def test_the_units_of_each_axis_of_an_nrrd_file(tmp_path):
    header = {"spacings": [0.5, 0.5, 2.0], "units": ["um", "um", "um"]}
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS, header, index_order="C")
    assert open_volume(tmp_path / "a.nrrd").spacing == pytest.approx((2, 0.5, 0.5))
    mask = (VOXELS > 50).astype(np.uint8)
    write_like(tmp_path / "mask.nrrd", mask, tmp_path / "a.nrrd", outputs.written_by("predict"))
    assert open_volume(tmp_path / "mask.nrrd").spacing == pytest.approx((2, 0.5, 0.5))
    assert spacing_as_nnunet(tmp_path / "a.nrrd") == (2, 0.5, 0.5)  # whatever the unit
    nrrd.write(str(tmp_path / "b.nrrd"), VOXELS, {"spacings": [0.5, 0.5, 2.0]}, index_order="C")
    assert open_volume(tmp_path / "b.nrrd").spacing == pytest.approx((2000, 500, 500))
    header["units"] = ["um"]
    nrrd.write(str(tmp_path / "c.nrrd"), VOXELS, header, index_order="C")
    with pytest.raises(ValueError, match=r"c\.nrrd could not be decoded"):
        open_volume(tmp_path / "c.nrrd")


def test_one_unit_for_all_axes_of_n5_and_a_size_that_is_none(tmp_path):
    write_n5(tmp_path / "a.n5")
    file = tmp_path / "a.n5" / "raw" / "attributes.json"
    about = json.loads(file.read_text())
    for units in ("nm", ["nm"]):
        file.write_text(json.dumps(about | {"units": units}))
        assert open_volume(tmp_path / "a.n5").spacing == pytest.approx((2, 0.25, 0.5))
    file.write_text(json.dumps(about | {"units": ["nm", "nm"]}))
    assert open_volume(tmp_path / "a.n5").spacing is None
    del about["resolution"], about["units"]
    file.write_text(json.dumps(about | {"pixelResolution": [1, 2, 3]}))
    assert open_volume(tmp_path / "a.n5").spacing == (3, 2, 1)
    write_h5(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as opened:
        opened["volumes/raw"].attrs["element_size_um"] = 2.0
    assert open_volume(tmp_path / "a.h5").spacing is None


def test_a_nifti_mask_does_not_repeat_what_describes_the_images_intensities(tmp_path):
    image = nibabel.Nifti1Image(VOXELS.T, AFFINE)
    image.header["cal_max"], image.header["aux_file"] = 1500, b"colours"
    image.header.set_intent("z score")
    nibabel.save(image, tmp_path / "a.nii")
    mask = (VOXELS > 50).astype(np.uint8)
    write_like(tmp_path / "mask.nii", mask, tmp_path / "a.nii", outputs.written_by("predict"))
    written = nibabel.load(tmp_path / "mask.nii").header
    assert written["cal_max"] == 0 and written["aux_file"] == b""
    assert written.get_intent()[0] == "none"


def test_threads_that_read_mrc_leave_the_filters_of_warnings_alone(tmp_path):
    write_mrc(tmp_path / "a.mrc")
    reader, before = open_volume(tmp_path / "a.mrc"), list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda _: reader.read((0, 0, 0), SHAPE), range(400)))
    assert warnings.filters == before
    np.testing.assert_array_equal(read[-1], VOXELS)


def test_an_mrc_file_of_another_length_than_its_header_says(tmp_path):
    write_mrc(tmp_path / "a.mrc")
    content = (tmp_path / "a.mrc").read_bytes()
    (tmp_path / "longer.mrc").write_bytes(content + b"0000")
    with (
        pytest.warns(RuntimeWarning, match="4 bytes larger than expected"),
        pytest.raises(ValueError, match=r"longer\.mrc could not be decoded.*4 bytes longer than"),
    ):
        open_volume(tmp_path / "longer.mrc")
    (tmp_path / "shorter.mrc").write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"shorter\.mrc could not be decoded"):
        open_volume(tmp_path / "shorter.mrc")


def test_a_nifti_file_without_a_unit_is_in_millimetres(tmp_path):
    nibabel.save(nibabel.Nifti1Image(VOXELS.T, AFFINE), tmp_path / "a.nii")
    assert open_volume(tmp_path / "a.nii").spacing == pytest.approx((2000, 250, 500))


def test_a_label_that_is_stored_in_another_orientation_is_named(tmp_path):
    turned = AFFINE @ np.diag([-1, 1, 1, 1])
    affines = {"image": AFFINE, "same": AFFINE, "label": turned, "coarse": 2 * AFFINE}
    for name, affine in affines.items():
        nibabel.save(nibabel.Nifti1Image(VOXELS.T, affine), tmp_path / f"{name}.nii")
    image = open_volume(tmp_path / "image.nii")
    with pytest.warns(UserWarning, match="state the orientations LAS and RAS: their"):
        check_pair(image, open_volume(tmp_path / "label.nii"))
    with pytest.warns(
        UserWarning, match="state the spacings 2000 × 250 × 500 .* and 4000 × 500 × 1000"
    ):
        check_pair(image, open_volume(tmp_path / "coarse.nii"))
    same = open_volume(tmp_path / "same.nii")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_pair(image, same)


@pytest.mark.parametrize("ending", ["h5", "n5"])
def test_datasets_are_named_behind_the_file(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    FORMATS[path.name](path)
    if ending == "h5":
        with h5py.File(path, "a") as file:
            file["label"] = VOXELS > 50
    named = f"{path}:/volumes/raw" if ending == "h5" else f"{path}:/raw"
    (volume,) = find_images(named)
    assert volume.id == ("a_volumes_raw" if ending == "h5" else "a_raw")
    np.testing.assert_array_equal(read_volume(volume.image), VOXELS)
    cached = Cache(tmp_path / "cache", 2**20).open(volume.image)
    np.testing.assert_array_equal(cached.read((0, 0, 0), SHAPE), VOXELS)
    if ending == "h5":
        with pytest.raises(ValueError, match=r"holds /label, /volumes/raw: name one volume as"):
            open_volume(path)
    with pytest.raises(ValueError, match=r"names no dataset of the .*: choose one"):
        open_volume(f"{path}:/absent")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_volume(tmp_path / f"b.{ending}:/raw")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mrc", "a.h5"])
def test_damaged_files_and_missing_libraries_are_one_sentence(tmp_path, monkeypatch, name):
    path = tmp_path / name
    FORMATS[name](path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(ValueError, match=f"{name} could not be decoded"):
        read_volume(path)
    packages = {"nii": "nibabel", "gz": "nibabel", "nrrd": "nrrd", "mrc": "mrcfile", "h5": "h5py"}
    package = packages[name.rpartition(".")[2]]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"needs the package .*pip install 'jax-seg\[formats\]'"):
        open_volume(path)
