"""All folds in turn: their summary, and what is read again."""

import json

import numpy as np
import pytest

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
    summary = cross_validation.run(config, tmp_path / "all", count=2)
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
    assert "over 3 folds" in printed
    assert "Each fold is scored on its held-out volumes, which chose the checkpoint." in printed
    assert stored["judged_on"] == {"volumes": "held out", "chose": ["checkpoint"]}
    assert "volumes" not in summary and "chose" not in summary


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
