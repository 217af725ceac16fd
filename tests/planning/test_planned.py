"""Configurations that plan themselves: what a run keeps of its plan."""

import json
import subprocess
import sys

import pytest

from configs import auto
from jax_seg.planning import planned
from jax_seg.system import configuration
from jax_seg.system.files import locked
from tests.conftest import ROOT, TIME_LIMIT
from tests.planning.conftest import config_of


def test_the_planning_configuration_has_no_demo():
    with pytest.raises(ValueError, match=r"auto\.py takes no ':demo'"):
        auto.get_config("demo")


@pytest.mark.parametrize("within", ["", "fold_1"])
def test_a_run_keeps_its_plan(sheets, tmp_path, monkeypatch, within):
    given = {"data.root": str(sheets), "model.filters": 2, "train.minutes": 5.0}

    def planned_config(**more):
        config = auto.get_config()
        configuration.override(config, given | more)
        return config, given | more

    config, fields = planned_config()
    assert planned.fill(config, fields, tmp_path / "run")
    assert config.model.filters == 2 and "plan" not in config
    corrected, fields = planned_config(**{"model.filters": 3})  # before there is anything to resume
    planned.fill(corrected, fields, tmp_path / "run")
    assert corrected.model.filters == 3
    planned.fill(*planned_config(), tmp_path / "run")
    (tmp_path / "run" / within / "checkpoints" / "save_4").mkdir(parents=True)
    monkeypatch.setattr(planned, "make_plan", lambda *_, **__: pytest.fail("it has a plan"))
    again, fields = planned_config(**{"train.minutes": 9.0})  # a resumed run may have more time
    (line,) = planned.fill(again, fields, tmp_path / "run")
    assert line == f"Its plan is that of {tmp_path / 'run' / 'plan.json'}."
    differing = configuration.differences(again, configuration.as_dict(config))
    assert differing == ["train.minutes: 5.0 → 9.0"]
    again, fields = planned_config(**{"train.epochs": 3})  # which was planned, not given
    planned.fill(again, fields, tmp_path / "run")
    assert again.train.epochs == 3 != config.train.epochs
    other, fields = planned_config(**{"model.filters": 4})
    with pytest.raises(ValueError, match=r"another model.filters \(2, now 4\)"):
        planned.fill(other, fields, tmp_path / "run")


def test_a_run_that_has_saved_nothing_yet_keeps_its_plan_from_others(sheets, tmp_path):
    config, given = auto.get_config(), {"data.root": str(sheets), "model.filters": 2}
    configuration.override(config, given)
    with (
        locked(tmp_path / "run"),
        pytest.raises(ValueError, match="run is in use by another process"),
    ):
        planned.fill(config, given, tmp_path / "run")


def test_a_configuration_without_the_section_is_left_alone(sheets, tmp_path):
    config = config_of(sheets)
    assert planned.fill(config, {}, tmp_path / "run") == []
    assert not (tmp_path / "run").exists() and config == config_of(sheets)


def test_launch_plans_and_trains_with_the_data_alone(sheets, tmp_path):
    """What a newcomer types, but for a network that trains in seconds."""
    workdir = tmp_path / "run"
    command = ["launch.py", "--config", "configs/auto.py", f"--config.data.root={sheets}"]
    command += ["--config.train.minutes=0.02", "--config.train.epochs=2", "--doctor=off"]
    command += ["--config.model.filters=2", "--config.data.patch=(16,16,16)"]
    ended = subprocess.run(
        [sys.executable, *command, "--workdir", workdir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert ended.returncode == 0, ended.stderr
    plan = json.loads((workdir / "plan.json").read_text())
    assert plan["given"]["model.filters"] == 2
    log = (workdir / "log.txt").read_text()
    for one in plan["decisions"]:
        assert f"{one['topic']}: " in log, one["topic"]
    said = " ".join(log.split())
    assert "2 epochs and one cosine schedule fill 0.02 minutes" in said
    assert "4 volumes, 24×40×40 voxels" in said and "value 2 seems to mean unlabelled" in said
    trained = json.loads((workdir / "config.json").read_text())
    assert trained["data"]["ignore"] == [2] and trained["optimizer"]["name"] == "muon"
    assert "dice" in json.loads((workdir / "scores.json").read_text())["ema"]
