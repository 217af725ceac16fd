"""Which volumes a network has seen, wherever they lie now."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from jax_seg.data.folder import find_images
from jax_seg.runs import seen
from jax_seg.system.files import write_json
from jax_seg.tasks.judged import HELD_OUT, TRAINING, UNKNOWN, JudgedOn

CHOSEN = JudgedOn(HELD_OUT, ("checkpoint",))


def network(root, **changes):
    """What `members.load` says of a run that held out v4 and v5."""
    fields = {"data.root": str(root), "data.name": "folder", "data.images": "", "data.labels": ""}
    facts = {"workdir": "runs/a"}
    trained_on, validation = ["v0", "v1", "v2", "v3"], ["v4", "v5"]
    known = {"trained_on": trained_on, "validation_ids": validation, "judged_on": CHOSEN} | changes
    return SimpleNamespace(fields=fields, facts=facts, **known)


@pytest.fixture
def copied(volumes_folder, tmp_path):
    """Copies of one volume of each part, and another volume of a known id."""
    for name in ("v0", "v4"):
        shutil.copy(volumes_folder / "train_images" / f"{name}.tif", tmp_path / f"{name}.tif")
    for name in ("v1", "new"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((20, 20, 20), np.uint8))
    return find_images(tmp_path)


def test_volumes_are_known_by_id_and_bytes(volumes_folder, copied):
    assert seen.judged_on(network(volumes_folder), copied) == {
        "v0": JudgedOn(TRAINING),
        "v4": CHOSEN,
        "v1": JudgedOn(HELD_OUT),  # another volume of that name
        "new": JudgedOn(HELD_OUT),
    }


def test_without_its_data_a_known_id_is_not_judged(tmp_path, copied):
    found = seen.judged_on(network(tmp_path / "gone"), copied)
    assert {name: one.volumes for name, one in found.items()} == {
        "v0": UNKNOWN,
        "v1": UNKNOWN,
        "v4": UNKNOWN,
        "new": HELD_OUT,
    }
    converted = network(
        tmp_path / "gone", trained_on=None, validation_ids=None, judged_on=JudgedOn()
    )
    assert {one.volumes for one in seen.judged_on(converted, copied).values()} == {UNKNOWN}


def test_a_run_without_a_fold_has_seen_what_it_validates_on(volumes_folder, copied):
    ids = [f"v{n}" for n in range(6)]
    on = JudgedOn(TRAINING, ("checkpoint",))
    everything = network(volumes_folder, trained_on=ids, validation_ids=ids, judged_on=on)
    found = seen.judged_on(everything, copied)
    assert found["v4"] == found["v0"] == on
    both = seen.by_any([network(volumes_folder), everything], copied)
    assert both["v4"] == on and both["new"] == JudgedOn(HELD_OUT)


@pytest.mark.parametrize(
    ("on", "choice", "words"),
    [
        ({"volumes": "training", "chose": ["checkpoint"]}, "steps", "chosen on training volumes"),
        ({"volumes": "training", "chose": []}, "weights", "chosen on training volumes"),
        ({"volumes": "held out", "chose": ["steps"]}, "steps", "chosen on one volume"),
        ({"volumes": "held out", "chose": ["checkpoint"]}, "steps", ""),
        ({"volumes": "held out", "chose": ["kind of weights"]}, "weights", ""),
    ],
)
def test_what_a_choice_rests_on(tmp_path, on, choice, words):
    write_json(tmp_path / "file.json", {"judged_on": on})
    told = seen.reservation(tmp_path / "file.json", choice)
    assert words in told and bool(told) == bool(words)
    write_json(tmp_path / "older.json", {})
    assert seen.reservation(tmp_path / "older.json", choice) == ""
