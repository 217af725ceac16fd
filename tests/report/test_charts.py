"""The series, marks and bars of the charts."""

from jax_seg.report import charts, milestones
from tests.report_runs import altered, losses, run_with


def test_marks_of_restarts_stages_averages_and_decisions():
    schedule = {"name": "cosine_restarts", "warmup_epochs": 1, "t_0": 3, "t_mult": 2}
    config = {
        "schedule": schedule,
        "train": {"epochs": 40},
        "average": {"swa_every": 5, "swa_start": 20},
    }
    decision = {"kind": "intervention", "scale": 2.0, "gradient_norm": 0.25}
    events = [
        *losses(*[1.0] * 30),
        {"kind": "decision", "step": 0, "epoch": 5, "decision": {"kind": "new_best"}},
        {"kind": "decision", "step": 0, "epoch": 9, "decision": decision},
    ]
    found = milestones.marks(run_with(events, config))
    # Warm-up 1, then cycles of 3, 6, 12 epochs; the restart at 22 falls into the averaging.
    expected = [(4, "restart"), (9, "intervention"), (10, "restart"), (20, "swa")]
    assert [(mark["x"], mark["kind"]) for mark in found] == expected
    assert found[1]["name"] == "intervention: learning rate × 2, gradient norm 0.25"
    # Only what the run has lived through.
    assert [m["x"] for m in milestones.marks(run_with(losses(*[1.0] * 8), config))] == [4]
    # A stage with a schedule of its own starts its clock.
    config["stages"] = {
        "one": {"epochs": [0, 9], "schedule": {}},
        "two": {"epochs": [10, 13], "schedule": {"t_0": 4}},
        "three": {"epochs": [14, 39]},
    }
    expected = [(0, "stage"), (4, "restart"), (10, "stage"), (14, "stage"), (15, "restart")]
    expected.append((20, "swa"))
    assert [
        (m["x"], m["kind"]) for m in milestones.marks(run_with(events[:-1], config))
    ] == expected
    assert milestones.warm_ups(run_with(events, config)) == [(0, 1), (10, 11)]


def test_charts_of_one_run_and_of_two(runs):
    (loss, dice, volumes) = charts.learning(runs[:1])
    assert (loss["title"], dice["title"]) == ("Loss", "Component: dice")
    assert [s["name"] for s in loss["series"]] == ["training", "validation"]
    assert loss["series"][1]["points"][1] == [1, 0.6]
    assert loss["series"][1]["band"] == [0.01] * 6
    assert [s["name"] for s in volumes["series"]] == ["Dice", "precision", "recall"]
    both = charts.learning(runs)[0]["series"]
    assert [s["name"] for s in both] == [
        "a: training",
        "a: validation",
        "b: training",
        "b: validation",
    ]
    assert [s["color"] for s in both] == [0, 0, 1, 1]
    norm = charts.optimization(runs)[0]
    assert norm["lines"] == [{"y": 0.5, "name": "clipped above 0.5", "color": 0}]
    bars, _, against = charts.foreground(runs)
    assert sum(bars["series"][0]["values"]) == sum(bars["series"][1]["values"]) == 3
    label, predicted, name = against["series"][0]["points"][0]
    assert name == "v0" and label == runs[0].volumes["v0"]["foreground_label"]
    assert predicted == runs[0].volumes["v0"]["foreground_predicted"]


def test_a_loss_that_is_not_finite_is_called_so():
    decision = {"kind": "rollback", "reason": "catastrophic", "best_epoch": 1, "best_loss": 0.25}
    decision["val_loss"] = float("nan")
    event = {"kind": "decision", "step": 0, "epoch": 2, "decision": decision}
    (mark,) = milestones.marks(run_with([*losses(1.0, 1.0, 1.0), event]))
    assert mark["name"] == "rollback to epoch 1 (catastrophic: loss not finite, best 0.25)"


def test_throughput_is_counted_in_what_the_run_trains_on(runs):
    of_images = run_with(runs[0].events, {"data": {"name": "images"}})
    labels = [charts.optimization([run])[-1]["y"]["label"] for run in (runs[0], of_images)]
    assert labels == ["patches per second", "images per second"]


def test_tuned_settings_are_drawn(runs):
    rows = [{"threshold": t, "dice": t, "iou": t, "precision": t, "recall": 1 - t} for t in (0, 1)]
    calibration = {
        "bins": [{"probability": 0.1, "foreground": 0.3, "voxels": 1000}],
        "expected_calibration_error": 0.2,
    }
    hysteresis = [{"low": 0.3, "high": 0.6, "dice": 0.7}]
    tuned = {"thresholds": rows, "hysteresis": hysteresis, "calibration": calibration}
    curves, tradeoff, grid, reliability = charts.thresholds([altered(runs[0], tuned=tuned)])
    assert [s["name"] for s in curves["series"]] == ["Dice", "IoU", "precision", "recall"]
    assert curves["marks"][0]["x"] == 0.5
    assert tradeoff["series"][0]["points"] == [[1, 0, "threshold 0"], [0, 1, "threshold 1"]]
    assert grid["cells"] == [[0.6, 0.3, 0.7]]
    assert reliability["series"][0]["points"] == [[0.1, 0.3, "1,000 voxels"]]
