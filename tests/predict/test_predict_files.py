"""What predict writes, takes for finished, and never writes over."""

import json
import os
import shutil
import zipfile

import h5py
import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
import tensorstore
import tifffile
import zarr

from jax_seg import predict
from jax_seg.data.readers import read_volume
from jax_seg.runs import checkpoints, members
from tests.conftest import write_volumes
from tests.predicting import run, run_status
from tests.workdirs import write_run


def test_what_was_made_otherwise_is_not_taken_for_finished(runs, image, tmp_path, capsys):
    a, b = runs
    run(image, tmp_path, "--workdir", a)
    written = (tmp_path / "v0.tif").stat().st_mtime_ns
    for flags, what in [
        (["--workdir", b], "checkpoint"),
        (["--workdir", f"{a}@2"], "checkpoint"),
        (["--workdir", a, b], "number of members"),
        (["--workdir", a, "--flips", "height"], "flips"),
        (["--workdir", a, "--rotations"], "rotations"),
        (["--workdir", a, "--overlap", "0.25"], "overlap"),
        (["--workdir", a, "--postprocess", "remove_small"], "post-processing"),
    ]:
        assert run(image, tmp_path, *flags)[0] == 1
        assert f"made with a different {what}: pass --overwrite" in capsys.readouterr().err
    assert run(image, tmp_path, "--workdir", a, "--postprocess", "none")[0] == 0
    assert "already finished" in capsys.readouterr().out
    assert (tmp_path / "v0.tif").stat().st_mtime_ns == written

    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert run(image, tmp_path, "--workdir", a)[0] == 1
    assert "made with a different image: " in capsys.readouterr().err

    run(image, tmp_path / "both", "--workdir", a, b)
    assert run(image, tmp_path / "both", "--workdir", a, b)[0] == 0
    assert run(image, tmp_path / "both", "--workdir", a, b, "--member_weights", 2, 1)[0] == 1
    assert "a different member weight: " in capsys.readouterr().err


def test_a_run_that_moved_made_the_same_predictions(runs, image, tmp_path, capsys):
    a, b = runs
    for number, names in enumerate(((a,), (a, b))):
        out = tmp_path / str(number)
        run(image, out, "--workdir", *names)
        moved = [shutil.copytree(w, tmp_path / f"{number}{n}") for n, w in enumerate(names)]
        assert run(image, out, "--workdir", *moved)[0] == 0
        assert "1 of 1 volumes are already finished; skipping them." in capsys.readouterr().out


def test_a_cut_mask_is_neither_finished_nor_submitted(runs, image, tmp_path, capsys):
    out, submission = tmp_path / "out", tmp_path / "all.zip"
    flags = ["--workdir", runs[0], "--submission", submission]
    assert run(image, out, *flags)[0] == 0
    whole = (out / "v0.tif").read_bytes()
    with zipfile.ZipFile(submission) as archive:
        assert archive.namelist() == ["v0.tif"] and archive.read("v0.tif") == whole
    submission.unlink()
    (out / "v0.tif").write_bytes(whole[:-9])
    assert run_status(image, out, *flags) == 1
    error = capsys.readouterr().err
    assert "v0.tif has changed since it was written: move it away" in error
    assert "all.zip is not written" in error and not submission.exists()
    assert run_status(image, out, *flags, "--overwrite") == 0
    assert (out / "v0.tif").read_bytes() == whole and submission.exists()
    assert run_status(image, out, *flags) == 0  # its own submission is replaced


def write_dataset(path, voxels):
    """FILE.h5 or FOLDER.n5 with the dataset raw; the path that names it."""
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["raw"] = voxels
    else:
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/raw"}}
        about = {"dimensions": voxels.shape[::-1], "dataType": "uint8"}
        spec["metadata"] = about | {"blockSize": [9, 9, 9], "compression": {"type": "gzip"}}
        tensorstore.open(spec, create=True).result().write(voxels.T).result()
    return f"{path}:/raw"


@pytest.mark.parametrize("ending", ["h5", "n5"])
def test_masks_that_are_datasets(runs, image, tmp_path, capsys, ending):
    """Finished, cut, written again and submitted as files are; what others wrote stays."""
    named = write_dataset(tmp_path / f"v.{ending}", tifffile.imread(image))
    out, archived = tmp_path / "out", tmp_path / "all.zip"
    command = ["--workdir", runs[0], "--input", named, "--output", str(out)]
    command += ["--submission", str(archived)]
    assert predict.main(command) == 0
    assert predict.main(["--workdir", runs[0], "--input", str(image), "--output", str(out)]) == 0
    mask, expected = out / f"v_raw.{ending}", tifffile.imread(out / "v0.tif")
    np.testing.assert_array_equal(read_volume(f"{mask}:/raw"), expected)
    assert 0 < expected.sum() < expected.size
    with zipfile.ZipFile(archived) as archive:
        archive.extractall(tmp_path / "unpacked")
    np.testing.assert_array_equal(read_volume(tmp_path / "unpacked" / mask.name), expected)
    capsys.readouterr()
    assert predict.main(command) == 0
    assert "1 of 1 volumes are already finished" in capsys.readouterr().out
    part = mask if ending == "h5" else mask / "raw" / "0" / "0" / "0"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    assert predict.main(command) == 1
    assert f"{mask.name} has changed since it was written: move it" in capsys.readouterr().err
    assert predict.main([*command, "--overwrite"]) == 0
    np.testing.assert_array_equal(read_volume(mask), expected)
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_dataset(mask, expected)
    assert predict.main([*command, "--overwrite"]) == 1
    assert f"{mask.name} was not written by jax_seg.predict" in capsys.readouterr().err


AFFINE = np.array([[0, -2.0, 0, 7], [-2.0, 0, 0, 8], [0, 0, 3.0, 9], [0, 0, 0, 1]])
DIRECTIONS = np.array([[0, 2.0, 0], [-2.0, 0, 0], [0, 0, 3.0]])


def write_scan(path, voxels):
    """Voxels [D, H, W] as NIfTI, NRRD or MRC with a header of its own, axes turned."""
    if path.suffix == ".nrrd":
        header = {"space": "left-posterior-superior", "space directions": DIRECTIONS}
        nrrd.write(str(path), voxels, header, index_order="C")
    elif path.suffix == ".mrc":
        with mrcfile.new(path, voxels.astype(np.uint16)) as file:
            file.voxel_size, file.header.origin = (2.0, 2.0, 3.0), (7, 8, 9)
    else:
        nibabel.save(nibabel.Nifti1Image(voxels.T, AFFINE), path)


def assert_header(path):
    """That `write_scan` wrote it."""
    if path.suffix == ".nrrd":
        np.testing.assert_array_equal(nrrd.read_header(str(path))["space directions"], DIRECTIONS)
    elif path.suffix == ".mrc":
        with mrcfile.open(path) as file:
            assert file.voxel_size.tolist() == (2, 2, 3)
            assert file.header.origin.tolist() == (7, 8, 9)
    else:
        np.testing.assert_array_equal(nibabel.load(path).affine, AFFINE)


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mrc"])
def test_a_mask_has_the_format_and_the_header_of_its_input(runs, image, tmp_path, ending):
    scan = tmp_path / f"v.{ending}"
    write_scan(scan, tifffile.imread(image))
    out = tmp_path / "out"
    command = ["--workdir", runs[0], "--output", str(out), "--probabilities", "--input"]
    assert predict.main([*command, str(scan)]) == 0
    assert predict.main([*command, str(image)]) == 0
    expected = tifffile.imread(out / "v0.tif")
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(read_volume(out / f"v.{ending}"), expected)
    assert_header(out / f"v.{ending}")
    found = [read_volume(one) for one in sorted((out / "probabilities").iterdir())]
    np.testing.assert_array_equal(*found)


@pytest.fixture
def data(tmp_path):
    """Volumes, a link to the folder of their images, and a run that was trained on them."""
    root = write_volumes(tmp_path / "data", count=4)
    (tmp_path / "link").symlink_to(root / "train_images")
    write_run(tmp_path / "run", root, change=lambda config: config.data.update(folds=2))
    return root


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_inputs_are_never_written_over(data, runs, tmp_path, capsys, overwrite):
    images, labels, run_ = data / "train_images", data / "train_labels", tmp_path / "run"
    own = tmp_path / "own"  # somebody's masks, and other files under the names of predictions
    own.mkdir()
    (own / "v0.tif").write_bytes((labels / "v0.tif").read_bytes())
    json_ = tmp_path / "json"
    json_.mkdir()
    (json_ / "v1.json").write_text('{"notes": "mine"}')
    probabilities = tmp_path / "maps"
    (probabilities / "probabilities").mkdir(parents=True)
    (probabilities / "probabilities" / "v1.tif").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for given, output, message in [
        (images, images, "which holds inputs"),
        (images, tmp_path / "link", "which holds inputs"),
        (tmp_path / "link", images / "predictions", "which holds inputs"),
        (images / "v0.tif", tmp_path / "link", "which holds inputs"),  # known from the run
        (images, labels, "which holds inputs"),
        (images, labels / "new", "which holds inputs"),
        (images, run_ / "checkpoints", "which holds inputs"),
        (images, own, "own/v0.tif was not written by jax_seg.predict"),
        (images, json_, "json/v1.json was not written by jax_seg.predict"),
        (images, probabilities, "probabilities/v1.tif was not written by jax_seg.predict"),
    ]:
        flags = ["--workdir", str(run_), "--probabilities", *overwrite]
        status = predict.main(["--input", str(given), "--output", str(output), *flags])
        error = capsys.readouterr().err
        assert status == 1 and message in error and error.count("\n") == 1
    flags = ["--workdir", runs[0], "--input", str(images / "v0.tif"), *overwrite]  # of other data
    assert predict.main([*flags, "--output", str(tmp_path / "link")]) == 1
    assert "of the inputs: choose another folder" in capsys.readouterr().err
    for zip_ in (images / "v0.tif", own / "v0.tif", tmp_path):
        command = [*flags, "--output", str(tmp_path / "out"), "--submission", str(zip_)]
        assert predict.main(command) == 1
        assert str(zip_) in capsys.readouterr().err
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_an_output_that_cannot_be_written_is_found_before_the_network_runs(
    runs, volumes_folder, tmp_path, capsys
):
    (tmp_path / "file").touch()
    images = str(volumes_folder / "train_images")
    for output in (tmp_path / "file", tmp_path / "file" / "deep"):
        command = ["--workdir", runs[0], "--input", images, "--output", str(output)]
        assert predict.main(command) == 1
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1 and "file is not a folder" in printed.err
        assert printed.out == ""


def test_ctrl_c_ends_in_one_sentence(runs, volumes_folder, tmp_path, capsys, monkeypatch):
    load, seen = members.load, []

    def load_and_stop(member, **options):
        network = load(member, **options)

        def segment(volume):
            seen.append(volume)
            if len(seen) == 3:
                raise KeyboardInterrupt
            return network.segment(volume)

        return network._replace(segment=segment)

    monkeypatch.setattr(members, "load", load_and_stop)
    out, images = tmp_path / "out", str(volumes_folder / "train_images")
    command = ["--workdir", runs[0], "--input", images, "--output", str(out)]
    assert predict.main(command) == 130
    error = capsys.readouterr().err
    assert error.startswith("Interrupted: ") and error.count("\n") == 1
    left = sorted(path.name for path in out.iterdir())
    assert left == ["v0.json", "v0.tif", "v1.json", "v1.tif"]
    assert predict.main(command) == 0
    assert "2 of 6 volumes are already finished; skipping them." in capsys.readouterr().out


def test_two_inputs_and_an_input_without_a_name(runs, tmp_path, capsys, monkeypatch):
    for folder in "AB":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.tif").touch()
    both = [str(tmp_path / folder) for folder in "AB"]
    command = ["--workdir", runs[0], "--output", str(tmp_path / "out"), "--input"]
    assert predict.main([*command, *both]) == 1
    assert f"{both[0]} and {both[1]} have 1 id (x) more than once" in capsys.readouterr().err
    zarr.create_array(tmp_path / "v.zarr", data=np.ones((4, 8, 8), np.uint8))
    monkeypatch.chdir(tmp_path / "v.zarr")
    assert predict.main([*command, "."]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["v.json", "v.tif"]


def test_the_sidecar_says_which_volumes_were_trained_on(runs, volumes_folder, tmp_path, capsys):
    split = checkpoints.read_variables(runs[0])[1]["split"]
    flags = ["--workdir", runs[0], "--input", str(volumes_folder / "train_images")]
    assert predict.main([*flags, "--output", str(tmp_path)]) == 0
    parts = (("training", "training", []), ("validation", "held out", ["checkpoint"]))
    for part, volumes, chose in parts:
        for name in split[part]:
            facts = json.loads((tmp_path / f"{name}.json").read_text())
            assert facts["judged_on"] == {"volumes": volumes, "chose": chose}
    printed = capsys.readouterr().out.splitlines()
    marked = {line.split("/")[-1][:2] for line in printed if line.endswith(" | training volume")}
    assert marked == set(split["training"])
