"""Whole or absent, on the disk before it has its name, and nothing left of what was interrupted."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jax_seg.system import files
from jax_seg.system.files import existing, locked, read_json, remove_unfinished, replacing, writing
from tests.small_disk import files_of_at_most


def test_content_and_name_are_on_the_disk_in_this_order(tmp_path, monkeypatch):
    seen, sync, replace = [], os.fsync, Path.replace

    def fsync(descriptor):
        seen.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    def renamed(self, target):
        seen.append("renamed")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    with replacing(tmp_path / "new" / "scores.json") as beside:
        beside.write_text("{}")
    assert seen == [str(beside), "renamed", str(tmp_path / "new")]


def test_a_full_disk_names_the_file_and_what_to_do_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text("before")
    with (
        pytest.raises(
            OSError, match=r"scores\.json could not be written \(File too large\): rais"
        ) as caught,
        files_of_at_most(100),
        replacing(path) as beside,
    ):
        beside.write_bytes(bytes(1000))
    assert caught.value.errno == errno.EFBIG
    assert [p.name for p in tmp_path.iterdir()] == ["scores.json"] and path.read_text() == "before"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some disk space, then run the same command again"),
        (errno.EDQUOT, "free some of your quota"),
        (errno.EROFS, "choose a folder that is not read-only"),
        (errno.EIO, "check the path and its disk"),
    ],
)
def test_each_error_of_the_system_has_its_advice(number, advice):
    with pytest.raises(OSError, match=advice) as caught, writing("/a/b.tif"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"/a/b.tif could not be written ({os.strerror(number)})")


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match=r"a/b\.json could not be written"):
        files.write_json(tmp_path / "a" / "b.json", {})


def test_an_error_of_another_file_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, writing(tmp_path / "new.json"):
        (tmp_path / "source.json").read_text()
    assert caught.value.filename == str(tmp_path / "source.json")
    with pytest.raises(OSError, match=r"^not a picture$"), writing(tmp_path / "new.json"):
        raise OSError("not a picture")


@pytest.fixture(scope="module")
def dead():
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


# {name: (removed where this process alone writes, removed where others may)}
LEFT = {
    ".config.DEAD.json": (True, True),  # of a version that did not name the machine
    ".v1-0a1b.DEAD.npz": (True, True),
    ".v4.DEAD.tif": (True, True),
    ".learning.curve.DEAD@HOST.png": (True, True),
    ".8.DEAD@HOST.safetensors": (True, True),
    ".0a1b.DEAD@HOST-x_7.part": (True, True),
    ".synthetic-8x96-seed0.partial-DEAD": (True, True),
    ".synthetic-8x96-seed0.replaced-DEAD": (True, True),
    ".config.OWN@HOST.json": (True, True),  # in a container every start may have one number
    ".config.ALIVE@HOST.json": (False, False),
    ".config.ALIVE.json": (False, False),
    ".config.DEAD@elsewhere.json": (True, False),
    "tmpab_1.part": (True, False),
    ".notes.2024.txt": (False, False),
    "._v4.DEAD.tif": (False, False),  # of the file manager of macOS
    "config.DEAD.json": (False, False),
    "8.safetensors": (False, False),
}


@pytest.mark.parametrize("shared", [False, True])
def test_what_interrupted_writes_left_is_removed(dead, shared, tmp_path):
    words = {"DEAD": dead, "ALIVE": os.getppid(), "OWN": os.getpid(), "HOST": files._host()}
    stays = set()
    for name, removed in LEFT.items():
        for word, value in words.items():
            name = name.replace(word, str(value))
        path = tmp_path / "cache" / "volumes" / name
        if "partial" in name:
            path.mkdir(parents=True)
            (path / "a.tif").touch()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if not removed[shared]:
            stays.add(name)
    remove_unfinished(tmp_path, shared=shared)
    assert {path.name for path in (tmp_path / "cache" / "volumes").iterdir()} == stays


def test_after_an_hour_nobody_is_writing_any_more(tmp_path):
    old, names = time.time() - 3700, (f".a.{os.getppid()}.json", ".b.1@elsewhere.json", "tmpc.part")
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (old, old))
    (tmp_path / "old.json").touch()
    os.utime(tmp_path / "old.json", (old, old))
    remove_unfinished(tmp_path, shared=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


def test_what_a_killed_writer_leaves_is_recognised(tmp_path):
    code = (
        "import os, sys, signal; from jax_seg.system.files import replacing\n"
        "with replacing(sys.argv[1]) as beside:\n"
        "    beside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "a.b" / "v1.tif"], check=False)
    assert ended.returncode == -9
    (left,) = (tmp_path / "a.b").iterdir()
    assert left.name.startswith(".v1.") and left.suffix == ".tif"
    remove_unfinished(tmp_path, shared=True)
    assert list((tmp_path / "a.b").iterdir()) == []


def test_nothing_to_remove_in_a_folder_that_is_absent(tmp_path):
    remove_unfinished(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"scores\.json is not valid JSON \(.*\): restore it from a copy, or remove it\."),
        (b'{"raw": {"dice": 0.', r"scores\.json is not valid JSON"),
        (bytes(40), r"scores\.json is not valid JSON"),
        (b"\xff\xfe\x00{", r"scores\.json is not valid JSON"),
        (b"[1, 2]", r"scores\.json holds no JSON object \(list\)"),
    ],
)
def test_a_damaged_json_file_is_named(tmp_path, content, message):
    (tmp_path / "scores.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(tmp_path / "scores.json")
    assert "\n" not in str(caught.value)


def test_a_file_in_place_of_the_workdir_is_named(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(OSError, match="run could not be written"), locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("address", ["s3://bucket/a.zarr", "gs://bucket/a", "https://host.org/a"])
def test_addresses_are_refused_for_what_they_are(address):
    for path in (address, Path(address)):  # Path makes one slash of two
        with pytest.raises(ValueError, match=f"^{address} is an address, .* copy or mount it here"):
            existing(path)


def test_existing(tmp_path):
    assert existing(str(tmp_path)) == tmp_path
    for absent in ("nowhere", "a:b", "C:/data"):
        with pytest.raises(FileNotFoundError, match=f"{absent} does not exist"):
            existing(absent)
    (tmp_path / "s3:").mkdir()
    assert existing(tmp_path / "s3:").name == "s3:"


def test_beside_a_file_only_its_own_unfinished_ones_are_removed(dead, tmp_path):
    host = files._host()
    removed = {f".summary.{dead}@{host}.json", f".summary.{dead}@{host}"}
    kept = {
        f".summary.{os.getppid()}@{host}.json",  # of a running process
        f".summary.{dead}@elsewhere.json",
        f".summary.{dead}.json",  # a hidden file of the user's may have this name
        f".other.{dead}@{host}.json",
        "summary.json",
    }
    for name in removed | kept:
        (tmp_path / name).touch()
    files.remove_unfinished_beside(tmp_path / "summary.json")
    assert {path.name for path in tmp_path.iterdir()} == kept
    files.remove_unfinished_beside(tmp_path / "absent" / "summary.json")
