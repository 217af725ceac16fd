"""Folders of predictions scored against labels: numbers by hand, bad input by name."""

import json

import numpy as np
import pytest
import tifffile

from jax_seg.evaluate import main
from jax_seg.metrics.competition import competition_score
from jax_seg.ops.classes import MASKED
from jax_seg.system.files import write_json
from jax_seg.tasks import score_volumes
from tests.conftest import SHARED

LABELS = SHARED / "data/membrane3d/train_labels"
# label      1 1 1 0 0 0 0 0 2 2
# prediction 1 1 0 1 0 0 0 0 1 0   TP 2, FN 1, FP 1, TN 4: Dice 4/6
LABEL = np.array([[1, 1, 1, 0, 0], [0, 0, 0, 2, 2]], np.uint8)[None].repeat(2, 0)
PREDICTION = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 1, 0]], np.uint8)[None].repeat(2, 0)
SURE = np.where(LABEL == 2, 0, LABEL)
ENCODED = np.where(LABEL == 2, MASKED, LABEL)


@pytest.fixture
def folders(tmp_path):
    """Two volumes: `a` of Dice 4/6, and `b`, which is all background and predicted so."""
    for name, prediction, label in [
        ("a", PREDICTION, LABEL),
        ("b", np.zeros_like(LABEL), np.zeros_like(LABEL)),
    ]:
        save(tmp_path / "predictions" / f"{name}.tif", prediction)
        save(tmp_path / "labels" / f"{name}.tif", label)
    return tmp_path


def save(path, voxels):
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, voxels, photometric="minisblack")


def run(folder, *flags):
    """(exit status, the JSON that was written)."""
    output = folder / "scores.json"
    named = {"--predictions": "predictions", "--labels": "labels", "--output": output.name}
    paths = [part for flag, name in named.items() for part in (flag, str(folder / name))]
    status = main([*paths, *flags])
    return status, json.loads(output.read_text()) if output.exists() else None


def test_table_and_json(folders, capsys):
    status, found = run(folders)
    assert status == 0 and found["errors"] == {}
    assert found["volumes"]["a"]["dice"] == pytest.approx(4 / 6)
    assert found["volumes"]["b"]["dice"] == 1
    assert found["mean"]["dice"] == pytest.approx(5 / 6)
    assert found["pooled"]["dice"] == pytest.approx(4 / 6)  # b adds background only
    assert found["pooled"]["accuracy"] == pytest.approx(32 / 36)
    assert found["pooled"]["foreground_predicted"] == pytest.approx(6 / 36)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:7]] == [
        ["volume", "Dice"],
        ["a", "0.6667"],
        ["b", "1.0000"],
        ["pooled", "0.6667"],
        ["mean", "0.8333"],
        ["foreground", "predicted:"],
        ["foreground", "label:"],
    ]
    assert len(set(map(len, lines[:5]))) == 1  # aligned
    assert found["foreground_label"]["max"] == pytest.approx(6 / 16)
    assert found["foreground_label"]["median"] == pytest.approx(3 / 16)


def test_class_balance_is_printed_and_stored(folders, capsys):
    """Pooled: 6 of 36 voxels predicted and labelled; foreground everywhere has Dice 12 / 42."""
    status, found = run(folders)
    balance = found["balance"]
    assert status == 0
    assert balance["volumes"]["a"]["over_estimation"] == 0
    assert balance["constants"]["pooled"]["all_foreground"]["dice"] == pytest.approx(12 / 42)
    assert balance["constants"]["pooled"]["model"] == found["pooled"]
    assert balance["constants"]["mean"]["all_background"]["dice"] == 0.5  # b is all background
    assert balance["histogram"]["labelled"] == [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    printed = capsys.readouterr().out
    assert "Foreground is over-estimated by 0.00 percentage points (16.67 % predicted" in printed
    # Nobody has asked for a target: the labels' own share is the reference.
    assert "target" not in printed and balance["target"] is None
    assert "within_target" not in balance["pooled"]
    rows = {line[:24].strip(): line[24:].split() for line in printed.splitlines()}
    assert rows["foreground everywhere"][:3] == ["0.2857", "0.1667", "0.1667"]
    assert rows["model"][0] == "0.6667" and " ".join(rows["labelled"]) == "1 0 0 1 0 0 0 0 0 0"
    assert "better than both constant predictors" in printed


def test_a_constant_prediction_is_called_one(folders, capsys):
    for name in "ab":
        save(folders / f"predictions/{name}.tif", np.ones_like(LABEL))
    assert run(folders, "--background_target", "0", "0.1")[0] == 0
    printed = capsys.readouterr().out
    assert (
        "no better than a constant: its pooled Dice score is 0.2857, that of foreground" in printed
    )
    assert "Predicted background is 0.00 %, within the target of 0 to 10 %" in printed
    assert "labels' own 83.33 % is outside" in printed
    _, found = run(folders, "--background_target", "0.3", "0.7")
    assert "Predicted background is 0.00 %, outside the target of 30 to 70 %" in (
        capsys.readouterr().out
    )
    assert found["balance"]["target"] == [0.3, 0.7]
    assert not found["balance"]["pooled"]["within_target"]


def test_an_empty_prediction_is_scored_and_named(folders, capsys):
    save(folders / "predictions/a.tif", np.zeros(LABEL.shape, np.float32))
    status, found = run(folders)
    assert status == 0 and found["errors"] == {}
    assert found["volumes"]["a"]["dice"] == 0  # left out, it would raise the mean
    assert set(found["warnings"]) == {"a"}  # b has no foreground to find
    assert "prediction of a has no foreground among the labelled voxels" in capsys.readouterr().err


def test_competition_adds_its_score(folders):
    save(folders / "predictions/a.tif", SURE)
    status, found = run(folders, "--competition")
    assert status == 0
    assert found["mean"]["score"] == 1
    assert found["volumes"]["a"]["voi_merge"] == 0


def test_constants_have_a_competition_score_too(folders, capsys):
    """A sheet that is missed: the score of background everywhere is the model's own."""
    save(folders / "predictions/a.tif", np.zeros_like(LABEL))
    status, found = run(folders, "--competition", "--constants")
    assert status == 0
    a = found["volumes"]["a"]
    empty = competition_score(np.zeros_like(LABEL), ENCODED).score
    full = competition_score(np.ones_like(LABEL), ENCODED).score
    assert a["score"] == a["score_all_background"] == empty
    assert a["score_all_foreground"] == full
    assert found["balance"]["constants"]["mean"]["all_background"]["score"] == (empty + 1) / 2
    printed = capsys.readouterr().out
    sentence = f"constant: its mean competition score is {(empty + 1) / 2:.4f}, that of background"
    assert sentence in printed and "mean competition" in printed
    assert run(folders, "--constants")[0] == 1


def test_thin_structure_scores_are_added(folders):
    save(folders / "predictions/a.tif", SURE)
    status, found = run(folders, "--thin")
    assert status == 0
    assert found["mean"]["cldice"] == 1 and found["mean"]["surface_95"] == 0
    assert found["volumes"]["a"]["components_label"] == 1


def test_label_values_are_chosen(folders):
    save(folders / "labels/a.tif", np.choose(LABEL, [7, 3, 9]).astype(np.uint8))
    flags = ["--foreground", "3", "--background", "0", "7", "--ignore", "9"]
    status, found = run(folders, *flags)
    assert status == 0
    assert found["volumes"]["a"]["dice"] == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    "flags",
    [
        ["--foreground", "300", "--ignore", "-1", "-100"],
        ["--foreground", "300", "--ignore", "rest"],
        ["--foreground", "rest", "--ignore", "-100", "-1"],
    ],
)
def test_label_values_may_be_negative_large_or_the_rest(folders, flags):
    label = np.choose(LABEL, [0, 300, -1]).astype(np.int32)
    label[0, 1, 4] = -100
    save(folders / "labels/a.tif", label)
    status, found = run(folders, *flags)
    assert status == 0
    assert found["volumes"]["a"] == run_plain(folders)


def run_plain(folders):
    save(folders / "labels/a.tif", LABEL)
    return run(folders)[1]["volumes"]["a"]


def test_probabilities_are_cut_at_the_threshold(folders):
    save(folders / "predictions/a.tif", (0.2 + 0.5 * PREDICTION).astype(np.float32))
    assert run(folders)[1]["volumes"]["a"]["dice"] == pytest.approx(4 / 6)
    assert run(folders, "--threshold", "0.8")[1]["volumes"]["a"]["dice"] == 0


def test_a_folder_reports_every_bad_volume_and_scores_the_rest(folders, capsys):
    bad = {
        "shape": (PREDICTION[:, :1], LABEL, "shape (2, 1, 5)"),
        "scaled": (255 * PREDICTION, LABEL, "holds the value 255"),
        "logits": (PREDICTION - np.float32(0.25), LABEL, "holds the value -0.25"),
        "nan": (np.where(PREDICTION, np.float32(np.nan), 0), LABEL, "nan"),
        "value": (PREDICTION, LABEL + 1, "none of --foreground, --ignore and --background"),
        "unlabelled": (PREDICTION, np.full_like(LABEL, 2), "no labelled voxel"),
        "infinite": (PREDICTION + np.float32(np.inf), LABEL, "inf"),
    }
    for name, (prediction, label, _) in bad.items():
        save(folders / "predictions" / f"{name}.tif", prediction)
        save(folders / "labels" / f"{name}.tif", label)
    save(folders / "labels/unpredicted.tif", LABEL)
    save(folders / "predictions/invented.tif", PREDICTION)
    (folders / "labels/broken.tif").write_bytes(b"II*\0nonsense")
    save(folders / "predictions/broken.tif", PREDICTION)
    (folders / "predictions/void.tif").write_bytes(b"")
    save(folders / "labels/void.tif", LABEL)

    status, found = run(folders)

    assert status == 1
    assert sorted(found["volumes"]) == ["a", "b"]
    assert found["pooled"]["dice"] == pytest.approx(4 / 6)
    assert set(found["errors"]) == {*bad, "unpredicted", "invented", "broken", "void"}
    printed = capsys.readouterr().err
    for name, (_, _, phrase) in bad.items():
        assert f"{name}.tif" in found["errors"][name] and phrase in found["errors"][name]
        assert found["errors"][name] in printed and "\n" not in found["errors"][name]
    assert "has no prediction" in found["errors"]["unpredicted"]
    assert "has no label" in found["errors"]["invented"]
    assert "void.tif is an empty file" in found["errors"]["void"]
    assert "11 of 13 volumes failed." in printed


def test_without_a_scored_volume_there_is_nothing_to_pool(folders):
    for name in "ab":
        (folders / f"predictions/{name}.tif").unlink()
    save(folders / "predictions/c.tif", PREDICTION)
    status, found = run(folders)
    assert status == 1
    assert found["volumes"] == {} and len(found["errors"]) == 3
    assert "pooled" not in found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threshold", "1"], "--threshold is 1.0"),
        (["--foreground", "0"], "--background and --foreground both name the label value 0"),
        (["--background_target", "0.7", "0.3"], "--background_target is 0.7 0.3"),
        (["--background_target", "30", "70"], "two increasing shares"),
    ],
)
def test_bad_flags(folders, capsys, flags, message):
    assert run(folders, *flags) == (1, None)
    assert message in capsys.readouterr().err


def test_predictions_are_not_scored_against_themselves(folders, capsys):
    labels = str(folders / "labels")
    assert main(["--predictions", labels, "--labels", labels]) == 1
    assert "is given for the predictions and for the labels" in capsys.readouterr().err


def test_empty_folder(folders, capsys):
    for name in "ab":
        (folders / f"labels/{name}.tif").unlink()
    assert run(folders) == (1, None)
    assert f"{folders / 'labels'} holds no volume" in capsys.readouterr().err


def test_volumes_that_the_network_was_trained_on_are_marked(folders, capsys):
    """By what jax_seg.predict noted beside each prediction."""
    assert run(folders)[1]["judged_on"] == {"volumes": "unknown", "chose": []}
    capsys.readouterr()
    noted = {"volumes": "held out", "chose": ["checkpoint"]}
    write_json(folders / "predictions/b.json", {"judged_on": noted})
    write_json(folders / "predictions/a.json", {"judged_on": {"volumes": "training", "chose": []}})
    _, found = run(folders)
    assert found["judged_on"] == {"volumes": "training", "chose": ["checkpoint"]}
    assert found["volumes"]["a"]["volumes"] == "training"
    assert found["volumes"]["b"]["volumes"] == "held out"
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines()[:5]}
    assert rows["a"].endswith("  training volume") and rows["b"].endswith("0.0000")
    assert rows["mean"].endswith("  1 of 2 are training volumes")
    assert (
        "The network was trained on a: these scores show how well it fits them, not how" in printed
    )
    assert "training volumes (" not in printed  # the balance is of both
    write_json(folders / "predictions/b.json", {"judged_on": {"volumes": "training", "chose": []}})
    run(folders)
    assert "% labelled) on 2 training volumes; largest error" in capsys.readouterr().out


@pytest.mark.skipif(not LABELS.exists(), reason="the real volumes are not at ../shared")
def test_real_labels_score_one_against_themselves(tmp_path):
    for path in sorted(LABELS.iterdir())[:2]:
        label = tifffile.imread(path)
        save(tmp_path / "labels" / path.name, label)
        save(tmp_path / "predictions" / path.name, (label == 1).astype(np.uint8))
    status, found = run(tmp_path, "--competition")
    assert status == 0
    assert found["pooled"]["iou"] == found["mean"]["score"] == 1
    assert 0.05 < found["pooled"]["foreground_label"] < 0.4


def test_a_sliver_at_the_edge_counts_for_no_more_than_it_holds(tmp_path, monkeypatch, capsys):
    """Parts of 8 slices, which scores 1, and of 1, half labelled, whose sheet is missed.

    Without features topology is 1, VOI is 1 of a mask without objects, and surface 0: 0.65. Of 17
    labelled half slices the sliver has 1, so (16 + 0.65) / 17, where a plain mean is 0.825.
    """
    label = np.zeros((9, 8, 8), np.uint8)
    label[3:5] = label[8, 2:4] = 1
    prediction = label.copy()
    prediction[8] = 0
    label[8, 4:] = 2
    save(tmp_path / "labels" / "a.tif", label)
    save(tmp_path / "predictions" / "a.tif", prediction)
    monkeypatch.setattr(score_volumes, "LARGEST", label.size - 1)
    monkeypatch.setattr(score_volumes, "PART", 8)
    _, found = run(tmp_path, "--competition")
    assert found["volumes"]["a"]["score"] == pytest.approx((16 + 0.65) / 17)
    printed = capsys.readouterr().out
    assert "in 2 parts, whose competition scores are weighted by labelled voxels" in printed
    run(tmp_path)
    assert "competition" not in capsys.readouterr().out


def test_a_large_volume_is_scored_part_by_part(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    label = generator.choice([0, 1, 2], (9, 7, 6), p=[0.5, 0.3, 0.2]).astype(np.uint8)
    prediction = np.where(generator.random(label.shape) < 0.2, 1 - label % 2, label % 2)
    label[:4, :4, :4] = 2  # the first part is unlabelled
    save(tmp_path / "labels" / "a.tif", label)
    save(tmp_path / "predictions" / "a.tif", prediction.astype(np.uint8))
    _, whole = run(tmp_path)
    monkeypatch.setattr(score_volumes, "LARGEST", label.size - 1)
    monkeypatch.setattr(score_volumes, "PART", 4)
    status, parts = run(tmp_path, "--competition")
    assert status == 0 and parts["pooled"] == whole["pooled"]
    found = parts["volumes"]["a"]
    assert {key: found[key] for key in whole["volumes"]["a"]} == whole["volumes"]["a"]
    encoded, boxes = np.where(label == 2, MASKED, label), []
    for z, y, x in np.ndindex(3, 2, 2):
        boxes.append(np.s_[4 * z : 4 * z + 4, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4])
    labelled = [(encoded[box] != MASKED).sum() for box in boxes]
    expected = [
        competition_score(prediction[box], encoded[box]).score * count
        for box, count in zip(boxes, labelled, strict=True)
    ]
    assert found["parts"] == np.count_nonzero(labelled) == 11
    assert found["score"] == pytest.approx(sum(expected) / sum(labelled))
    status, refused = run(tmp_path, "--thin")
    assert status == 1 and "--thin need the whole volume" in refused["errors"]["a"]
