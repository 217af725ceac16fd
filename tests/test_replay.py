import json
import re

import numpy as np
import pytest
import tifffile

from configs import base
from jax_seg import replay
from jax_seg.data.labels import label_table
from jax_seg.metrics.segmentation import Confusion
from jax_seg.report import versions
from jax_seg.runs.events import read_events
from jax_seg.system import configuration
from jax_seg.system.files import write_json
from jax_seg.tasks.judged import JudgedOn
from tests.conftest import ROOT

SMALL = {
    "data.name": "folder",
    "data.patch": (16, 16, 16),
    "data.folds": 3,
    "data.threads": 1,
    "data.patches_per_volume": 1,
    "model.filters": 2,
    "model.poolings": 1,
    "train.epochs": 24,
    "validate.volumes_every": 0,
}


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    """Where `configs` lies."""
    monkeypatch.chdir(ROOT)


def run(dice_counts, kind="as run", **changes):
    fields = {
        "name": "v1",
        "kind": kind,
        "epochs": 3,
        "losses": [0.9, 0.5, 0.7],
        "variance": None,
        "interventions": 2,
        "counts": dice_counts,
        "predicted": 0.4,
        "labelled": 0.35,
    }
    return versions.Run(**(fields | changes))


def test_two_versions_both_ways_and_again(volumes_folder, tmp_path, capsys):
    fields = [f"--config.{name}={value}" for name, value in SMALL.items()]
    command = ["--versions", "dice_only,v7", "--output", str(tmp_path), "--minutes", "1e-9"]
    command += [f"--config.data.root={volumes_folder}", *fields]
    assert replay.main(command) == 0
    page = (tmp_path / "README.md").read_text()
    for title in (
        "dice_only, as written",
        "dice_only, as run",
        "v7, as written",
        "v7, as run",
    ):
        assert f"| {title} | 1 |" in page and f"- **{title}.**" in page
    assert (tmp_path / "curves.png").stat().st_size > 1000
    # The original's wiring: unlabelled voxels are foreground, and the variance term always counts.
    as_run = read_events(tmp_path / "runs" / "dice_only, as run")
    as_written = read_events(tmp_path / "runs" / "dice_only, as written")
    assert "variance" in as_run[0] and "variance" not in as_written[0]
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in page.splitlines()}
    assert float(rows["dice_only, as run"][7].rstrip(" %")) > 25  # a quarter is unlabelled there
    assert float(rows["dice_only, as written"][7].rstrip(" %")) < 20

    before = (tmp_path / "runs" / "dice_only, as run" / "scores.json").stat().st_mtime_ns
    assert replay.main(command) == 0
    assert (tmp_path / "runs" / "dice_only, as run" / "scores.json").stat().st_mtime_ns == before
    assert (tmp_path / "README.md").read_text() == page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--versions", "v77"],
            r"no version 'v77': configs/v77\.py does not exist; did you mean v",
        ),
        (
            ["--versions", "v1", "--configs", "/nowhere"],
            r"no version 'v1': /nowhere/v1\.py does not",
        ),
        (["--versions", "mine/v1.py"], r"no version 'mine/v1\.py': mine/v1\.py does not exist\.$"),
        (["--versions", "v1,v2,v1"], "names 'v1' twice"),
        (["--versions", "configs/cod10k.py:demo"], "cod10k.py:demo trains on images"),
        (["--versions", "v1:fast"], "configs/v1.py: The configuration's argument is ':fast'"),
        (["--versions", "v1", "--config.data.rot=3"], "data.rot.*no such field"),
        (["--versions", "v1", "--config.train.epochs=many"], "epochs='many' has the wrong type"),
        (
            ["--versions", "v1", "--config.data.classes=('a=1','b=3')"],
            "data.classes names several: pass --kind 'as written'",
        ),
        (["--versions", "v1", "--epochs=3"], "Unknown argument '--epochs=3'"),
        (["--versions", "v1", "--config.data.root=/nowhere"], "data.root is /nowhere"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, tmp_path, capsys):
    if "--config.data.root=/nowhere" in arguments:
        arguments = [*arguments, "--config.data.name=folder"]
    assert replay.main([*arguments, "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_versions_are_found_in_a_folder_or_by_path(tmp_path):
    for name in ("v1.py", "mine.py"):
        (tmp_path / name).touch()
    mine = str(tmp_path / "mine.py")
    assert replay.find_versions(["v1", "v1:demo", mine, f"{mine}:wide"], tmp_path) == {
        "v1": f"{tmp_path}/v1.py",
        "v1_demo": f"{tmp_path}/v1.py:demo",
        "mine": mine,
        "mine_wide": f"{mine}:wide",
    }


def test_a_run_is_read_with_its_own_labels_and_with_what_they_mean(tmp_path):
    """By hand: 8 voxels, of which 3 are foreground, 3 background and 2 unlabelled."""
    label = np.array([1, 1, 1, 0, 0, 0, 2, 2], np.uint8).reshape(2, 2, 2)
    found = np.array([0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.9, 0.1], np.float32).reshape(2, 2, 2)
    root, workdir = tmp_path / "data", tmp_path / "run"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
        tifffile.imwrite(root / name / "a.tif", label)
    config = base.get_config()
    config.data.update(root=str(root), foreground=(1, 2), ignore=())
    config.validate.threshold = 0.5
    write_json(workdir / "config.json", configuration.as_dict(config))
    write_json(workdir / "validation" / "scores.json", {"step": 1, "volumes": {"a": {}}})
    (workdir / "validation" / "probabilities").mkdir()
    tifffile.imwrite(workdir / "validation" / "probabilities" / "a.tif", found)
    event = {"kind": "validation", "step": 1, "epoch": 0, "loss": 0.5, "variance": 0.9}
    (workdir / "events.jsonl").write_text(json.dumps(event) + "\n")
    read = versions.read_run(workdir, "v1", "as run", label_table())
    assert read.counts == {"a": Confusion(2, 1, 1, 2)}
    assert (read.predicted, read.labelled) == (4 / 8, 5 / 8)
    assert (read.epochs, read.losses, read.variance) == (1, [0.5], 0.9)


def test_conclusions_compare_all_runs():
    good, poor = {"a": Confusion(40, 5, 5, 50)}, {"a": Confusion(5, 60, 35, 0)}
    first, second, third = versions.conclusions(
        [
            run(good, kind="as written", name="v6"),
            run(poor, variance=0.97, predicted=0.95, labelled=0.61),
        ]
    )[:3]
    assert first.startswith("As written: Dice from 0.889 to 0.889")
    assert "predicted by v1, 95.0 % where that run takes 61.0 % for labelled" in second
    assert "between 0.970 and 0.970; no prediction brings it below 0.828" in third
    last = versions.conclusions([run(good, name="v6"), run(poor)])[-1]
    assert "best is v6, as run, with Dice 0.889" in last
    assert "scores 0.621, which v1, as run did not beat" in last


def test_verdict_says_what_was_measured():
    everything = Confusion(40, 60, 0, 0)  # marks every voxel
    sentence = versions.verdict(run({"a": everything}, predicted=0.96, labelled=0.61), None)
    assert "over-predicts foreground by 35 points" in sentence
    assert "no better by Dice than marking every voxel (0.571)" in sentence
    assert "lowest at epoch 1 of 2" in sentence

    good = {name: Confusion(40, 5, 5, 50) for name in "abcdefgh"}
    poor = {name: Confusion(20, 25, 25, 30) for name in "abcdefgh"}
    sentence = versions.verdict(run(good, variance=0.9), run(poor, name="v0"))
    assert "v1, as run is better than v0, as run by .444" in sentence
    assert "0.07 above the floor of 0.83" in sentence
    other = versions.verdict(run(good, variance=0.6, floor=0.5625), None)
    assert "0.04 above the floor of 0.56" in other
    assert "not distinguishable" in versions.verdict(run(good), run(good, name="v0"))
    seen = {"judged_on": JudgedOn("training")}
    sentence = versions.verdict(run(good, **seen), run(poor, name="v0", **seen))
    assert sentence.startswith("Dice 0.889 on training volumes") and "better" not in sentence
    last = versions.conclusions([run(good, **seen)])[-1]
    assert "with Dice 0.889 on training volumes" in last
    assert "Stopped: Not finite" in versions.verdict(run({}, failure="Not finite"), None)


def test_defaults_come_from_the_base_beside_a_version(tmp_path):
    assert replay.default_of("configs/v6.py:demo") == base.get_config()
    (tmp_path / "own.py").touch()
    assert replay.default_of(str(tmp_path / "own.py")) is None
