"""Generated scrolls: their geometry, their labels against a clean image, and the folder written."""

import csv
import subprocess
import sys
import zlib
from pathlib import Path

import edt
import numpy as np
import pytest
import tifffile
from scipy import ndimage
from skimage import measure

from jax_seg.data import scroll, synthetic
from tests.conftest import write_volumes

# Without what hides the sheet, its voxels are those above the middle of the two grey levels.
CLEAN = {
    "fibre": 0,
    "sheet_variation": 0,
    "filling_variation": 0,
    "grit": 0,
    "blur": 0.05,
    "grain": 0,
    "white_noise": 0,
    "rings": 0,
    "papyrus": 0.6,
    "filling": 0.2,
}


def clean_sheet(image):
    return image > 127


@pytest.fixture(scope="module")
def scrolls():
    return [scroll.scroll_volume(seed, 64) for seed in range(12)]


def best_threshold_dice(image, label):
    surface = np.bincount(image[label == 1], minlength=256)[::-1].cumsum()
    background = np.bincount(image[label == 0], minlength=256)[::-1].cumsum()
    return (2 * surface / (surface + background + surface[-1])).max()


def test_same_seed_same_bytes():
    image, label = scroll.scroll_volume(0, 32)
    assert image.dtype == label.dtype == np.uint8
    assert image.shape == label.shape == (32, 32, 32)
    assert (zlib.crc32(image.tobytes()), zlib.crc32(label.tobytes())) == (3991573416, 3938981982)
    assert not np.array_equal(image, scroll.scroll_volume(1, 32)[0])


def test_scanner_arguments_leave_the_labels_alone():
    noisy, label = scroll.scroll_volume(3, 40, white_noise=0.1)
    image, same = scroll.scroll_volume(3, 40)
    np.testing.assert_array_equal(label, same)
    assert not np.array_equal(image, noisy)


def test_shape_follows_size():
    image, label = scroll.scroll_volume(0, (33, 40, 57))
    assert image.shape == label.shape == (33, 40, 57)


def test_mix_of_labels(scrolls):
    mixes = [np.bincount(label.ravel(), minlength=3) / label.size for _, label in scrolls]
    assert all(len(mix) == 3 for mix in mixes)
    error = np.abs(np.mean(mixes, axis=0) - (0.37, 0.05, 0.58))
    assert (error < (0.04, 0.015, 0.04)).all()


def test_sheet_is_two_voxels_thick(scrolls):
    ridges, volumes, areas = [], 0, 0
    for _, label in scrolls[:6]:
        sheet = label == 1
        depth = edt.edt(sheet)
        ridges.append(depth[sheet & (depth == ndimage.maximum_filter(depth, 3))])
        volumes += sheet.sum()
        # The two faces, smoothed so that voxel steps do not count as area.
        smooth = ndimage.gaussian_filter(sheet.astype(np.float32), 0.7)
        areas += measure.mesh_surface_area(*measure.marching_cubes(smooth, 0.4)[:2])
    assert 2 * np.median(np.concatenate(ridges)) == 2
    assert 2 * volumes / areas == pytest.approx(2, abs=0.15)


def test_intensity_tells_something_but_not_enough(scrolls):
    for image, label in scrolls:
        assert image[label == 1].mean() > image[label == 0].mean() + 20
    scores = [best_threshold_dice(image, label) for image, label in scrolls]
    assert 0.4 < np.mean(scores) < 0.7


@pytest.mark.parametrize("seed", range(3))
def test_labels_tell_the_truth(seed):
    image, label = scroll.scroll_volume(seed, 80, **CLEAN)
    sheet = clean_sheet(image)
    np.testing.assert_array_equal(sheet[label == 1], True)
    np.testing.assert_array_equal(sheet[label == 0], False)
    assert sheet[label == 2].mean() > 0.05, "some sheets stay untraced"


def test_air_is_dark_and_empty():
    image, _ = scroll.scroll_volume(1, 48, air=0.25, **CLEAN)
    assert np.mean(image == round(255 * 0.2 * 0.3)) == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("handedness", [1, -1])
def test_sheet_is_a_spiral(handedness):
    """One connected sheet, and wraps `spacing` apart: rings would fall into pieces."""
    round_scroll = dict(turns=(0, 0), squash=1, compression=0, warp=0, crumple=0, holes=0, air=0)
    image, _ = scroll.scroll_volume(
        0, 96, spacing=9, handedness=handedness, **round_scroll, **CLEAN
    )
    sheet = clean_sheet(image)[48]
    # Archimedean spiral: one sheet of thickness 2 per spacing.
    assert sheet.mean() == pytest.approx(2 / 9, rel=0.1)
    # Beyond the disc the border of the image cuts the spiral into arcs.
    y, x = np.mgrid[-48:48, -48:48]
    sheet[np.hypot(y, x) > 38] = False
    pieces, _ = ndimage.label(sheet, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    assert sizes.max() > 0.65 * sizes.sum()


def test_smooth_noise_has_unit_variance_and_its_scale():
    generator = np.random.default_rng(0)
    field = scroll.smooth_noise(generator, (64, 64, 64), (4, 4, 8)).astype(np.float64)
    assert field.mean() == pytest.approx(0, abs=0.05)
    assert field.var() == pytest.approx(1, abs=0.1)
    # ∫β'² / ∫β² = (2/3) / (151/315) for the cubic B-spline β.
    slopes = [np.diff(field, axis=axis).var() for axis in range(3)]
    expected = [2 / 3 / (151 / 315) / scale**2 for scale in (4, 4, 8)]
    np.testing.assert_allclose(slopes, expected, rtol=0.15)


def test_volumes_of_a_scroll_share_its_look(monkeypatch):
    calls = []

    def record(seed, size, **look):
        calls.append((seed, look))
        return None, None

    monkeypatch.setattr(synthetic, "scroll_volume", record)
    ids, scroll_ids, _, _ = zip(*synthetic.volumes(6, 32, seed=5, white_noise=0), strict=True)
    assert len(set(ids)) == 6
    assert scroll_ids == ("scroll0", "scroll1", "scroll2", "scroll3", "scroll0", "scroll1")
    seeds, looks = zip(*calls, strict=True)
    assert len(set(seeds)) == 6
    assert looks[0] == looks[4] != looks[1] == looks[5]
    assert all(look["white_noise"] == 0 for look in looks)


def test_first_volumes_do_not_depend_on_the_count():
    (one,) = synthetic.volumes(1, 32, seed=2)
    first, _ = synthetic.volumes(2, 32, seed=2)
    assert one[:2] == first[:2]
    np.testing.assert_array_equal(one[2:], first[2:])


def test_folder_layout(tmp_path):
    out = tmp_path / "new" / "data"
    lines = []
    mix = synthetic.write_folder(out, 5, (32, 40, 36), seed=1, test=2, report=lines.append)

    with (out / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["scroll_id"] for row in rows] == [f"scroll{i}" for i in (0, 1, 2, 3, 0)]
    train = {f"{row['id']}.tif" for row in rows}
    assert {path.name for path in out.iterdir()} == {
        "train_images",
        "train_labels",
        "test_images",
        "train.csv",
        "synthetic.json",
    }
    assert {path.name for path in (out / "train_images").iterdir()} == train
    assert {path.name for path in (out / "train_labels").iterdir()} == train
    test = {path.name for path in (out / "test_images").iterdir()}
    assert len(test) == 2 and not test & train

    labels = []
    for (name, _, image, label), _ in zip(synthetic.volumes(5, (32, 40, 36), 1), rows, strict=True):
        np.testing.assert_array_equal(tifffile.imread(out / f"train_images/{name}.tif"), image)
        with tifffile.TiffFile(out / f"train_labels/{name}.tif") as tiff:
            assert len(tiff.pages) == 32
            assert tiff.pages[0].compression == tifffile.COMPRESSION.LZW
            np.testing.assert_array_equal(tiff.asarray(), label)
        labels.append(label)
    np.testing.assert_allclose(mix, np.bincount(np.ravel(labels), minlength=3) / np.size(labels))
    assert len(lines) == 5 + 5 + 2 + 1
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("existing", [False, True])
def test_failure_leaves_nothing_half_written(tmp_path, monkeypatch, existing):
    out = tmp_path / "data"
    if existing:
        synthetic.write_folder(out, 1, 32)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write = tifffile.imwrite

    def fail_at_a_label(path, *arguments, **options):
        if path.parent.name == "train_labels":
            raise OSError("disk full")
        write(path, *arguments, **options)

    monkeypatch.setattr(tifffile, "imwrite", fail_at_a_label)
    with pytest.raises(OSError, match="disk full"):
        synthetic.write_folder(out, 2, 32, seed=1, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_overwriting_must_be_asked_for(tmp_path):
    out = tmp_path / "data"
    out.mkdir()
    synthetic.write_folder(out, 2, 32)  # an empty folder may be filled
    with pytest.raises(FileExistsError, match="not empty"):
        synthetic.write_folder(out, 1, 32)
    synthetic.write_folder(out, 1, 32, overwrite=True)
    assert len(list((out / "train_images").iterdir())) == 1
    assert list(tmp_path.iterdir()) == [out]

    (out / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        synthetic.write_folder(out, 1, 32, overwrite=True)
    (out / "thesis.tex").replace(out / "train_labels" / "mine.tif")
    with pytest.raises(FileExistsError, match=r"train_labels/mine\.tif"):
        synthetic.write_folder(out, 1, 32, overwrite=True)
    (out / "train_labels" / "mine.tif").unlink()
    label = out / "train_labels" / "100000.tif"
    label.write_bytes(label.read_bytes() + b"edited")
    with pytest.raises(FileExistsError, match=r"100000\.tif.* has changed since"):
        synthetic.write_folder(out, 1, 32, overwrite=True)
    assert label.read_bytes().endswith(b"edited")
    with pytest.raises(FileExistsError, match="is a file"):
        synthetic.write_folder(label, 1, 32, overwrite=True)


def test_a_data_set_of_somebody_in_the_same_layout_is_never_replaced(tmp_path):
    write_volumes(tmp_path, count=2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"train.*not part of the generated data set"):
        synthetic.write_folder(tmp_path, 1, 32, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_bad_requests_are_named(tmp_path):
    with pytest.raises(ValueError, match="at least 32"):
        scroll.scroll_volume(0, 31)
    with pytest.raises(ValueError, match="one or three sides"):
        scroll.scroll_volume(0, (64, 64))
    with pytest.raises(ValueError, match="at least 1"):
        synthetic.volumes(0, 32)
    with pytest.raises(ValueError, match="seed is -1"):
        synthetic.volumes(1, 32, seed=-1)
    with pytest.raises(ValueError, match="0 training"):
        synthetic.write_folder(tmp_path / "data", 0, 32, test=1)
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match="cannot be written"):
        synthetic.write_folder(tmp_path / "file" / "data", 1, 32)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_command_line(tmp_path, capsys):
    command = [sys.executable, "-m", "jax_seg.data.synthetic", tmp_path / "data"]
    flags = ["--volumes", "2", "--size", "32", "--test", "1", "--seed", "4"]
    done = subprocess.run(command + flags, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 2 + 1 + 1 + 1
    assert all((tmp_path / "data" / line.split()[0]).is_file() for line in lines[:-1])
    assert lines[-1].startswith("labels: ") and lines[-1].endswith("% unlabelled")

    assert synthetic.main([str(tmp_path / "data"), *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and "not empty" in error and error.count("\n") == 1


def test_an_interruption_between_the_two_renames_keeps_the_folder(tmp_path, monkeypatch):
    out, replace = tmp_path / "data", Path.replace
    synthetic.write_folder(out, 1, 32)
    before = {path.name for path in (out / "train_images").iterdir()}

    def interrupted(self, target):
        if ".partial-" in self.name:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_folder(out, 2, 32, overwrite=True)
    assert {path.name for path in (out / "train_images").iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_full_disk_names_the_table(tmp_path, monkeypatch):
    write_text = Path.write_text

    def full(self, text):
        if self.name == "train.csv":
            raise OSError(28, "No space left on device")
        return write_text(self, text)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"train\.csv could not be written .*free some disk space"):
        synthetic.write_folder(tmp_path / "data", 1, 32)
    assert not list(tmp_path.iterdir())
