import base64
import copy
import json
import re
import shutil

import imagecodecs
import numpy as np
import pytest
import tifffile

from jax_seg.metrics.segmentation import Confusion, scores
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED
from jax_seg.report import charts, milestones, page, sections, sprites, tuning, verdict, views
from jax_seg.report.__main__ import main
from jax_seg.runs import run as opened
from jax_seg.system.files import write_json
from tests.report_runs import HOSTILE, make_run


def run_with(events=(), config=None, **fields):
    """A `runs.run.Run` of nothing but what is given."""
    run = opened.Run(None, config or {}, "run")
    given = {"scores": {}, "validation": {}, "volumes": {}, "probabilities": {}, "labelled": {}}
    given |= {
        "tuned": None,
        "chosen": None,
        "examined": None,
        "missing": [],
        "events": list(events),
    }
    vars(run).update(given | fields)  # what would be read from the folder
    return run


def altered(run, **fields):
    """A copy of a run of which the given was read."""
    other = copy.copy(run)
    vars(other).update(fields)
    return other


def losses(*values, error=0.01, train=None):
    for epoch, loss in enumerate(values):
        fields = {"step": epoch, "epoch": epoch}
        yield {"kind": "validation", "loss": loss, "standard_error": error, **fields}
        yield {"kind": "train", "loss": (train or values)[epoch], **fields}


# What a folder holds.


def test_names_are_the_shortest_ends_that_differ(tmp_path, data):
    for name in ("x/run", "y/run"):
        make_run(tmp_path / name, data)
    found = opened.read_runs([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert [run.name for run in found] == ["x/run", "y/run"]
    assert [run.name for run in opened.read_runs([tmp_path / "x" / "run"])] == ["run"]


def test_counts_follow_from_the_scores():
    generator = np.random.default_rng(0)
    given = {str(n): Confusion(*generator.integers(0, 10**7, 4).tolist()) for n in range(50)}
    given |= {"nothing": Confusion(0, 0, 0, 7), "all": Confusion(7, 0, 0, 0)}
    volumes = {name: scores(c) | {"labelled": c.labelled} for name, c in given.items()}
    assert opened.confusions(run_with(volumes=volumes)) == given


def test_bad_folders_are_reported(tmp_path, data, capsys):
    assert main([str(tmp_path)]) == 1
    assert "neither config.json nor events.jsonl" in capsys.readouterr().err
    run = make_run(tmp_path / "run", data)
    assert main([str(run), str(run)]) == 1
    assert "twice" in capsys.readouterr().err
    (run / "scores.json").write_text("{")
    assert main([str(run)]) == 1
    assert "scores.json is not valid JSON" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_an_unfinished_run_without_its_data_still_makes_a_page(tmp_path, data):
    run = make_run(tmp_path / "run", data, change=lambda c: c.data.update(root="/nowhere"))
    (run / "scores.json").unlink()
    shutil.rmtree(run / "validation")
    assert main([str(run)]) == 0
    assert main([str(run)]) == 0  # its own page is replaced
    text = (run / "report.html").read_text()
    assert "Not finished: 6 of 6 epochs done, validation loss 0.267" in text
    assert "/nowhere does not exist" in text
    assert "No volume can be shown" in text


def test_without_its_images_the_probabilities_are_shown(tmp_path, data):
    run = make_run(tmp_path / "run", data, change=lambda c: c.data.update(root="/nowhere"))
    found, problems = views.views(opened.read_runs([run]))
    assert [v["probability"] for v in found["volumes"]] == [True] * 3
    assert not any(v["labelled"] for v in found["volumes"])
    assert problems == []


def test_a_page_of_images_speaks_of_images(tmp_path, data):
    run = make_run(
        tmp_path / "run", data, change=lambda c: c.data.update(name="images", root="/nowhere")
    )
    assert main([str(run)]) == 0
    text = (run / "report.html").read_text()
    for words in ("Image by image", "Images by share of foreground", "Whole held-out images"):
        assert words in text
    assert "olume by volume" not in text and "held-out volume" not in text
    assert "averaged over images" in text and "averaged over volumes" not in text


# Words.


def test_verdict_on_learning():
    def kinds(*values, **options):
        (remark,) = verdict._on_learning(run_with(losses(*values, **options)))
        return remark

    assert "still falling" in kinds(0.8, 0.6, 0.4, 0.3).text
    assert "levelled off" in kinds(0.8, 0.31, 0.305, 0.3).text
    worse = kinds(0.5, 0.4, 0.3, 0.9, 0.95)
    assert worse.kind == "bad" and "0.950 at the end; the training loss did not fall" in worse.text
    falling = [0.8, 0.5, 0.3, 0.2]
    assert "overfits" in kinds(0.8, 0.4, 0.5, 0.6, train=falling).text
    assert "overfits" not in kinds(0.8, 0.4, 0.5, 0.6, train=falling, error=0.3).text
    # A stage that changed the loss began with epoch 2: the low loss before does not count.
    config = {"stages": {"one": {"epochs": [0, 1]}, "two": {"epochs": [2, 5]}}}
    run = run_with(losses(0.1, 0.1, 0.9, 0.8, 0.7, 0.6), config)
    assert "lowest in epoch 5, 0.600" in verdict._on_learning(run)[0].text


def test_a_model_no_better_than_a_constant_is_said_so():
    # Precision 0.25 and recall 0.5 of a foreground of a fifth: predicting it everywhere is as good.
    counts = Confusion(10, 30, 10, 50)
    run = run_with(volumes={"v": scores(counts) | {"labelled": 100}})
    remarks = verdict.remarks(run)
    assert remarks[0].kind == "bad" and "no better than a constant" in remarks[0].text


def test_averages_and_post_processing_are_set_against_the_raw_weights():
    pooled = {"raw": 0.8, "swa": 0.8251, "ema": 0.8003, "postprocessed": 0.75}
    run = run_with(scores={name: {"dice": dice} for name, dice in pooled.items()})
    assert [remark.text for remark in verdict._on_other_weights(run)] == [
        "The SWA average has Dice 0.825, 0.025 above the raw weights.",
        "The EMA average has Dice 0.800, equal to the raw weights.",
        "Post-processing has Dice 0.750, 0.050 below the raw weights.",
    ]


def test_headline_of_several_runs(runs):
    better = sum(runs[0].volumes[i]["dice"] > runs[1].volumes[i]["dice"] for i in runs[0].volumes)
    assert verdict.headline(runs).startswith("a scores highest: Dice ")
    assert verdict.headline(runs).endswith(f"better on {better} of 3 volumes.")
    other = altered(runs[1], volumes={"w": runs[1].volumes["v0"]})
    assert "held-out volumes differ" in verdict.headline([runs[0], other])
    (sentence,) = verdict.comparisons(runs)
    assert "no p-value can be below .250" in sentence  # three volumes: 2 / 2³
    assert verdict.comparisons([runs[0], other]) == []


def trained_on(run):
    """`run`, judged on the volumes that it was trained on."""
    raw = run.scores["raw"] | {"volumes": "training", "chose": ["checkpoint"]}
    return altered(run, scores=run.scores | {"raw": raw})


def test_a_run_that_holds_nothing_out_is_not_praised_for_it(tmp_path, data):
    """An older one, whose scores do not say it: the configuration does."""
    path = make_run(tmp_path / "run", data, change=lambda c: c.data.update(fold="none"))
    (run,) = opened.read_runs([path])
    assert "on 3 whole training volumes, which says nothing about other volumes" in (
        verdict.headline([run])
    )
    balance, constants, worst, learning = (
        next(r.text for r in verdict.remarks(run) if r.text.startswith(start))
        for start in ("Foreground", "The model", "The worst", "The loss")
    )
    assert "on 3 training volumes; largest error" in balance
    assert "training volumes" in constants and worst.startswith("The worst training volume is")
    assert learning == (
        "The loss on training volumes was lowest in epoch 5, 0.267; nothing is held out, so "
        "overfitting cannot be detected."
    )
    titles = [chart["title"] for chart in charts.learning([run])]
    assert titles == ["Loss", "Component: dice", "Whole training volumes"]
    assert charts.learning([run])[0]["series"][1]["name"] == "validation (training volumes)"
    (rollback,) = (m["name"] for m in milestones.marks(run) if m["kind"] == "rollback")
    assert rollback.endswith("; evaluated on training volumes")
    found, _ = views.views([run])
    assert found["volumes"][0]["runs"][0]["scores"].startswith("Whole training volume:")
    text = page.make_page([run])
    assert "held-out" not in text and "holds out no volume to compute them on" in text
    assert "<dt>Evaluated on</dt><dd>training volumes</dd>" in text
    assert f"python -m jax_seg.tune {run.workdir}" not in text


def test_runs_on_training_volumes_have_no_rank(runs):
    a, b = runs
    seen = trained_on(b)
    headline = verdict.headline([a, seen])
    assert headline.startswith(f"Dice {a.scores['raw']['dice']:.3f} on 3 whole held-out volumes, ")
    its = f"its Dice {b.scores['raw']['dice']:.3f} is on training volumes."
    assert headline.endswith(f" b is not ranked: {its}")
    assert verdict.comparisons([a, seen]) == [f"b is not compared: {its}"]
    both = verdict.headline([trained_on(a), seen])
    assert both.startswith("All 2 finished runs are evaluated on volumes that they were trained")
    table = sections.comparison([a, seen])
    rows = rows_of(table)
    assert [row[3] for row in rows] == ["held-out volumes", "training volumes"]
    first, second = table.split("<tr>")[2:]
    assert first.count('class="number best"') == 5 and "number best" not in second
    whole = charts.learning([a, seen])[-1]
    assert whole["title"] == "Whole volumes: Dice"
    assert [s["name"] for s in whole["series"]] == ["a: Dice", "b: Dice (training volumes)"]


def test_choices_by_the_same_volumes_are_said(runs):
    assert "whole held-out volumes, which chose the checkpoint: it finds" in (
        verdict.headline(runs[:1])
    )
    (sentence,) = verdict.comparisons(runs)
    assert sentence.endswith("; both checkpoints were chosen on these volumes.")
    raw = {"dice": 0.8, "volumes": "held out", "chose": ["checkpoint"]}
    run = run_with(scores={"raw": raw, "swa": {"dice": 0.79, "volumes": "held out", "chose": []}})
    assert [remark.text for remark in verdict._on_other_weights(run)] == [
        "The SWA average has Dice 0.790, 0.010 below the raw weights, whose checkpoint was "
        "chosen on these volumes."
    ]


def test_the_background_target_of_a_run_is_that_of_its_configuration(tmp_path, data):
    plain = make_run(tmp_path / "plain", data)
    target = (0.3, 0.7)
    asked = make_run(
        tmp_path / "asked", data, change=lambda c: c.validate.update(background_target=target)
    )
    texts = [page.make_page(opened.read_runs([run])) for run in (plain, asked)]
    assert ["the target of 30 to 70" in text for text in texts] == [False, True]


# Charts.


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


# Pictures.


def rows_of(text):
    cells = [re.findall(r"<td.*?>(.*?)</td>", row) for row in text.split("<tr>")]
    return [[re.sub("<.*?>", "", cell) for cell in row] for row in cells if row]


def test_tuning_says_what_it_was_searched_on(runs):
    row = {"step": "threshold:value=0.5", "score": 0.5, "gain": 0.0}
    found = {
        "metric": "dice",
        "volumes": ["v0", "v1"],
        "judged_on": {"volumes": "training", "chose": ["checkpoint", "steps"]},
        "ablation": [row],
    }
    tuned = altered(runs[0], tuned=found)
    assert "The steps were chosen on 2 training volumes by" in tuning.steps([tuned])
    drawn = {"thresholds": []}
    assert "The curves of a are measured on 2 training volumes." in tuning.thresholds(
        [tuned], drawn
    )
    first = {"volume": "v0", "baseline": 0.5, "score": 0.6, "steps": []}
    found["held_out"] = [first | {"volumes": "held out", "chose": ["checkpoint"]}]
    text = tuning.steps([altered(runs[0], tuned=found)])
    assert "chosen on the others; all of them were used to choose the checkpoint." in text


def test_the_gain_of_tuned_steps_is_shown_for_volumes_held_out_of_the_search(runs):
    steps = ["hysteresis:low=0.2", "close"]
    tuned = {
        "metric": "competition",
        "volumes": ["v0", "v1"],
        "ablation": [
            {"step": "threshold:value=0.5", "score": 0.5, "gain": 0.0},
            {"step": steps[0], "score": 0.75, "gain": 0.25},
            {"step": steps[1], "score": 0.8, "gain": 0.05},
        ],
        "guard": [{"step": "open", "cost": 0.5, "refused": True}],
        "held_out": [
            {"volume": "v0", "baseline": 0.5, "score": 0.75, "steps": steps},
            {"volume": "v1", "baseline": 0.5, "score": 0.25, "steps": steps[:1]},
        ],
    }
    text = tuning.steps([altered(runs[0], tuned=tuned)])
    rows = rows_of(text)
    assert [row[1:3] for row in rows[:3]] == [
        ["0.5000", "+0.0000"],
        ["0.7500", "+0.2500"],
        ["0.8000", "+0.0500"],
    ]
    assert re.findall(r"width:([\d.]+)%", text) == ["0.0", "100.0", "20.0"]  # of the largest gain
    assert rows[3][1:4] == ["0.5000", "0.7500", "+0.2500"]
    assert rows[4][1:4] == ["0.5000", "0.2500", "−0.2500"]
    assert rows[5] == ["mean", "0.5000", "0.5000", "+0.0000", ""]
    assert "Rejected because they degrade a perfect prediction: 1" in text


def decoded(address):
    kind, code = re.fullmatch(r"data:image/(\w+);base64,(.+)", address).groups()
    decode = imagecodecs.webp_decode if kind == "webp" else imagecodecs.jpeg8_decode
    return decode(base64.b64decode(code))


def cut(sheet, layout, axis, number):
    row, column = divmod(number, layout["columns"])
    (tall, wide), (height, width) = layout["pitch"][axis], layout["tiles"][axis]
    return sheet[row * tall :, column * wide :][:height, :width]


def test_tiles_give_the_slices_back():
    generator = np.random.default_rng(0)
    shape = (5, 12, 20)
    probability = generator.uniform(size=shape).astype(np.float16)
    probability[0, 0, :3] = (0.25, 0.5, 0.75)  # not above a threshold that they equal
    kind = generator.integers(0, 3, shape)
    label = np.array([BACKGROUND, FOREGROUND, MASKED], np.uint8)[kind]
    thresholds = (0.25, 0.5, 0.75)
    slices = sprites.choose_slices(shape, 10**6)
    layout = sprites.layout(shape, slices)
    assert [len(positions) for positions in layout["positions"]] == list(shape)
    both = zip(sprites.stacks(probability, slices), sprites.stacks(label, slices), strict=True)
    for axis, stacks in enumerate(both):
        address = sprites.address(sprites.classes(*stacks, thresholds), lossless=True)
        sheet = decoded(address)[..., 0] / sprites.STEP
        for number in range(shape[axis]):
            seen = cut(sheet, layout, axis, number)
            np.testing.assert_array_equal(seen % 3, np.take(kind, number, axis))
            for level, threshold in enumerate(thresholds):
                above = np.take(probability, number, axis).astype(np.float64) > threshold
                np.testing.assert_array_equal(seen // 3 > level, above)
    image = np.broadcast_to(10.0 * np.arange(20), shape)
    grey = sprites.grey(sprites.stacks(image, slices)[1], *sprites.contrast(image))
    seen = cut(decoded(sprites.address(grey, lossless=False)), layout, 1, 11).astype(float)
    np.testing.assert_allclose(seen, np.broadcast_to(255 / 190 * image[0, 0], (5, 20)), atol=12)


def test_too_many_thresholds_are_refused():
    with pytest.raises(ValueError, match="28 thresholds"):
        sprites.classes(np.zeros((1, 1, 1)), None, np.linspace(0, 1, 28))


def test_slices_fit_the_pixels_and_reach_both_ends():
    for shape, pixels in (((320, 320, 320), 5e6), ((20, 1024, 1024), 3e6), ((64, 64, 64), 1e6)):
        slices = sprites.choose_slices(shape, pixels)
        layout = sprites.layout(shape, slices)
        used = sum(len(p) * np.prod(tile) for p, tile in zip(slices, layout["tiles"], strict=True))
        assert 0.7 * min(pixels, 3 * np.prod(shape)) < used <= pixels
        assert all(p[0] == 0 and p[-1] == n - 1 for p, n in zip(slices, shape, strict=True))
    assert sprites.in_plane_stride((20, 1024, 1024)) == 2
    assert sprites.choose_slices((320, 320, 320), 1e5)[1].tolist() == [160]


def test_first_slice_holds_most_within_the_middle_half():
    mask = np.zeros((8, 8, 8), bool)
    mask[0], mask[3, :2] = True, True
    slices = [np.arange(8)] * 3
    assert sprites.fullest(mask, slices)[0] == 3


def test_the_note_mentions_stretched_slices():
    def note(*shape):
        layout = sprites.layout(shape, sprites.choose_slices(shape, 10**9))
        return views._note({"shape": list(shape), "probability": False, **layout})

    assert note(20, 101, 101) == "20 × 101 × 101 voxels; flat slices are stretched in height."
    assert note(20, 100, 100) == "20 × 100 × 100 voxels."


def test_worst_median_and_best_are_chosen(runs):
    order = sorted(runs[0].volumes, key=lambda name: runs[0].volumes[name]["dice"])
    expected = list(zip(order, ("worst", "median", "best"), strict=True))
    assert views.choose(runs[:1]) == expected
    two = {name: runs[0].probabilities[name] for name in order[:2]}
    assert views.choose([altered(runs[0], probabilities=two)]) == [
        (order[0], "worst"),
        (order[1], "best"),
    ]
    unscored = altered(runs[0], volumes={})
    assert views.choose([unscored]) == [("v0", ""), ("v1", ""), ("v2", "")]


def test_pictures_stay_below_the_limit(runs):
    everything, _ = views.views(runs)
    assert sum(map(views._characters, everything["volumes"])) > 60_000
    assert len(views.views(runs, characters=1)[0]["volumes"][0]["positions"][0]) == 1
    fewer, _ = views.views(runs, characters=60_000)
    assert sum(map(views._characters, fewer["volumes"])) <= 60_000
    assert "slices along the three axes are shown" in fewer["volumes"][0]["note"]


def test_a_prediction_of_another_shape_is_reported(tmp_path, data):
    run = make_run(tmp_path / "run", data)
    path = run / "validation" / "probabilities" / "v1.tif"
    tifffile.imwrite(path, np.zeros((4, 20, 20), np.float16), photometric="minisblack")
    found, problems = views.views(opened.read_runs([run]))
    assert [v["id"] for v in found["volumes"]] != [] and len(found["volumes"]) == 2
    assert len(problems) == 1 and "(4, 20, 20)" in problems[0] and str(path) in problems[0]


# The page.


def test_nothing_from_outside_becomes_markup(tmp_path, data):
    run = make_run(tmp_path / "run", data, hostile=True)
    (run / "validation" / "probabilities" / "v0.tif").rename(
        run / "validation" / "probabilities" / "a<b>&c.tif"
    )
    judged = json.loads((run / "validation" / "scores.json").read_text())
    judged["volumes"][HOSTILE] = judged["volumes"].pop("v0")
    write_json(run / "validation" / "scores.json", judged)
    text = page.make_page(opened.read_runs([run]))
    assert "<img" not in text and text.count("</script>") == 2
    embedded = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    names = [point[2] for point in embedded["charts"]["foreground"][1]["series"][0]["points"]]
    assert HOSTILE in names
    assert "&lt;/script&gt;&lt;img" in text


def test_page_is_one_file_without_addresses(runs):
    text = page.make_page(runs)
    without_pictures = re.sub(r'"data:image/[^"]+"', "", text)
    assert not re.search(r'(src|href)=["\']?(?!["\']?(#|data:,))', without_pictures)
    assert set(re.findall(r"https?://[^\s\"]+", without_pictures)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", without_pictures)


def test_numbers_that_are_not_finite_become_null():
    assert page.as_script({"a": [float("nan"), 1.5], "b": "<&>"}) == (
        '{"a":[null,1.5],"b":"\\u003c\\u0026\\u003e"}'
    )
