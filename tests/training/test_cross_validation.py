"""All folds in turn: their summary, and what is read again."""

import json
import os
import time
from pathlib import Path

import dask
import distributed
import numpy as np
import pytest

from jax_seg.system import engine
from jax_seg.system.files import locked, unfinished
from jax_seg.training import cross_validation
from jax_seg.training import run as training
from tests.conftest import tiny_config, write_volumes


def test_all_folds_side_by_side_and_again_in_turn(tmp_path, capsys):
    """Every volume is held out once; a fold that a process of its own has trained is only read."""
    config = tiny_config(write_volumes(tmp_path / "data"))
    config.train.epochs = 1
    config.data.fold = "1"
    alone = training.run(config, tmp_path / "all" / "fold_1")
    written = (tmp_path / "all" / "fold_1" / "scores.json").stat().st_mtime_ns
    config.data.fold = "all"
    (tmp_path / "all" / "fold_1" / "cache").rename(tmp_path / "all" / "cache")
    on = engine.on_workers(2, None)
    summary = cross_validation.run(config, tmp_path / "all", open_engine=on)
    assert cross_validation.run(config, tmp_path / "all") == summary  # trains nothing again
    stored = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert set(stored["volumes"]) == {f"v{n}" for n in range(6)}
    assert stored["folds"]["fold_1"] == alone
    assert (tmp_path / "all" / "fold_1" / "scores.json").stat().st_mtime_ns == written
    assert [p.parent.name for p in (tmp_path / "all").rglob("cache")] == ["all"]  # decoded once
    values = [stored["folds"][f"fold_{n}"]["dice"] for n in range(3)]
    assert summary["dice"]["mean"] == pytest.approx(sum(values) / 3)
    assert summary["dice"]["std"] == pytest.approx(np.std(values, ddof=1))
    printed = capsys.readouterr().out
    assert "3 runs on 2 workers" in printed and "over 3 folds" in printed
    assert "Each fold is scored on its held-out volumes, which chose the checkpoint." in printed
    assert stored["judged_on"] == {"volumes": "held out", "chose": ["checkpoint"]}
    assert "volumes" not in summary and "chose" not in summary


def test_folds_of_a_cluster_are_trained_in_the_folder_of_the_command(tmp_path, monkeypatch, capfd):
    """A call whose worker dies is made again; one that fails is named, and so are its causes."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    options = {"processes": True, "memory_limit": 0, "dashboard_address": None}
    settings = {"distributed.scheduler.allowed-failures": 0}
    settings["distributed.deploy.lost-worker-timeout"] = "24h"  # else a slow start is not awaited
    with (
        dask.config.set(settings),
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, **options) as cluster,
    ):
        monkeypatch.chdir(folder)
        on = engine.on_workers(None, cluster.scheduler_address)
        calls = {"fold_0": ("a",), "fold_1": ("b",)}
        assert dict(engine.each(die_once, calls, on)) == {"fold_0": "a", "fold_1": "b"}
        assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
        assert "never shown" not in capfd.readouterr().out  # of the workers too
        with pytest.raises(ValueError, match=r"^fold_1: Diverged on a worker: not finite$"):
            dict(engine.each(diverge, calls, on))


def die_once(name):
    """In a worker: die at the first call of a name."""
    if not Path(name).exists():
        Path(name).touch()
        os._exit(1)
    print("never shown")
    Path("busy").touch(exist_ok=False)  # by one call at a time, though the worker has two threads
    time.sleep(0.3)
    Path("busy").unlink()
    return name


def diverge(name):
    """In a worker: fail for b."""
    if name == "b":
        raise training.Diverged("not finite")
    return name


def test_one_process_at_a_time_which_removes_what_another_left(tmp_path, monkeypatch):
    config, left = tiny_config(write_volumes(tmp_path / "data")), []
    parent = tmp_path / "all"
    with locked(parent), pytest.raises(ValueError, match="is in use by another process"):
        cross_validation.run(config, parent)
    unfinished(parent / "summary.json").touch()  # by a process with this number, as in a container

    def stopped(*_):
        left.extend(parent.iterdir())
        with locked(parent / "fold_1"):  # a fold may be trained by another process
            raise training.Stopped

    monkeypatch.setattr(training, "run", stopped)
    with pytest.raises(training.Stopped):
        cross_validation.run(config, parent)
    assert left == []


def test_the_summary_of_several_classes_has_the_dice_of_each():
    folds = [
        {"dice": a, "step": 3, "classes": {"sheet": {"dice": b, "iou": 0.1}}}
        for a, b in ((0.5, 0.2), (0.7, 0.6))
    ]
    found = cross_validation.summarise(folds)
    assert {name: values["mean"] for name, values in found.items()} == {
        "dice": pytest.approx(0.6),
        "Dice of sheet": pytest.approx(0.4),
    }
