"""Tuning: what is chosen and reported, the guard on generated scrolls, stops, and bad input."""

import itertools
import json

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from configs import base
from jax_seg import tune
from jax_seg.data.synthetic import volumes
from jax_seg.infer import postprocess
from jax_seg.infer.postprocess import scoring, search
from jax_seg.metrics.segmentation import confusion, scores
from jax_seg.ops.classes import MASKED
from jax_seg.system import configuration, engine
from jax_seg.system.files import write_json
from tests.tuning import blobs, encoded, save, write_folder

FEW = ["remove_small:voxels=8", "open", "fill_holes", "mask_empty"]


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def run(folder, *flags, steps=FEW):
    labels = ["--labels", str(folder / "labels"), "--images", str(folder / "images")]
    return tune.main([str(folder), *labels, "--metric", "dice", "--steps", *steps, *flags])


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_a_tuned_run(folder, capsys):
    write_json(folder / "validation/scores.json", {"step": 480, "volumes": {}})
    assert run(folder) == 0
    chosen = read(folder, "postprocess.json")
    assert chosen["steps"][1:] == ["remove_small:voxels=8"]
    assert postprocess.read_steps(folder) == tuple(chosen["steps"])
    assert chosen["metric"] == "dice" and chosen["checkpoint_step"] == 480
    assert chosen["volumes"] == ["a", "b", "c"]
    # No configuration says what was held out; the steps were not chosen on what they are scored on.
    assert chosen["judged_on"] == {"volumes": "unknown", "chose": ["checkpoint"]}

    # The scores are those of the steps on the volumes.
    def dice(steps, seed):
        probability, label, image = blobs(seed)
        found = postprocess.apply(probability, image, steps)
        return scores(confusion(found, encoded(label)))["dice"]

    baseline = [dice([], seed) for seed in range(3)]
    assert chosen["baseline"] == pytest.approx(np.mean(baseline))
    assert chosen["score"] == pytest.approx(1)
    report = read(folder, "tune/report.json")
    assert [row["baseline"] for row in report["held_out"]] == pytest.approx(baseline)
    assert all(row["score"] == dice(row["steps"], i) for i, row in enumerate(report["held_out"]))

    # The ablation starts at 0.5, and each gain is over the row before.
    rows = report["ablation"]
    lines = (folder / "tune/results.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)), "the folds of leave-one-out share what was scored"
    assert rows[0]["step"] == "threshold:value=0.5"
    assert rows[0]["score"] == pytest.approx(np.mean(baseline))
    for before, row in itertools.pairwise(rows):
        assert row["gain"] == pytest.approx(row["score"] - before["score"])
        assert row["gain"] >= search.SMALLEST_GAIN
    assert report["without"][0]["score"] < rows[-1]["score"]
    assert len(report["thresholds"]) == 99
    half = next(row for row in report["thresholds"] if row["threshold"] == 0.5)
    parts = [confusion(p > 0.5, encoded(label)) for p, label, _ in map(blobs, range(3))]
    assert half["dice"] == pytest.approx(scores(sum(parts))["dice"])
    assert 0 < report["calibration"]["expected_calibration_error"] < 1
    printed = capsys.readouterr().out
    not_searched = "Volumes that were not searched on, by dice"
    for text in ("Calibration: expected error", "remove_small:voxels=8", not_searched, "mean"):
        assert text in printed


def test_held_out_volumes_are_not_searched_on(folder):
    assert run(folder, "--hold_out", "c") == 0
    chosen, report = read(folder, "postprocess.json"), read(folder, "tune/report.json")
    assert chosen["volumes"] == ["a", "b"] and [r["volume"] for r in report["held_out"]] == ["c"]
    # On c nothing was scored but the baseline and the choice.
    lines = [json.loads(line) for line in (folder / "tune/results.jsonl").open()]
    on_c = {tuple(line["steps"]) for line in lines if line["key"].startswith("c ")}
    assert on_c == {("threshold:value=0.5",), tuple(chosen["steps"])}
    assert chosen["score"] == report["held_out"][0]["score"]


def test_steps_that_help_only_where_they_were_sought_are_not_kept(folder, capsys):
    probability, label, _ = blobs(2)
    inverted = (1 - probability.astype(np.float32)).astype(np.float16)  # dust is right here
    swapped = np.where(probability == np.float16(0.95), 1, np.where(label == 2, 2, 0))
    save(folder / "validation/probabilities/c.tif", np.where(swapped == 1, probability, 0.1))
    save(folder / "labels/c.tif", swapped.astype(np.uint8))
    assert inverted.shape == label.shape
    assert run(folder, "--hold_out", "c", steps=["remove_small:voxels=8"]) == 0
    report = read(folder, "tune/report.json")
    assert report["ablation"][-1]["steps"][1:] == ["remove_small:voxels=8"]
    assert report["held_out"][0]["score"] < report["held_out"][0]["baseline"]
    assert read(folder, "postprocess.json")["steps"] == ["threshold:value=0.5"]
    assert "The tuned steps do not help; keeping threshold:value=0.5." in capsys.readouterr().out


def test_one_volume_says_that_its_gain_is_not_held_out(folder, capsys):
    for name in "bc":
        for part in ("validation/probabilities", "labels", "images"):
            (folder / part / f"{name}.tif").unlink()
    assert run(folder) == 0
    chose = ["checkpoint", "steps"]
    assert read(folder, "postprocess.json")["judged_on"] == {"volumes": "unknown", "chose": chose}
    assert "this gain is on the volume searched and may not generalise" in capsys.readouterr().out


class Killed(Exception):
    """Stands for a kill in the middle of a search."""


def counting(monkeypatch, stop_after=None):
    """Count the evaluations of Dice, and stop after some."""
    calls, original = [], scoring.METRICS["dice"]

    def metric(prediction, label):
        if len(calls) == stop_after:
            raise Killed
        calls.append(1)
        return original(prediction, label)

    monkeypatch.setitem(scoring.METRICS, "dice", metric)
    return calls


def test_a_killed_search_goes_on(folder, monkeypatch):
    with monkeypatch.context() as patch:
        whole = counting(patch)
        assert run(folder) == 0
    expected, kept = read(folder, "tune/report.json"), (folder / "tune/results.jsonl").read_text()
    (folder / "tune/results.jsonl").unlink()
    with monkeypatch.context() as patch:
        counting(patch, stop_after=len(whole) // 2)
        with pytest.raises(Killed):
            run(folder)
    with (folder / "tune/results.jsonl").open("a") as file:
        file.write('{"key": "a torn li')
    with monkeypatch.context() as patch:
        rest = counting(patch)
        assert run(folder) == 0
    assert read(folder, "tune/report.json") == expected
    # A mask that several steps make is scored once in a process, so a few are scored again.
    assert len(whole) // 2 <= len(rest) <= 0.75 * len(whole)
    lines = (folder / "tune/results.jsonl").read_text().splitlines()
    assert sorted(line for line in lines if "torn" not in line) == sorted(kept.splitlines())
    with monkeypatch.context() as patch:
        assert run(folder) == 0 and not counting(patch)


def test_results_belong_to_the_voxels_that_were_scored(folder, monkeypatch):
    assert run(folder) == 0
    probability, _, _ = blobs(7)
    save(folder / "validation/probabilities/b.tif", probability)
    calls = counting(monkeypatch)
    assert run(folder) == 0
    assert calls
    lines = [json.loads(line) for line in (folder / "tune/results.jsonl").open()]
    names = [line["key"].split()[:2] for line in lines if line["steps"] == ["threshold:value=0.5"]]
    # Each volume as predicted and as labelled, b in two versions of the first.
    assert [sum(name == n for name, _ in names) for n in "abc"] == [2, 3, 2]


@pytest.fixture(scope="module")
def scrolls():
    """Generated scrolls with their labels for probabilities."""
    return {
        name: scoring.Arrays((label == 1).astype(np.float32), encoded(label), image)
        for name, _, image, label in volumes(2, 48, seed=5)
    }


def test_the_guard_finds_that_opening_erases_sheets(scrolls, tmp_path):
    results = scoring.Results(tmp_path / "results.jsonl")
    here = engine.Here(scoring.work(scrolls.get, "competition"))
    score = scoring.make_scorer(scrolls.get, "competition", results, here)
    costs = search.guard(score, list(scrolls), ["open", "fill_holes", "hysteresis"])
    assert costs["open"] > 0.2 > search.GUARD
    assert costs["fill_holes"] <= search.GUARD and costs["hysteresis"] == 0


def test_refused_steps_are_not_searched_unless_forced(tmp_path, scrolls, capsys):
    generator = np.random.default_rng(0)
    for name, volume in scrolls.items():
        # Specks and thick sheets, which opening improves.
        specks = generator.random(volume.label.shape) < 0.03
        thick = ndimage.binary_dilation(volume.label == 1)
        probability = np.float16(thick | specks)
        save(tmp_path / "validation/probabilities" / f"{name}.tif", probability)
        label = np.where(volume.label == MASKED, 2, volume.label)
        save(tmp_path / "labels" / f"{name}.tif", label)
    command = [str(tmp_path), "--labels", str(tmp_path / "labels"), "--metric", "accuracy"]
    command += ["--steps", "open"]
    assert tune.main(command) == 0
    report = read(tmp_path, "tune/report.json")
    entry = next(row for row in report["guard"] if row["step"] == "open")
    assert entry["refused"] and entry["cost"] > search.GUARD
    assert report["ablation"][-1]["steps"] == ["threshold:value=0.5"]
    assert "refused" in capsys.readouterr().out
    assert tune.main([*command, "--force"]) == 0
    assert read(tmp_path, "tune/report.json")["ablation"][-1]["steps"][-1] == "open"
    assert "forced" in capsys.readouterr().out


def test_the_labels_of_a_run_are_found_through_its_configuration(folder):
    config = base.get_config()
    config.data.update(root=str(folder), images="images", labels="labels")
    config.data.update(foreground=(3,), background=(0,), ignore=(2,))
    write_json(folder / "config.json", configuration.as_dict(config))
    for name in "abc":
        label = tifffile.imread(folder / "labels" / f"{name}.tif")
        save(folder / "labels" / f"{name}.tif", np.where(label == 1, 3, label).astype(np.uint8))
    for part in ("images", "labels"):  # a volume that was trained on
        save(folder / part / "trained.tif", np.zeros((4, 4, 4), np.uint8))
    assert tune.main([str(folder), "--metric", "dice", "--steps", *FEW]) == 0
    chosen = read(folder, "postprocess.json")
    assert chosen["score"] == pytest.approx(1) and chosen["volumes"] == ["a", "b", "c"]


def test_images_and_labels_are_two_folders(folder, capsys):
    labels = str(folder / "labels")
    assert tune.main([str(folder), "--labels", labels, "--images", labels]) == 1
    assert "is given for the images and for the labels" in capsys.readouterr().err


def test_bad_volumes_are_named_and_the_rest_is_tuned(folder, capsys):
    probability, label, image = blobs(0)
    bad = {
        "above": (np.float32(2) * probability, label, image, "hold the value 1."),
        "nan": (np.where(label == 1, np.float16("nan"), probability), label, image, "nan"),
        "shape": (probability[1:], label, image, "shape (13, 15, 16)"),
        "image": (probability, label, image[1:], "images/image.tif has (13, 15, 16)"),
        "unlabelled": (probability, np.full_like(label, 2), image, "no labelled voxel"),
        "value": (probability, label + 1, image, "label value 3"),
    }
    for name, (p, q, r, _) in bad.items():
        save(folder / "validation/probabilities" / f"{name}.tif", p)
        save(folder / "labels" / f"{name}.tif", q)
        save(folder / "images" / f"{name}.tif", r)
    save(folder / "labels/unpredicted.tif", label)
    save(folder / "validation/probabilities/invented.tif", probability)
    assert run(folder) == 1
    captured = capsys.readouterr()
    errors = read(folder, "tune/report.json")["errors"]
    assert set(errors) == {*bad, "unpredicted", "invented"}
    for name, (*_, phrase) in bad.items():
        assert f"{name}.tif" in errors[name] and phrase in errors[name]
        assert captured.err.count(f"Error: {errors[name]}\n") == 1
    assert "has no prediction" in errors["unpredicted"] and "has no label" in errors["invented"]
    assert "8 of 11 volumes failed." in captured.err
    assert read(folder, "postprocess.json")["volumes"] == ["a", "b", "c"]


def test_an_empty_prediction_is_scored(folder):
    save(folder / "validation/probabilities/a.tif", np.zeros((14, 15, 16), np.float16))
    assert run(folder) == 0
    row = read(folder, "tune/report.json")["held_out"][0]
    assert row["volume"] == "a" and row["baseline"] == row["score"] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hold_out", "z"], "--hold_out names z, which cannot be scored: choose from a, b, c."),
        (["--hold_out", "a", "b", "c"], "--hold_out names every volume"),
        (["--steps", "opening"], "Unknown post-processing step 'opening'"),
        (["--steps", "threshold"], "searched anyway"),
        (["--probabilities", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_flags(folder, capsys, flags, message):
    assert run(folder, *flags) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and message in error and error.count("\n") == 1
    assert not (folder / "postprocess.json").exists()


def test_without_a_configuration_labels_must_be_named(folder, capsys):
    assert tune.main([str(folder)]) == 1
    assert "config.json does not exist" in capsys.readouterr().err


def test_the_steps_of_the_configuration_stay_where_tuning_does_not_beat_them(folder, capsys):
    steps = ["remove_small:voxels=8"]
    content = {"validate": {"threshold": 0.4}, "postprocess": {"steps": steps}}
    write_json(folder / "config.json", content)
    assert run(folder, steps=["fill_holes:voxels=1"]) == 0
    chosen = read(folder, "postprocess.json")
    assert chosen["steps"] == ["threshold:value=0.4", *steps]
    assert chosen["score"] == chosen["baseline"] == pytest.approx(1)
    assert "keeping threshold:value=0.4 remove_small:voxels=8." in capsys.readouterr().out


def test_volumes_that_were_trained_on_are_not_tuned_on(folder, capsys):
    write_json(folder / "config.json", {"data": {"fold": "none", "root": str(folder)}})
    assert tune.main([str(folder)]) == 1
    assert "holds out no volume (data.fold=none)" in capsys.readouterr().err
    # Nor where labels are named: the probabilities are still those of training volumes.
    assert run(folder) == 1
    assert "pass --probabilities and --labels of volumes" in capsys.readouterr().err
    assert not (folder / "postprocess.json").exists()


def test_predictions_of_training_volumes_are_marked(folder, capsys):
    # As in a folder of `jax_seg.predict`.
    predictions = (folder / "validation/probabilities").rename(folder / "probabilities")
    for name, part in (("a", "training"), ("b", "held out"), ("c", "held out")):
        write_json(folder / f"{name}.json", {"judged_on": {"volumes": part, "chose": []}})
    assert run(folder, "--probabilities", str(predictions)) == 0
    report, chosen = read(folder, "tune/report.json"), read(folder, "postprocess.json")
    assert report["judged_on"] == {"volumes": "training", "chose": ["steps"]}
    assert [row["volumes"] for row in report["held_out"]] == ["training", "held out", "held out"]
    assert chosen["judged_on"] == {"volumes": "training", "chose": []}
    printed = capsys.readouterr().out
    assert "The network was trained on a: its probabilities there are more confident" in printed
    for text in ("labelled voxels of 3 training volumes", "Training volumes that were not search"):
        assert text in printed
