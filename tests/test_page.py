import base64
import json
import re
import shutil
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest
import tifffile

from jax_seg import config as configuration
from jax_seg.files import write_json
from jax_seg.metrics.segmentation import Confusion, confusion, scores
from jax_seg.report import charts, gather, milestones, page, sections, sprites, verdict, views
from jax_seg.report.__main__ import main
from tests.conftest import tiny_config, write_volumes

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
VOLUMES = 'section[data-title="Volume by volume"]'
HOSTILE = '</script><img src=x onerror="alert(1)">&{{data}}'


def labels_of(root):
    paths = sorted((root / "train_labels").glob("*.tif"))
    return {path.stem: tifffile.imread(path) for path in paths}


def make_run(workdir, data, *, shift=0.0, change=None, hostile=False):
    """The folder of a finished run that saw v0 to v2, without training one."""
    config = tiny_config(data)
    config.train.epochs = 6
    config.schedule.update(name="cosine_restarts", warmup_epochs=1, t_0=2, t_mult=1)
    config.average.update(swa_every=1, swa_start=4)
    config.optimizer.clip_norm = 0.5
    if hostile:
        config.plateau.rule = HOSTILE
    if change:
        change(config)
    write_json(workdir / "config.json", configuration.as_dict(config))
    judged = {}
    generator = np.random.default_rng(5)
    for number, (name, label) in enumerate(list(labels_of(data).items())[:3]):
        noise = generator.uniform(-0.2, 0.3 + 0.2 * number + shift, label.shape)
        probability = np.clip((label == 1) * 0.6 + noise, 0, 1).astype(np.float16)
        path = workdir / "validation" / "probabilities" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, probability, compression="zlib")
        judged[name] = confusion(probability > 0.5, label)
    volumes = {name: scores(c) | {"labelled": int(c.labelled)} for name, c in judged.items()}
    write_json(workdir / "validation" / "scores.json", {"step": 60, "volumes": volumes})
    pooled = scores(sum(judged.values()))
    write_json(workdir / "scores.json", {"raw": {"step": 60, **pooled}})
    (workdir / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events(shift)))
    return workdir


def events(shift=0.0):
    def at(epoch, kind, **figures):
        return {"kind": kind, "step": 10 * epoch + 10, "epoch": epoch, **figures}

    for epoch in range(6):
        loss = 1 / (epoch + 1) + shift
        optimizing = {
            "gradient_norm": 0.7 / (epoch + 1),
            "learning_rate": 0.1,
            "clipped_share": 0.6,
        }
        yield at(epoch, "train", loss=loss, dice=loss, patches_per_second=3.0, **optimizing)
        yield at(epoch, "validation", loss=loss + 0.1, dice=loss, standard_error=0.01)
    yield at(5, "volumes", dice=0.5, precision=0.4, recall=float("nan"))
    yield at(
        3,
        "decision",
        decision={
            "kind": "rollback",
            "epoch": 3,
            "reason": "plateau",
            "best_epoch": 1,
            "best_loss": 0.25,
            "val_loss": 0.5,
        },
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_volumes(tmp_path_factory.mktemp("page_data"), size=20)


@pytest.fixture(scope="session")
def runs(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs")
    return gather.read_runs([make_run(folder / "a", data), make_run(folder / "b", data, shift=0.1)])


def run_with(events=(), config=None, **fields):
    """A `gather.Run` of nothing but what is given."""
    empty = gather.Run("run", None, config or {}, list(events), {}, {}, {}, {}, None, None, [])
    return empty._replace(**fields)


def losses(*values, error=0.01, train=None):
    for epoch, loss in enumerate(values):
        fields = {"step": epoch, "epoch": epoch}
        yield {"kind": "validation", "loss": loss, "standard_error": error, **fields}
        yield {"kind": "train", "loss": (train or values)[epoch], **fields}


# What a folder holds.


def test_names_are_the_shortest_ends_that_differ(tmp_path, data):
    for name in ("x/run", "y/run"):
        make_run(tmp_path / name, data)
    found = gather.read_runs([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert [run.name for run in found] == ["x/run", "y/run"]
    assert [run.name for run in gather.read_runs([tmp_path / "x" / "run"])] == ["run"]


def test_counts_follow_from_the_scores():
    generator = np.random.default_rng(0)
    given = {str(n): Confusion(*generator.integers(0, 10**7, 4).tolist()) for n in range(50)}
    given |= {"nothing": Confusion(0, 0, 0, 7), "all": Confusion(7, 0, 0, 0)}
    volumes = {name: scores(c) | {"labelled": c.labelled} for name, c in given.items()}
    assert gather.confusions(run_with(volumes=volumes)) == given


def test_bad_folders_are_told(tmp_path, data, capsys):
    assert main([str(tmp_path)]) == 1
    assert "neither config.json nor events.jsonl" in capsys.readouterr().err
    run = make_run(tmp_path / "run", data)
    assert main([str(run), str(run)]) == 1
    assert "twice" in capsys.readouterr().err
    (run / "scores.json").write_text("{")
    assert main([str(run)]) == 1
    assert "scores.json is no JSON" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_an_unfinished_run_without_its_data_still_makes_a_page(tmp_path, data):
    run = make_run(tmp_path / "run", data, change=lambda c: c.data.update(root="/nowhere"))
    (run / "scores.json").unlink()
    shutil.rmtree(run / "validation")
    assert main([str(run)]) == 0
    text = (run / "report.html").read_text()
    assert "Not finished: 6 of 6 epochs are done, with a validation loss of 0.267" in text
    assert "/nowhere does not exist" in text
    assert "No volume can be looked at" in text


def test_without_its_images_the_probabilities_are_shown(tmp_path, data):
    run = make_run(tmp_path / "run", data, change=lambda c: c.data.update(root="/nowhere"))
    found, problems = views.views(gather.read_runs([run]))
    assert [v["probability"] for v in found["volumes"]] == [True] * 3
    assert not any(v["labelled"] for v in found["volumes"])
    assert problems == []


# Words.


def test_verdict_on_learning():
    def kinds(*values, **options):
        (remark,) = verdict._on_learning(run_with(losses(*values, **options)))
        return remark

    assert "still falling" in kinds(0.8, 0.6, 0.4, 0.3).text
    assert "levelled off" in kinds(0.8, 0.31, 0.305, 0.3).text
    falling = [0.8, 0.5, 0.3, 0.2]
    assert "over-fits" in kinds(0.8, 0.4, 0.5, 0.6, train=falling).text
    assert "over-fits" not in kinds(0.8, 0.4, 0.5, 0.6, train=falling, error=0.3).text
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
        "The SWA average has Dice 0.825, 0.025 above the raw weights alone.",
        "The EMA average has Dice 0.800, as good as the raw weights alone.",
        "Post-processing has Dice 0.750, 0.050 below the raw weights alone.",
    ]


def test_headline_of_several_runs(runs):
    better = sum(runs[0].volumes[i]["dice"] > runs[1].volumes[i]["dice"] for i in runs[0].volumes)
    assert verdict.headline(runs).startswith("a scores highest: Dice ")
    assert verdict.headline(runs).endswith(f"better on {better} of 3 volumes.")
    other = runs[1]._replace(volumes={"w": runs[1].volumes["v0"]})
    assert "held-out volumes differ" in verdict.headline([runs[0], other])
    (sentence,) = verdict.comparisons(runs)
    assert "no p-value can be below .250" in sentence  # three volumes: 2 / 2³
    assert verdict.comparisons([runs[0], other]) == []


# Charts.


def test_marks_of_restarts_stages_averages_and_decisions():
    schedule = {"name": "cosine_restarts", "warmup_epochs": 1, "t_0": 3, "t_mult": 2}
    config = {
        "schedule": schedule,
        "train": {"epochs": 40},
        "average": {"swa_every": 5, "swa_start": 20},
    }
    decision = {"kind": "intervention", "scale": 2.0, "gradient_norm": 0.25}
    told = [
        *losses(*[1.0] * 30),
        {"kind": "decision", "step": 0, "epoch": 5, "decision": {"kind": "new_best"}},
        {"kind": "decision", "step": 0, "epoch": 9, "decision": decision},
    ]
    found = milestones.marks(run_with(told, config))
    # Warm-up 1, then cycles of 3, 6, 12 epochs; the restart at 22 falls into the averaging.
    expected = [(4, "restart"), (9, "intervention"), (10, "restart"), (20, "swa")]
    assert [(mark["x"], mark["kind"]) for mark in found] == expected
    assert found[1]["name"] == "intervention: learning rate × 2, gradient norm 0.25"
    # Only what the run has lived through.
    assert [m["x"] for m in milestones.marks(run_with(losses(*[1.0] * 8), config))] == [4]
    # A stage with a schedule of its own starts its clock.
    config["stages"] = {
        "one": {"epochs": [0, 9], "schedule": {}},
        "two": {"epochs": [10, 39], "schedule": {"t_0": 4}},
    }
    expected = [(0, "stage"), (4, "restart"), (10, "stage"), (15, "restart"), (20, "swa")]
    assert [(m["x"], m["kind"]) for m in milestones.marks(run_with(told[:-1], config))] == expected
    assert milestones.warm_ups(run_with(told, config)) == [(0, 1), (10, 11)]


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
    curves, tradeoff, grid, reliability = charts.thresholds([runs[0]._replace(tuned=tuned)])
    assert [s["name"] for s in curves["series"]] == ["Dice", "IoU", "precision", "recall"]
    assert curves["marks"][0]["x"] == 0.5
    assert tradeoff["series"][0]["points"] == [[1, 0, "threshold 0"], [0, 1, "threshold 1"]]
    assert grid["cells"] == [[0.6, 0.3, 0.7]]
    assert reliability["series"][0]["points"] == [[0.1, 0.3, "1,000 voxels"]]


# Pictures.


def rows_of(text):
    cells = [re.findall(r"<td.*?>(.*?)</td>", row) for row in text.split("<tr>")]
    return [[re.sub("<.*?>", "", cell) for cell in row] for row in cells if row]


def test_the_gain_of_tuned_steps_is_told_for_volumes_that_were_not_searched_on(runs):
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
    text = sections.steps([runs[0]._replace(tuned=tuned)])
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
    assert "Refused, since they harm a perfect prediction: 1" in text


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
    label = generator.integers(0, 3, shape).astype(np.uint8)
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
            np.testing.assert_array_equal(seen % 3, np.take(label, number, axis))
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


def test_flat_slices_are_said_to_be_drawn_taller():
    def told(*shape):
        layout = sprites.layout(shape, sprites.choose_slices(shape, 10**9))
        return views._note({"shape": list(shape), "probability": False, **layout})

    assert (
        told(20, 101, 101) == "20 × 101 × 101 voxels; flat slices are drawn taller than they are."
    )
    assert told(20, 100, 100) == "20 × 100 × 100 voxels."


def test_worst_median_and_best_are_chosen(runs):
    order = sorted(runs[0].volumes, key=lambda name: runs[0].volumes[name]["dice"])
    expected = list(zip(order, ("worst", "median", "best"), strict=True))
    assert views.choose(runs[:1]) == expected
    two = {name: runs[0].probabilities[name] for name in order[:2]}
    assert views.choose([runs[0]._replace(probabilities=two)]) == [
        (order[0], "worst"),
        (order[1], "best"),
    ]
    unscored = runs[0]._replace(volumes={})
    assert views.choose([unscored]) == [("v0", ""), ("v1", ""), ("v2", "")]


def test_pictures_stay_below_the_limit(runs):
    everything, _ = views.views(runs)
    assert sum(map(views._characters, everything["volumes"])) > 60_000
    assert len(views.views(runs, characters=1)[0]["volumes"][0]["positions"][0]) == 1
    fewer, _ = views.views(runs, characters=60_000)
    assert sum(map(views._characters, fewer["volumes"])) <= 60_000
    assert "slices along the three axes are shown" in fewer["volumes"][0]["note"]


def test_a_prediction_of_another_shape_is_told(tmp_path, data):
    run = make_run(tmp_path / "run", data)
    path = run / "validation" / "probabilities" / "v1.tif"
    tifffile.imwrite(path, np.zeros((4, 20, 20), np.float16), photometric="minisblack")
    found, problems = views.views(gather.read_runs([run]))
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
    text = page.make_page(gather.read_runs([run]))
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


# In a browser.


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    driver = shutil.which("chromedriver")
    if not CHROMIUM or not driver:
        pytest.skip("there is no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "window-size=1440,1000",
        f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as browser:
        yield browser


@pytest.fixture
def opened(browser, runs, tmp_path):
    """The page of two runs in a browser that has finished drawing."""
    path = tmp_path / "report.html"
    page.write_page([run.workdir for run in runs], path)
    browser.get_log("performance")
    browser.get(path.as_uri())
    wait_until_drawn(browser, 0)
    return SimpleNamespace(browser=browser, path=path, find=finder(browser))


def finder(browser):
    return lambda selector: browser.execute_script(
        "return document.querySelector(arguments[0])", selector
    )


def drawn(browser):
    return int(
        browser.execute_script("return document.querySelector('#viewer').dataset.drawn ?? '0'")
    )


def wait_until_drawn(browser, before):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: drawn(browser) >= before + 3)


def slide(opened, selector, value):
    before = drawn(opened.browser)
    opened.browser.execute_script(
        "const s = document.querySelector(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('input', {bubbles: true}))",
        selector,
        value,
    )
    wait_until_drawn(opened.browser, before)


def picture(opened, panel, axis=0):
    return opened.browser.execute_script(
        "return document.querySelector(arguments[0]).toDataURL()",
        f'canvas[data-axis="{axis}"][data-panel="{panel}"]',
    )


def told_counts(opened, axis=0):
    text = opened.find(f'.slice-score[data-axis="{axis}"]').text
    return [int(number) for number in re.search(r"(\d+) wrong, (\d+) missed", text).groups()]


def counted(run, name, axis, position, threshold):
    _, label, probability = gather.read_volume(run, name)
    label, probability = np.take(label, position, axis), np.take(probability, position, axis)
    counts = confusion(probability.astype(np.float64) > threshold, label)
    return [counts.false_positive, counts.false_negative]


def test_page_loads_without_errors_and_without_network(opened):
    assert [entry for entry in opened.browser.get_log("browser")] == []
    messages = [json.loads(e["message"])["message"] for e in opened.browser.get_log("performance")]
    requests = {
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    }
    asked = {url for url in requests if not url.startswith(("data:", "chrome"))}
    assert asked == {opened.path.as_uri()}
    charts = opened.browser.execute_script("return document.querySelectorAll('.chart svg').length")
    assert charts > 8


def test_sliders_change_the_picture_and_tell_the_right_counts(opened, runs):
    worst = views.choose(runs)[0][0]
    first = picture(opened, "image"), picture(opened, "errors")
    slide(opened, 'input[data-axis="0"]', 4)
    assert picture(opened, "image") != first[0] and picture(opened, "errors") != first[1]
    assert opened.find('output[data-axis="0"]').text == "4 of 19"
    assert told_counts(opened) == counted(runs[0], worst, 0, 4, 0.5)
    slide(opened, "#threshold", 5)  # the sixth of 0.05, 0.1, …
    assert opened.find("#threshold-value").text == "0.3"
    assert told_counts(opened) == counted(runs[0], worst, 0, 4, 0.3)
    slide(opened, 'input[data-axis="2"]', 7)
    assert told_counts(opened, axis=2) == counted(runs[0], worst, 2, 7, 0.3)


def test_runs_and_volumes_are_chosen_by_buttons(opened, runs):
    best = views.choose(runs)[-1][0]
    buttons = opened.browser.execute_script(
        "return [...document.querySelectorAll('.choices button')]"
    )
    assert [b.text.split()[0] for b in buttons] == [*(n for n, _ in views.choose(runs)), "a", "b"]
    before = drawn(opened.browser)
    buttons[2].click()
    wait_until_drawn(opened.browser, before)
    before = drawn(opened.browser)
    buttons[4].click()
    wait_until_drawn(opened.browser, before)
    slide(opened, 'input[data-axis="0"]', 9)
    assert told_counts(opened) == counted(runs[1], best, 0, 9, 0.5)


def test_a_click_in_a_slice_cuts_the_others_there(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = opened.find('canvas[data-axis="0"][data-panel="image"]')
    opened.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    before = drawn(opened.browser)
    size = canvas.size
    # From its middle a quarter up and an eighth to the right: voxels 5 of height, 12 of width.
    ActionChains(opened.browser).move_to_element_with_offset(
        canvas, size["width"] // 8, -size["height"] // 4
    ).click().perform()
    wait_until_drawn(opened.browser, before)
    assert abs(int(opened.find('output[data-axis="1"]').text.split()[0]) - 5) <= 1
    assert abs(int(opened.find('output[data-axis="2"]').text.split()[0]) - 12) <= 1


def test_table_starts_with_the_worst_and_sorts(opened, runs):
    def column(number):
        return opened.browser.execute_script(
            f"return [...document.querySelectorAll('{VOLUMES} tbody tr')]"
            ".map((row) => row.cells[arguments[0]].textContent)",
            number,
        )

    def click(number):
        opened.browser.execute_script(
            f"document.querySelectorAll('{VOLUMES} th button')[arguments[0]].click()",
            number,
        )

    dices = sorted(s["dice"] for run in runs for s in run.volumes.values())
    assert column(2) == [f"{dice:.4f}" for dice in dices]
    click(2)  # ascending already
    assert column(2) == [f"{dice:.4f}" for dice in dices[::-1]]
    differences = [
        100 * (s["foreground_predicted"] - s["foreground_label"])
        for run in runs
        for s in run.volumes.values()
    ]
    click(9)
    expected = [f"{points:+.2f}".replace("-", "−") for points in sorted(differences)]
    assert column(9) == expected
    click(10)
    voxels = [s["labelled"] for run in runs for s in run.volumes.values()]
    assert column(10) == [str(count) for count in sorted(voxels)]
    click(1)
    assert column(1) == ["v0", "v0", "v1", "v1", "v2", "v2"]


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_but_tables_is_wider_than_the_window(opened, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    opened.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        found = opened.browser.execute_script(
            "const page = document.documentElement;"
            "return [innerWidth, page.scrollWidth - page.clientWidth]"
        )
    finally:
        opened.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert found == [width, 0]


def test_colours_follow_the_system_until_chosen(opened):
    def ground():
        return opened.browser.execute_script(
            "return getComputedStyle(document.body).backgroundColor"
        )

    light = ground()
    button = opened.find("#theme")
    button.click()
    assert ground() == light and button.text == "Colours: light"
    button.click()
    assert ground() != light and button.text == "Colours: dark"


def test_a_chart_reads_out_under_the_pointer(opened):
    from selenium.webdriver.common.action_chains import ActionChains

    chart = opened.find(".chart svg")
    opened.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    ActionChains(opened.browser).move_to_element(chart).perform()
    text = opened.find("#tip").text
    assert text.startswith("epoch ") and "a: validation" in text and "±" in text
