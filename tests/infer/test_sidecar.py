"""Which predictions are finished, by what decides them and by their files."""

import copy
import json
from typing import NamedTuple

import pytest

from jax_seg.infer import sidecar

MAPS = ("probabilities",)
SETTINGS = {
    "workdir": "/here/run",
    "step": 3,
    "digest": "abc",
    "preprocessing": {"low": 0.0, "high": 255.0},
    "patch": [16, 16, 16],
    "overlap": 0.5,
    "threshold": 0.5,
}


class Image(NamedTuple):
    id: str
    image: object


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workdir": "/there/run", "step": 4, "weights": "swa", "predicted_with": "new"}, []),
        ({"digest": "abd"}, ["checkpoint"]),
        ({"preprocessing": {"low": 0.0, "high": 9.0}}, ["preprocessing"]),
        ({"patch": [8, 16, 16]}, ["window size"]),
        ({"overlap": 0.25, "threshold": 0.6}, ["overlap", "threshold"]),
        ({"flips": ["width"]}, ["flips"]),
        ({"rotations": True}, ["rotations"]),
        ({"postprocess": ["threshold:value=0.5"]}, ["post-processing"]),
    ],
)
def test_what_decides_a_prediction(change, words):
    assert sidecar.changes(SETTINGS, SETTINGS | change) == words
    assert sidecar.changes(SETTINGS | change, SETTINGS) == words


def test_members_of_ensembles():
    pair = {"members": [SETTINGS | {"weight": 0.5}, SETTINGS | {"digest": "b", "weight": 0.5}]}
    moved = copy.deepcopy(pair)
    moved["members"][1]["workdir"] = "/elsewhere"
    assert sidecar.changes(pair, moved) == []
    moved["members"][1] |= {"digest": "c", "weight": 0.4}
    assert sidecar.changes(pair, moved) == ["checkpoint", "member weight"]
    assert sidecar.changes(pair, SETTINGS) == ["number of members"]


@pytest.fixture
def made(tmp_path):
    """(an image, a finished prediction of it, with probabilities)."""
    image = Image("a", tmp_path / "a.tif")
    image.image.write_bytes(b"image")
    output = tmp_path / "out"
    (output / "probabilities").mkdir(parents=True)
    files = sidecar.files_of("a", ".tif", MAPS)
    for name in files:
        (output / name).write_bytes(b"mask of a")
    stamp = sidecar.stamp(image.image)
    sidecar.write(output, "a", files, SETTINGS | {"image_stamp": stamp})
    return image, output


def status(made, maps=MAPS, **settings):
    """'to do', 'finished', or the error."""
    image, output = made
    to_do, errors = sidecar.unfinished([image], output, lambda _: ".tif", SETTINGS | settings, maps)
    return "to do" if to_do else str(errors.get("a", "finished"))


def test_finished_means_that_sidecar_and_files_agree(made):
    assert status(made) == status(made, maps=()) == "finished"
    content = json.loads((made[1] / "a.json").read_text())
    assert content["origin"] == "written by jax_seg.predict"
    assert content["files"]["a.tif"]["bytes"] == 9


@pytest.mark.parametrize("name", ["a.tif", "probabilities/a.tif"])
@pytest.mark.parametrize("content", [b"", b"mask of", b"mask of b"])
def test_a_cut_or_edited_file_is_not_finished(made, name, content):
    (made[1] / name).write_bytes(content)
    assert f"{name} has changed since it was written" in status(made)
    # Without probabilities, theirs is not looked at.
    assert (status(made, maps=()) == "finished") == name.startswith("prob")


def test_what_is_missing_is_predicted(made):
    (made[1] / "probabilities" / "a.tif").unlink()
    assert status(made) == "to do" and status(made, maps=()) == "finished"
    (made[1] / "a.tif").unlink()
    assert status(made, maps=()) == "to do"


@pytest.mark.parametrize("content", [None, b"", b'{"digest": "ab', b"[]", b"{}"])
def test_without_a_whole_sidecar_nothing_is_finished(made, content):
    (made[1] / "a.json").unlink()
    if content is not None:
        (made[1] / "a.json").write_bytes(content)
    assert status(made) == "to do"


def test_another_image_or_setting_is_an_error_also_where_a_file_is_missing(made):
    (made[1] / "probabilities" / "a.tif").unlink()
    assert "was made with a different threshold: pass --overwrite" in status(made, threshold=0.6)
    made[0].image.write_bytes(b"another image")
    assert "was made with a different image: " in status(made)


def test_another_spacing_than_then_is_named(made):
    image, output = made
    wanted = [image], output, lambda _: ".tif", SETTINGS, MAPS
    assert sidecar.unfinished(*wanted, lambda _: {}) == ([], {})
    now = {"resampled_from": [2.0, 1.0, 1.0], "resampled_to": [[1.0, 1.0, 1.0]]}
    _, errors = sidecar.unfinished(*wanted, lambda _: now)
    assert "made with a different voxel spacing:" in str(errors["a"])
