"""What the page says of one run and of several, and on which volumes they were scored."""

from jax_seg.metrics.segmentation import Confusion, scores
from jax_seg.report import charts, milestones, page, sections, verdict, views
from jax_seg.runs import run as opened
from tests.report_runs import altered, losses, make_run, rows_of, run_with


def test_verdict_on_learning():
    def kinds(*values, **options):
        (remark,) = verdict._on_learning(run_with(losses(*values, **options)))
        return remark

    assert "still falling" in kinds(0.8, 0.6, 0.4, 0.3).text
    assert "levelled off" in kinds(0.8, 0.31, 0.305, 0.3).text
    assert kinds(0.8, 0.4, 0.5, 0.6).text.endswith(" epoch 1, 0.400, and 0.600 at the end.")
    rising = [0.8, 0.4, 0.5, 0.6, 0.7, 0.8]
    worse = kinds(*rising)
    assert worse.kind == "bad" and "0.800 at the end; the training loss did not fall" in worse.text
    falling = [0.8, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert "overfits" in kinds(*rising, train=falling).text
    unsure = kinds(*rising, train=falling, error=0.4).text
    assert unsure.endswith("epoch 1, 0.400, and 0.800 at the end.")
    untrained = [e for e in losses(*rising, train=falling) if e["kind"] != "train" or e["epoch"]]
    untrained = [e for e in untrained if e["kind"] != "train" or e["epoch"] < 4]
    assert verdict._on_learning(run_with(untrained)) == []  # three epochs have both losses
    # A stage that changed the loss began with epoch 2: the low loss before does not count.
    config = {"stages": {"one": {"epochs": [0, 1]}, "two": {"epochs": [2, 5]}}}
    run = run_with(losses(0.1, 0.1, 0.9, 0.8, 0.7, 0.6), config)
    assert "lowest in epoch 5, 0.600" in verdict._on_learning(run)[0].text


def test_what_the_page_says_of_the_end_agrees_with_the_doctor():
    """A rate that has fallen to its end asks for no more epochs of the same schedule."""
    rates = (1.0, 0.5, 0.1, 0.01)
    events = [e | {"learning_rate": rates[e["epoch"]]} for e in losses(0.8, 0.6, 0.4, 0.3)]
    (remark,) = verdict._on_learning(run_with(events))
    assert remark.kind == "plain" and "fell until the learning rate reached its end" in remark.text


def test_clipping_is_said_where_it_sets_the_step_size():
    events = [
        {"kind": "train", "step": n, "epoch": n, "clipped_share": 1.0, "gradient_norm": 20.0}
        for n in range(4)
    ]

    def said(name, clip_norm):
        config = {"optimizer": {"name": name, "clip_norm": clip_norm}}
        return verdict._on_clipping(run_with(events, config))

    (remark,) = said("sgd", 1.0)
    assert remark.text.startswith("In the last 3 epochs 100.0 % of the updates were clipped")
    assert said("sgd", 5.0) == said("sgd", 0.0) == said("adamw", 1.0) == []


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
