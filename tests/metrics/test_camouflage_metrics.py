"""The field's evaluator, fed as it should be: hand-worked cases, and its own averages."""

import numpy as np
import pytest

from tests.conftest import SHARED

py_sod_metrics = pytest.importorskip(
    "py_sod_metrics", reason="pysodmetrics is not installed: pip install pysodmetrics"
)

from jax_seg.metrics.camouflage import by_super_class, image_scores, summary, table  # noqa: E402


def disc(size=40, radius=9):
    y, x = np.mgrid[:size, :size]
    return np.hypot(y - size / 2, x - size / 2) < radius


def test_perfect_and_inverted_maps():
    mask = disc()
    perfect = image_scores(mask.astype(np.uint8) * 255, mask)
    for name in ("s", "e_adaptive", "weighted_f", "iou"):
        assert perfect[name] == pytest.approx(1, abs=1e-3), name
    assert perfect["mae"] == 0
    inverted = image_scores((~mask).astype(np.uint8) * 255, mask)
    assert inverted["mae"] == 1
    assert inverted["iou"] == 0
    assert inverted["s"] < 0.1


def test_iou_and_mae_by_hand():
    mask, prediction = np.zeros((4, 4), bool), np.zeros((4, 4), np.uint8)
    mask[:2, :2] = True  # 4 pixels
    prediction[0] = 255  # 4 pixels, 2 of them in the mask: 2 / 6
    prediction[3, 3] = 51  # a fifth of certainty, below the threshold
    found = image_scores(prediction, mask)
    assert found["iou"] == pytest.approx(1 / 3)
    assert found["mae"] == pytest.approx((4 + 0.2) / 16)


def test_maps_are_stretched_as_the_evaluator_does():
    mask = disc()
    faint = np.where(mask, 60, 20).astype(np.uint8)
    assert image_scores(faint, mask)["iou"] == 1


def test_images_without_an_object():
    mask = np.zeros((8, 8), bool)
    prediction = np.zeros((8, 8), np.uint8)
    prediction[0, 0] = 255
    found = image_scores(prediction, mask)
    assert found["s"] == pytest.approx(1 - 1 / 64)
    assert found["mae"] == pytest.approx(1 / 64)
    assert "weighted_f" not in found
    assert "iou" not in found


def random_cases(count=5):
    generator = np.random.default_rng(0)
    for number in range(count):
        mask = disc(radius=5 + number)
        noisy = 255 * (0.3 * mask + 0.7 * generator.random(mask.shape))
        yield noisy.astype(np.uint8), mask


def test_summary_is_the_evaluators_own_average():
    cases = list(random_cases())
    found = summary([image_scores(*case) for case in cases])
    s, e = py_sod_metrics.Smeasure(), py_sod_metrics.Emeasure()
    f, mae = py_sod_metrics.WeightedFmeasure(), py_sod_metrics.MAE()
    for prediction, mask in cases:
        for measure in (s, e, f, mae):
            measure.step(prediction, mask.astype(np.uint8) * 255)
    em = e.get_results()["em"]
    assert found == {
        "images": 5,
        "s": pytest.approx(s.get_results()["sm"]),
        "e_mean": pytest.approx(em["curve"].mean()),
        "e_max": pytest.approx(em["curve"].max()),
        "e_adaptive": pytest.approx(em["adp"]),
        "weighted_f": pytest.approx(f.get_results()["wfm"]),
        "mae": pytest.approx(mae.get_results()["mae"]),
        "iou": found["iou"],
    }
    assert 0 < found["iou"] < 1


def test_table_by_super_class():
    scores = [image_scores(*case) for case in random_cases()]
    empty = image_scores(np.zeros((8, 8), np.uint8), np.zeros((8, 8), bool))
    names = ["Flying", "Aquatic", "Flying", "Aquatic", "Flying", "Desert"]
    groups = by_super_class([*scores, empty], names)
    assert list(groups) == ["Aquatic", "Desert", "Flying", "all"]
    assert [group["images"] for group in groups.values()] == [2, 1, 3, 6]
    assert groups["Flying"]["s"] == pytest.approx(np.mean([scores[i]["s"] for i in (0, 2, 4)]))
    # The image without an object counts for S, not for the weighted F of those that have one.
    assert groups["all"]["weighted_f"] == pytest.approx(np.mean([s["weighted_f"] for s in scores]))
    lines = table(groups).splitlines()
    assert lines[0].split()[:2] == ["images", "S"]
    assert lines[2].split()[:3] == ["Desert", "1", f"{empty['s']:.4f}"]
    assert lines[2].count("–") == 2


def test_what_does_not_fit_is_one_sentence():
    mask = disc()
    with pytest.raises(ValueError, match="resize the prediction"):
        image_scores(np.zeros((20, 40), np.uint8), mask)
    with pytest.raises(ValueError, match="float64"):
        image_scores(np.zeros(mask.shape), mask)
    with pytest.raises(ValueError, match="no scores"):
        summary([])
    with pytest.raises(ValueError, match="0 scores and 1 super-classes"):
        by_super_class([], ["Aquatic"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is absent")
def test_real_masks_beat_both_constants():
    from jax_seg.data.images import find_examples
    from jax_seg.data.readers.pictures import read_mask

    root = SHARED / "data/mitochondria2d"
    masks = [read_mask(example.mask) for example in find_examples(root, "Test")[:4]]
    rows = {
        name: summary([image_scores(make(mask), mask) for mask in masks])
        for name, make in {
            "mask": lambda m: m.astype(np.uint8) * 255,
            "empty": lambda m: np.zeros(m.shape, np.uint8),
            "full": lambda m: np.full(m.shape, 255, np.uint8),
        }.items()
    }
    for constant in ("empty", "full"):
        assert rows["mask"]["s"] > rows[constant]["s"] + 0.3
        assert rows["mask"]["weighted_f"] > rows[constant]["weighted_f"] + 0.3
