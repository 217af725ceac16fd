"""What scores are worth: which volumes are training volumes, and what they chose."""

import pytest

from jax_seg.system.files import write_json
from jax_seg.tasks import judged
from jax_seg.tasks.judged import HELD_OUT, TRAINING, UNKNOWN, JudgedOn

OURS, OTHER = {"data.root": "/ours"}, {"data.root": "/other"}
SPLIT = {"training": ["a", "b"], "validation": ["c"]}


@pytest.mark.parametrize(
    ("split", "before", "expected"),
    [
        (SPLIT, [], HELD_OUT),
        ({"training": ["a", "c"], "validation": ["c"]}, [], TRAINING),  # data.fold=none
        ({}, [], UNKNOWN),  # of a network that was converted
        (SPLIT, [{"data": OURS, "training": ["a", "b"]}], HELD_OUT),  # the same fold
        (SPLIT, [{"data": OURS, "training": ["b", "c"]}], TRAINING),  # another fold's weights
        (SPLIT, [{"data": OTHER, "training": ["b", "c"]}], UNKNOWN),  # moved, or other volumes
        (SPLIT, [{"data": OURS, "training": None}], UNKNOWN),
        (
            SPLIT,
            [{"data": OURS, "training": ["c"]}, {"data": OURS, "training": ["a", "b"]}],
            TRAINING,
        ),
    ],
)
def test_the_validation_part_of_a_run(split, before, expected):
    assert judged.of_split(split, OURS, before) == JudgedOn(expected)


def stored(training, before=(), root="/ours"):
    config = {"data": {"root": root}, "synthetic": {"seed": 0}, "train": {"epochs": 1}}
    split = {"training": training, "validation": ["c"]}
    return {"config": config, "split": split, "before": list(before)}


def test_weights_remember_what_all_their_runs_saw():
    first = judged.lineage(stored(["a"], root="/other"))
    assert first == [{"data": {"data.root": "/other", "synthetic.seed": 0}, "training": ["a"]}]
    second = judged.lineage(stored(["b"], first))
    third = stored(["d"], second)
    assert [one["training"] for one in judged.lineage(third)] == [["a"], ["b"], ["d"]]
    assert judged.trained_on(third) == ["b", "d"]  # 'a' is of other data
    assert judged.trained_on({"config": {}}) is None


def test_what_a_checkpoint_says_of_its_validation_part():
    assert judged.of_stored(stored(["a"])).volumes == HELD_OUT  # an older version's
    assert judged.of_stored(stored(["a", "c"])).volumes == TRAINING
    noted = stored(["a"]) | {"judged_on": {"volumes": "unknown", "chose": []}}
    assert judged.of_stored(noted).volumes == UNKNOWN


def test_scores_of_older_versions_follow_the_configuration():
    chose = ("checkpoint",)
    assert judged.of_run({"data.fold": "none"}, [{}]) == JudgedOn(TRAINING, chose)
    assert judged.of_run({"data.fold": "0"}, [{}]) == JudgedOn(HELD_OUT, chose)
    assert judged.of_run({"data.root": "images"}, []) == JudgedOn(HELD_OUT, chose)
    assert judged.of_run({}, [{}]) == JudgedOn(UNKNOWN, chose)
    later = [{}, {"volumes": "training", "dice": 0.5}, {"volumes": "held out"}]
    assert judged.of_run({"data.fold": "0"}, later) == JudgedOn(TRAINING, chose)


def test_the_weakest_part_decides():
    held_out, chosen = JudgedOn(HELD_OUT), JudgedOn(HELD_OUT, ("checkpoint",))
    assert judged.weakest([held_out, chosen, chosen]) == chosen
    assert judged.weakest([held_out, JudgedOn(TRAINING), JudgedOn()]).volumes == TRAINING
    assert judged.weakest([held_out, JudgedOn()]).volumes == UNKNOWN
    assert judged.weakest([]) == JudgedOn()


def test_the_form_in_json_is_read_back():
    chosen = JudgedOn(HELD_OUT).choosing("checkpoint").choosing("steps")
    assert chosen.as_json() == {"volumes": "held out", "chose": ["checkpoint", "steps"]}
    assert judged.read(chosen.as_json()) == chosen
    assert judged.read({"dice": 0.5}) == JudgedOn()
    assert judged.read({"volumes": {"v0": {"dice": 0.5}}}) == JudgedOn()  # ids, of older files


def test_words():
    training, held_out = JudgedOn(TRAINING), JudgedOn(HELD_OUT, ("checkpoint", "steps"))
    assert training.name("image") == training.mark("image") == "training image"
    assert (held_out.name(), held_out.mark(), JudgedOn().name()) == (
        "held-out volume",
        "volume",
        "volume",
    )
    assert held_out.choices == ", which chose the checkpoint and the steps"
    assert (training.suffix(), held_out.suffix()) == (" | training volumes", "")


def test_what_predict_noted(tmp_path):
    note = {"judged_on": {"volumes": "training", "chose": []}}
    write_json(tmp_path / "out" / "scan.1.json", note)
    beside, of_probabilities = tmp_path / "out", tmp_path / "out" / "probabilities"
    for folder in (beside, of_probabilities):
        found = judged.of_prediction(folder / "scan.1.tif", "scan.1")
        assert found == JudgedOn(TRAINING)
    assert judged.of_prediction(beside / "b.tif", "b") == JudgedOn()
    (beside / "b.json").write_text("{")
    with pytest.raises(ValueError, match=r"b\.json"):
        judged.of_prediction(beside / "b.tif", "b")
