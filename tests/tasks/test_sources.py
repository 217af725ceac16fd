"""The files that a result rests on: a change is found, a copy or an absence is none."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from jax_seg.system.files import read_json, write_json
from jax_seg.tasks import images, sources


@pytest.fixture
def pairs(tmp_path):
    """Two pairs of files, one of them a folder of slices."""
    (tmp_path / "slices").mkdir()
    for name in ("a.tif", "a_label.tif", "slices/0.tif", "slices/1.tif", "b_label.tif"):
        (tmp_path / name).write_bytes(name.encode())
    return {
        "a": (tmp_path / "a.tif", tmp_path / "a_label.tif"),
        "b": (tmp_path / "slices", tmp_path / "b_label.tif"),
    }


def alter(path):
    """Other bytes of the same number."""
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(0, 0))


def test_a_change_is_found(pairs, tmp_path):
    content = json.loads(json.dumps({"sources": sources.record(pairs)}))
    assert sources.changed(content) == {} and sources.since(content, "then", "do this") == ""
    alter(pairs["a"][1])
    assert sources.changed(content) == {"a": ["label"]}
    assert (
        sources.since(content, "then", "do this") == "The label of a changed since then: do this."
    )
    alter(tmp_path / "slices" / "1.tif")
    alter(pairs["b"][1])
    assert sources.changed(content) == {"a": ["label"], "b": ["image", "label"]}
    assert sources.in_words(sources.changed(content)) == "The label of a and 1 more"


def test_a_copy_and_an_absence_are_no_change(pairs, tmp_path):
    content = {"sources": sources.record(pairs)}
    for path in tmp_path.rglob("*.tif"):
        os.utime(path, ns=(5, 5))
    assert sources.changed(content) == {}
    shutil.rmtree(tmp_path / "slices")
    pairs["a"][0].unlink()
    assert sources.changed(content) == {}


def test_older_results_and_unknown_images(pairs):
    assert sources.changed({}) == {} == sources.changed({"sources": {}})
    content = {"sources": sources.record({"a": (None, pairs["a"][1])})}
    assert content["sources"]["a"].keys() == {"label"}
    alter(pairs["a"][1])
    assert sources.changed(content) == {"a": ["label"]}


def test_the_record_of_unchanged_scores_is_brought_up_to_date(pairs, tmp_path):
    path, checksums = tmp_path / "scores.json", {"a": [1, 2], "b": [3, 4]}
    sources.refresh(path, checksums, pairs)
    assert not path.exists()
    write_json(path, {"volumes": {"a": 1}, "data": checksums})  # of an older version
    sources.refresh(path, checksums, pairs)
    expected = {"volumes": {"a": 1}, "data": checksums, "sources": sources.record(pairs)}
    assert read_json(path) == expected
    written = path.stat().st_mtime_ns
    sources.refresh(path, checksums, pairs)
    assert path.stat().st_mtime_ns == written
    alter(pairs["a"][0])  # compressed otherwise: the voxels are the same
    sources.refresh(path, checksums, pairs)
    assert sources.changed(read_json(path)) == {}


def test_an_image_of_the_same_size_is_another_one(pairs):
    example = SimpleNamespace(id="a", image=Path(pairs["a"][0]), mask=Path(pairs["a"][1]))
    before = json.loads(json.dumps(images._checksums([example])))["a"]
    assert sources.differing(before, images._checksums([example])["a"]) == []
    of_older_version = [before[0][0], before[1]]
    assert sources.differing(of_older_version, before) == []
    alter(example.image)
    now = images._checksums([example])["a"]
    assert sources.differing(before, now) == ["image"]
    alter(example.mask)
    now = images._checksums([example])["a"]
    assert sources.differing(before, now) == ["image", "label"]
    assert sources.differing(of_older_version, now) == ["label"]
