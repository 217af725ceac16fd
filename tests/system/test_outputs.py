"""Commands replace their own files alone, and write nothing among their inputs."""

import json
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from jax_seg.data.readers import pictures
from jax_seg.data.writers import write_tiff
from jax_seg.system import outputs

MARK = outputs.written_by("predict")


def write_png(path):
    pictures.write_map(path, np.zeros((3, 3), np.uint8), origin=MARK)


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = MARK.encode()
        archive.writestr("a", np.random.default_rng(0).bytes(200_000))


def write_stack(path, **options):
    noise = np.random.default_rng(0).integers(0, 255, (40, 300, 300), np.uint8)
    write_tiff(path, noise, compression="lzw", **options)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.tif", lambda path: write_stack(path, origin=MARK)),
        ("a.png", write_png),
        ("a.zip", write_zip),
        ("a.json", lambda path: path.write_text(json.dumps(outputs.marked({"b": 1}, "predict")))),
    ],
)
def test_every_format_carries_the_mark(tmp_path, name, write):
    write(tmp_path / name)
    assert outputs.is_own(tmp_path / name, "predict")
    assert not outputs.is_own(tmp_path / name, "evaluate")
    outputs.require_own([tmp_path / name, tmp_path / "absent"], "predict")
    with pytest.raises(FileExistsError, match=rf"{name} was not written by jax_seg\.evaluate"):
        outputs.require_own([tmp_path / name], "evaluate")


def test_files_of_others(tmp_path):
    write_stack(tmp_path / "a.tif")
    Image.new("L", (3, 3)).save(tmp_path / "b.png")
    (tmp_path / "c.json").touch()
    (tmp_path / "d").mkdir()
    (tmp_path / "e").symlink_to(tmp_path / "nowhere")
    paths = sorted(tmp_path.iterdir())
    for path in paths:
        with pytest.raises(FileExistsError, match="move it away, or choose another --zip"):
            outputs.require_own([path], "predict", "--zip")
    with pytest.raises(FileExistsError, match=r"a\.tif \(and 4 more files\) was not written"):
        outputs.require_own(paths, "predict")


def test_a_file_that_another_program_saved_again_is_no_longer_own(tmp_path):
    write_stack(tmp_path / "a.tif", origin=MARK)
    tifffile.imwrite(tmp_path / "a.tif", tifffile.imread(tmp_path / "a.tif"))
    assert not outputs.is_own(tmp_path / "a.tif", "predict")


def test_not_among_the_inputs_also_through_links(tmp_path, monkeypatch):
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(images)
    monkeypatch.chdir(images)
    for path in (images, images / "new" / "er", tmp_path / "link" / "deep", "deep", "."):
        with pytest.raises(ValueError, match=r"--output .*images, which holds inputs"):
            outputs.require_apart(path, inside=[tmp_path / "other", images])
    with pytest.raises(ValueError, match="lies in"):  # the input is the link
        outputs.require_apart(images, inside=[tmp_path / "link"])
    for path in (tmp_path / "images2", tmp_path, "../out"):
        outputs.require_apart(path, inside=[images])
    with pytest.raises(ValueError, match="is the folder"):
        outputs.require_apart(tmp_path / "link", same=[images])
    outputs.require_apart(images / "deep", same=[images])


def test_a_place_that_cannot_be_written_is_found_before(tmp_path, monkeypatch):
    outputs.require_folder(tmp_path / "new" / "er")
    assert list(tmp_path.iterdir()) == []  # nothing is made yet
    monkeypatch.chdir(tmp_path)
    outputs.require_folder("new")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(NotADirectoryError, match="file is not a folder; name a folder"):
            outputs.require_folder(path)

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(outputs.tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=r"--output .*new cannot be written \(Permission den"):
        outputs.require_folder(tmp_path / "new")


def test_one_output_file(tmp_path):
    outputs.require_file(None, "evaluate")
    outputs.require_file(tmp_path / "new" / "a.json", "evaluate", inside=[tmp_path / "other"])
    with pytest.raises(IsADirectoryError, match="is a folder: name a file"):
        outputs.require_file(tmp_path, "evaluate")
    with pytest.raises(ValueError, match="holds inputs"):
        outputs.require_file(tmp_path / "a.json", "evaluate", inside=[tmp_path])
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"a\.json was not written"):
        outputs.require_file(tmp_path / "a.json", "evaluate")
