"""Checks of training.*, validation.*, inference.* and postprocess.*."""

import dataclasses
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from benchmarks.doctor.faults import judging as faults
from benchmarks.doctor.setups import changed, scrolls
from jax_seg.diagnosis import judging, predictions, validation
from jax_seg.diagnosis.evidence import Evidence
from jax_seg.diagnosis.finding import CAUSES, Skipped
from jax_seg.infer.sliding_window import predict_volume
from jax_seg.system.files import write_json

OWN = ("validation.", "inference.", "postprocess.", "training.")


def test_every_cause_of_judging_has_a_check_and_a_fault():
    causes = {cause for cause in CAUSES if cause.startswith(OWN)}
    checks = (*judging.CHECKS, *validation.CHECKS, *predictions.CHECKS)
    assert causes == {cause for check in checks for cause in check.causes}
    assert causes == {fault.cause for fault in faults.FAULTS}


# Predictions


def sheets(seed, size=40):
    """(probability, label) of a wavy sheet, four voxels thick and well found."""
    generator = np.random.default_rng(seed)
    height = ndimage.gaussian_filter(generator.normal(size=(size, size)), 8, mode="wrap")
    height = size / 2 + 6 * height / abs(height).max()
    distance = abs(np.arange(size)[:, None, None] - height)
    noise = ndimage.gaussian_filter(generator.normal(size=(size,) * 3), 2)
    logits = 2 * (2 - distance) + noise / noise.std()
    return 1 / (1 + np.exp(-logits)), (distance < 2).astype(np.uint8)


def of_predictions(pairs, workdir="run", images=None, resampled=(), **fields):
    defaults = {"data.patch": (16, 16, 16), "validate.overlap": 0.5, "validate.threshold": 0.5}
    fields = defaults | fields
    return types.SimpleNamespace(
        workdir=Path(workdir),
        holds_out=True,
        predictions=[
            (f"v{n}", *pair, image)
            for n, (pair, image) in enumerate(
                zip(pairs, images or [None] * len(pairs), strict=True)
            )
        ],
        resampled=set(resampled),
        field=lambda path, default=None: fields.get(path, default),
    )


@pytest.fixture(scope="module")
def found():
    return [sheets(seed) for seed in range(3)]


def test_predictions_that_are_well_made_of(found, tmp_path):
    healthy = of_predictions(found, tmp_path, **{"postprocess.steps": ("remove_small:voxels=50",)})
    assert predictions.find_threshold(healthy) == []
    assert predictions.find_destructive(healthy) == []
    assert predictions.find_seams(healthy) == []
    assert judging.find_no_better(healthy) == []


def test_a_threshold_is_not_to_blame_for_a_model_that_knows_nothing(found, tmp_path):
    blind = [(np.roll(p, 20, 0) * 0.4, label) for p, label in found]
    assert predictions.find_threshold(of_predictions(blind, tmp_path)) == []


@pytest.mark.parametrize("several", [True, False])
def test_a_threshold_that_fits_badly(found, tmp_path, several):
    raised = [(p**4, label) for p, label in found][: None if several else 1]
    (one,) = predictions.find_threshold(of_predictions(raised, tmp_path))
    assert one.severity == "warning" and one.field == "validate.threshold"
    assert one.evidence["threshold"] == 0.5 and one.evidence["best_threshold"] < 0.2
    assert one.evidence["dice_by_other_parts"] > one.evidence["dice"] + predictions.WORTH
    assert (
        predictions.find_threshold(of_predictions(raised, **{"validate.threshold": 0.0625})) == []
    )


def test_a_tuned_threshold_counts_before_the_configured_one(found, tmp_path):
    content = {"steps": ["threshold:value=0.97"]}
    write_json(tmp_path / "postprocess.json", content)
    (one,) = predictions.find_threshold(of_predictions(found, tmp_path))
    assert one.field == "postprocess.json" and one.evidence["threshold"] == 0.97
    write_json(tmp_path / "postprocess.json", {"steps": ["hysteresis"]})
    with pytest.raises(Skipped, match="hysteresis"):
        predictions.find_threshold(of_predictions(found, tmp_path))


def test_steps_that_erase_a_prediction(found, tmp_path):
    steps = ("fill_holes", "open:depth=3,height=3,width=3", "plug_holes")
    (one,) = predictions.find_destructive(
        of_predictions(found, tmp_path, **{"postprocess.steps": steps})
    )
    assert one.severity == "error" and steps[1] in one.advice
    assert one.evidence["dice_after"] < 0.5 < one.evidence["dice_before"]


def test_steps_that_erase_one_of_two_volumes(found, tmp_path):
    first, (probability, label) = found[:2]
    fainter = np.where(np.arange(len(probability)) % 4 < 2, probability.T, 0).T  # smaller pieces
    pieces = int((first[0] > 0.5).sum()) - 1
    steps = (f"remove_small:voxels={pieces}",)
    evidence = of_predictions([first, (fainter, label)], tmp_path, **{"postprocess.steps": steps})
    (one,) = predictions.find_destructive(evidence)
    assert one.severity == "error" and steps[0] in one.advice


def test_steps_that_erase_a_perfect_prediction(found):
    def before(*steps):
        evidence = of_predictions([], **{"postprocess.steps": steps})
        evidence.workdir = None
        examples = [types.SimpleNamespace(label=label.copy(), image=None) for _, label in found]
        for example in examples:  # labelled in every fourth slice
            example.label[np.arange(40) % 4 > 0] = 255
        evidence.examples = examples
        return predictions.find_destructive(evidence)

    assert before() == before("fill_holes", "remove_small:voxels=100") == []
    (one,) = before("remove_small:voxels=100", "open:depth=3,height=3,width=3")
    assert one.severity == "error" and "open:depth=3" in one.says


SIDE_BY_SIDE = {"data.patch": (10, 10, 10), "validate.overlap": 0.0}


@pytest.fixture(scope="module")
def side_by_side(found):
    """`found`, as by a network that is less sure at some windows than at others."""

    def cut(probability):
        seen = []

        def network(patches):
            seen.append(len(seen))
            return patches + (len(seen) * 7) % 5 - 2

        logits = np.log(probability / (1 - probability)).astype(np.float32)
        options = {"patch": SIDE_BY_SIDE["data.patch"], "overlap": 0.0}
        return 1 / (1 + np.exp(-np.asarray(predict_volume(network, logits, **options))))

    return [(cut(probability), label) for probability, label in found]


def test_seams_of_windows_side_by_side(found, side_by_side, tmp_path):
    (one,) = predictions.find_seams(of_predictions(side_by_side, tmp_path, **SIDE_BY_SIDE))
    assert one.evidence["jump_at_borders"] > 1.25 > one.evidence["jump_at_shifted_borders"]
    assert one.field == "validate.overlap"
    assert predictions.find_seams(of_predictions(found, tmp_path, **SIDE_BY_SIDE)) == []
    whole = of_predictions(found, tmp_path, **{"data.patch": (40, 40, 40)})
    with pytest.raises(Skipped, match="one window"):
        predictions.find_seams(whole)


def test_seams_are_looked_for_where_the_network_had_its_windows(side_by_side, tmp_path):
    def beside_zeros(array):
        return np.pad(array, ((3, 9), (4, 0), (0, 6)))

    pairs = [tuple(map(beside_zeros, pair)) for pair in side_by_side]
    images = [beside_zeros(np.ones(label.shape, np.uint8)) for _, label in side_by_side]
    fields = SIDE_BY_SIDE | {"preprocess.per_volume": True, "preprocess.region": "nonzero"}
    (boxed,) = predictions.find_seams(of_predictions(pairs, tmp_path, images, **fields))
    (plain,) = predictions.find_seams(of_predictions(side_by_side, tmp_path, **SIDE_BY_SIDE))
    assert boxed.evidence == plain.evidence
    of_another_spacing = of_predictions(side_by_side, tmp_path, resampled=["v0", "v1", "v2"])
    with pytest.raises(Skipped, match="resampled"):
        predictions.find_seams(of_another_spacing)


def test_volumes_of_another_spacing_are_resampled(tmp_path):
    spacings = {"a": (1.0, 1.0, 1.0), "b": (2.0, 1.0, 1.0), "c": None}
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((2, 8, 8), np.uint8), photometric="minisblack")
    volumes = {
        id: types.SimpleNamespace(image=tmp_path / "c.tif", spacing=spacing)
        for id, spacing in spacings.items()
    }

    def resampled(trained, field=()):
        evidence = Evidence(None, tmp_path, given={"task": types.SimpleNamespace(spacing=trained)})
        vars(evidence).update(
            run=types.SimpleNamespace(labelled=volumes), fields={"data.spacing": field}
        )
        return evidence.resampled

    assert resampled((1.0, 1.0, 1.0)) == {"b"} and resampled((3.0, 1.0, 1.0)) == {"a", "b"}
    assert resampled(None) == resampled((1.0, 1.0, 1.0), field=(1.0, 1.0, 1.0)) == set()


def test_a_model_that_knows_nothing_of_the_image(found, tmp_path):
    generator = np.random.default_rng(0)
    blind = [(0.9 + generator.uniform(0, 0.1, p.shape), label) for p, label in found]
    (one,) = judging.find_no_better(of_predictions(blind))
    assert one.severity == "error"
    assert one.evidence["dice"] == pytest.approx(
        one.evidence["dice_of_foreground_everywhere"], abs=0.01
    )
    elsewhere = [
        (p, label) for (p, _), (_, label) in zip(found, found[1:] + found[:1], strict=True)
    ]
    (one,) = judging.find_no_better(of_predictions(elsewhere))
    assert one.evidence["dice"] <= one.evidence["dice_of_other_places"] + predictions.WORTH


# Curves


def of_run(validation_loss, train_loss, *, rate=None, metric="dice", dice=None, **fields):
    """Evidence of a finished run with these losses per epoch."""
    epochs = []
    for epoch, (judged, trained) in enumerate(zip(validation_loss, train_loss, strict=True)):
        train = {"loss": trained, "learning_rate": 1.0 if rate is None else rate[epoch]}
        one = {"epoch": epoch, "train": train, "decisions": []}
        one["validation"] = {"loss": judged, "standard_error": fields.get("error", 0.005)}
        if dice is not None:
            one["volumes"] = {"dice": dice[epoch]}
        epochs.append(one)
    fields = {
        "train.epochs": len(epochs),
        "schedule.name": "constant",
        "validate.metric": metric,
    } | fields
    return types.SimpleNamespace(
        workdir=Path("absent"),
        holds_out=True,
        epochs=epochs,
        stage=types.SimpleNamespace(first=0),
        run=types.SimpleNamespace(scores={"raw": {"step": 9}}, chosen=None),
        field=lambda path, default=None: fields.get(path, default),
    )


EPOCHS = np.arange(20)
FALLING = 0.6 - 0.02 * EPOCHS
LEVEL = 0.2 + 0.4 * np.exp(-EPOCHS / 2)
WOBBLE = 0.002 * (-1.0) ** EPOCHS


def test_a_run_that_ends_while_it_learns():
    (one,) = judging.find_unfinished(of_run(FALLING + WOBBLE, FALLING))
    assert one.field == "train.epochs" and one.evidence["fell_at_the_end"] > 0.08
    cut = {"schedule.name": "cosine", "train.epochs": 40}
    (one,) = judging.find_unfinished(of_run(FALLING, FALLING, **cut))
    assert one.field == "train.minutes" and "20 of 40" in one.says


def test_runs_that_have_ended_where_they_should():
    assert judging.find_unfinished(of_run(LEVEL + WOBBLE, LEVEL)) == []
    assert judging.find_unfinished(of_run(FALLING, FALLING, **{"schedule.name": "cosine"})) == []
    assert judging.find_unfinished(of_run(FALLING, FALLING, error=0.2)) == []
    assert judging.find_unfinished(of_run(FALLING, FALLING, rate=0.7**EPOCHS)) == []
    with pytest.raises(Skipped, match="3 epochs"):
        judging.find_unfinished(of_run(FALLING[:3], FALLING[:3]))
    under_way = of_run(FALLING, FALLING)
    under_way.run.scores = {}
    with pytest.raises(Skipped, match="not ended"):
        judging.find_unfinished(under_way)


def test_a_run_that_learns_by_heart():
    rising = LEVEL + 0.02 * np.maximum(EPOCHS - 5, 0)
    (one,) = judging.find_overfits(of_run(rising + WOBBLE, FALLING))
    assert one.evidence["best_epoch"] in (4, 5, 6)
    assert one.evidence["gap"] > one.evidence["gap_at_best"]
    assert judging.find_overfits(of_run(LEVEL + WOBBLE, FALLING)) == []
    assert judging.find_overfits(of_run(rising, rising)) == []  # diverges on both parts
    assert judging.find_overfits(of_run(rising, FALLING, error=0.2)) == []


def test_validation_that_is_too_noisy_for_what_was_learned():
    (one,) = validation.find_noisy_run(of_run(LEVEL, LEVEL, error=0.5))
    assert one.evidence["standard_error"] == 0.5
    assert one.evidence["training_fell"] == pytest.approx(0.4, abs=0.01)
    assert validation.find_noisy_run(of_run(LEVEL, LEVEL)) == []
    with pytest.raises(Skipped, match="did not fall"):
        validation.find_noisy_run(of_run(LEVEL, 0.5 + WOBBLE, error=0.5))


def test_a_loss_that_ranks_checkpoints_unlike_whole_volumes():
    dice = 0.5 + 0.01 * EPOCHS
    rising = 0.5 + 0.01 * EPOCHS
    (one,) = validation.find_unlike_run(of_run(rising, FALLING, dice=dice, metric="loss"))
    assert one.evidence["dice_of_lowest_loss"] == 0.5
    assert one.evidence["highest_dice"] == pytest.approx(0.69)
    assert validation.find_unlike_run(of_run(FALLING, FALLING, dice=dice, metric="loss")) == []
    assert validation.find_unlike_run(of_run(rising, FALLING, dice=dice)) == []


def test_steps_that_were_tuned_for_another_checkpoint(tmp_path):
    content = {"steps": ["threshold:value=0.5"], "checkpoint_step": 7}
    write_json(tmp_path / "postprocess.json", content)
    run = of_run(LEVEL, LEVEL)
    run.workdir, run.run.chosen = tmp_path, content
    (one,) = validation.find_unlike_run(run)
    assert one.severity == "note" and one.evidence == {"chosen_for": 7, "best": 9}
    run.run.chosen = content | {"checkpoint_step": 9}
    assert validation.find_unlike_run(run) == []


# Data


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return scrolls(tmp_path_factory.mktemp("scrolls"), volumes=4, size=32)


@pytest.fixture
def small(source, tmp_path):
    """A copy of its own, whose labels may be changed."""
    shutil.copytree(source.data, tmp_path / "data")
    setup = changed(source, **{"data.root": str(tmp_path / "data"), "data.folds": 2})
    return setup._replace(folder=tmp_path)


def planted(setup, plant):
    return Evidence(plant(setup, np.random.default_rng(0)).config)


def test_a_validation_part_that_can_judge(small):
    evidence = Evidence(changed(small, **{"validate.metric": "loss"}).config)
    assert validation.find_noisy(evidence) == validation.find_unlike(evidence) == []


@pytest.mark.parametrize(
    ("plant", "severity", "key", "value"),
    [
        (faults.one_volume_held_out, "warning", "validation_volumes", 1),
        (faults.nothing_to_find, "error", "foreground_voxels", 0),
        (faults.scraps_of_labels, "warning", "difference_to_decide", validation.DECIDED),
    ],
)
def test_a_validation_part_that_cannot_judge(small, plant, severity, key, value):
    (one,) = validation.find_noisy(planted(small, plant))
    assert one.name == "validation.noisy" and one.severity == severity
    assert one.evidence[key] == value


def test_foreground_beyond_what_is_looked_at_is_not_missed(small):
    """Examples of large volumes are cropped to their middle."""
    planted_in = planted(small, faults.nothing_to_find)
    sampler = planted_in.task.validation
    known = [facts._replace(counts=(9, 1, 0)) for facts in sampler.fingerprints]
    planted_in.given["task"] = planted_in.task._replace(
        validation=dataclasses.replace(sampler, fingerprints=known)
    )
    del planted_in.__dict__["task"]
    with pytest.raises(Skipped, match="which is looked at, has none"):
        validation.find_noisy(planted_in)


def test_validation_patches_with_more_foreground_than_their_volumes(small):
    (one,) = validation.find_unlike(planted(small, faults.loss_of_chosen_patches))
    assert one.evidence["patch_share"] > one.evidence["volume_share"]
    assert one.evidence["odds_ratio"] >= validation.NOTABLE


def test_validation_volumes_with_more_foreground_than_any_other():
    def part(name, shares):
        examples = []
        for number, share in enumerate(shares):
            label = np.zeros(1000, np.uint8)
            label[: int(1000 * share)] = 1
            examples.append(types.SimpleNamespace(label=label, group="", id=f"{name}{number}"))
        return examples

    def evidence(outside):
        parts = {"training": (0.10, 0.12, 0.11, 0.09, 0.1), "validation": outside}
        return types.SimpleNamespace(
            holds_out=True,
            part=lambda name: part(name, parts[name]),
            field=lambda path, default=None: "dice",
        )

    assert validation.find_unlike(evidence((0.12, 0.1))) == []
    (one,) = validation.find_unlike(evidence((0.4, 0.45)))
    assert one.evidence["validation_share"] == pytest.approx(0.425)
    assert one.evidence["training_share"] == pytest.approx(0.104)
