"""Files are segmented one by one: what fails ends one of them, what was begun is finished."""

import errno
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from jax_seg.data.folder import Volume
from jax_seg.data.readers import open_volume
from jax_seg.infer import files
from jax_seg.infer.files import Unwritable, predict_files
from jax_seg.ops.classes import ONE, Classes
from jax_seg.system import memory
from jax_seg.system.outputs import require_own
from jax_seg.tasks.kinds import IMAGES, VOLUMES


@pytest.fixture
def found(tmp_path):
    """Three volumes of 3 × 8 × 8 voxels, each of its number."""
    volumes = [Volume(name, tmp_path / f"{name}.tif", None, name) for name in "abc"]
    for number, volume in enumerate(volumes):
        # Three slices: a TIFF that tifffile would take for colours.
        tifffile.imwrite(
            volume.image, np.full((3, 8, 8), number, np.uint8), photometric="minisblack"
        )
    return volumes


def test_folders_of_classes_are_names_on_any_disk():
    assert files.map_folders(ONE) == ("probabilities",)
    two = Classes(("left / right", "b"), ((1,), (2,)), (1, 2))
    assert files.map_folders(two) == ("probabilities/left_right", "probabilities/b")
    with pytest.raises(ValueError, match="two of the classes a/b, a b would share a folder"):
        files.map_folders(two._replace(names=("a/b", "a b")))


def predict(found, output, segment=lambda image: jnp.zeros(image.shape), kind=VOLUMES):
    """{id: sidecar or error}, as far as it came."""
    results = predict_files(
        kind,
        lambda _, image: segment(image),
        lambda logits, image: np.asarray(image, np.uint8),
        lambda volume, image: {"brightest": int(image.max())},
        found,
        output,
        settings={"digest": "d"},
        maps_of=ONE,
    )
    return dict(results)


def test_masks_probabilities_and_sidecars(found, tmp_path):
    results = predict(found, tmp_path / "out")
    assert list(results) == ["a", "b", "c"]
    for name in ("b.tif", "probabilities/b.tif"):
        assert open_volume(tmp_path / "out" / name).shape == (3, 8, 8)
    facts = json.loads((tmp_path / "out" / "b.json").read_text())
    assert facts == results["b"]
    assert facts["brightest"] == 1 and facts["digest"] == "d" and facts["foreground_share"] == 1
    assert set(facts["files"]) == {"b.tif", "probabilities/b.tif"}


def test_a_volume_that_memory_cannot_hold_leaves_the_others(found, tmp_path):
    def segment(image):
        if not image.any():
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nlong list")
        if image.max() == 1:
            raise MemoryError
        return jnp.zeros(image.shape)

    results = predict(found, tmp_path / "out", segment)
    message = str(results["a"])
    assert "Out of memory" in message and "--windows 1" in message and "long list" not in message
    assert "out of memory" in str(results["b"])
    assert (tmp_path / "out" / "c.json").exists()


def test_the_next_volume_is_read_ahead_where_memory_holds_both(found, tmp_path, monkeypatch):
    read, events = VOLUMES.read, []

    def reading(path):
        events.append(f"read {path.stem}")
        return read(path)

    def segment(image):
        events.append("segment")
        return jnp.zeros(image.shape)

    kind = VOLUMES._replace(read=reading)
    needed = kind.needs(found[0].image)
    monkeypatch.setattr(memory, "available", lambda: needed)  # one at a time
    predict(found, tmp_path / "one", segment, kind)
    assert events == ["read a", "segment", "read b", "segment", "read c", "segment"]
    events.clear()
    monkeypatch.setattr(memory, "available", lambda: 2 * needed)
    predict(found, tmp_path / "two", segment, kind)
    assert events.index("read c") < len(events) - 1 - events[::-1].index("segment")
    assert sorted(events) == ["read a", "read b", "read c", "segment", "segment", "segment"]


def test_a_volume_beyond_memory_is_refused_before_it_is_read(found, tmp_path):
    """12 TiB and more: reading it would end the process, not raise an error."""
    path = tmp_path / "b.zarr"
    array = zarr.create_array(path, shape=(24_297, 8_343, 8_343), chunks=(64,) * 3, dtype="u1")
    array[:8, :8, :8] = 1
    results = predict([found[0], Volume("b", path, None, "b"), found[2]], tmp_path / "out")
    assert "b.zarr needs " in str(results["b"]) and "GiB are available" in str(results["b"])
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tif")) == ["a.tif", "c.tif"]


def test_the_estimate_by_hand(found, tmp_path, monkeypatch):
    """192 voxels of one byte each, with 4 bytes of logits and 2 of masks: 1344 bytes."""
    assert VOLUMES.needs(found[1].image) == 1344
    assert VOLUMES.needs(found[1].image, 4) == 1344 + 192 * 3 * 4  # two classes and their sum
    averaged = VOLUMES._replace(needs=lambda path: VOLUMES.needs(path, 2))
    monkeypatch.setattr(memory, "available", lambda: 1344)
    assert not isinstance(predict(found[1:2], tmp_path / "one")["b"], Exception)
    error = predict(found[1:2], tmp_path / "two", kind=averaged)["b"]
    assert re.search(r"b\.tif needs .* of memory to predict it", str(error))


def test_an_output_that_cannot_be_written_ends_it_once(found, tmp_path):
    segmented = []

    def segment(image):
        segmented.append(int(image.max()))
        return jnp.zeros(image.shape)

    def full(path, prediction, source):
        raise OSError(errno.ENOSPC, "No space left on device")

    results = predict(found[:1] * 5, tmp_path / "out", segment, VOLUMES._replace(write=full))
    assert isinstance(results["a"], Unwritable)
    assert "out/a.tif cannot be written (No space left on device)" in str(results["a"])
    assert len(segmented) == 2  # the next was under way


def test_an_interrupt_finishes_what_is_being_written_and_no_more(found, tmp_path):
    def segment(image):
        if image.max() == 1:
            raise KeyboardInterrupt
        return jnp.zeros(image.shape)

    with pytest.raises(KeyboardInterrupt):
        predict(found, tmp_path / "out", segment)
    left = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert left == {"a.tif", "a.json", "probabilities/a.tif"}


def test_a_kill_while_files_are_replaced_leaves_no_sidecar_of_others(found, tmp_path, monkeypatch):
    predict(found[:1], tmp_path / "out")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_tiff", killed)  # of the probabilities, after the mask
    with pytest.raises(KeyboardInterrupt):
        predict(found[:1], tmp_path / "out")
    assert not (tmp_path / "out" / "a.json").exists()


def test_maps_of_images_carry_the_mark_too(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "a.png")
    results = predict_files(
        IMAGES,
        lambda _, image: jnp.zeros(image.shape[:3]),
        lambda logits, image: image[..., 0],
        lambda example, image: {},
        IMAGES.find([tmp_path / "in"]),
        tmp_path / "out",
        settings={},
    )
    ((name, facts),) = results
    assert name == "a" and facts["foreground_share"] == pytest.approx(image[..., 0].mean() / 255)
    assert (np.asarray(Image.open(tmp_path / "out" / "a.png")) == image[..., 0]).all()
    require_own([tmp_path / "out" / "a.png", tmp_path / "out" / "a.json"], "predict")
