"""Plans of small folders: files that load, devices, bad input."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from configs import auto, base
from jax_seg import plan as command
from jax_seg.planning import facts, planned, written
from jax_seg.planning import plan as planning
from jax_seg.planning.machine import Machine
from jax_seg.system import config_file, configuration
from jax_seg.system.devices import ONE
from jax_seg.training.settings import read_settings
from tests.planning.conftest import config_of, relabelled


def test_what_depends_on_the_length_of_the_run_is_planned(sheets):
    config = config_of(sheets)
    config.train.epochs = 3  # before average.swa_start
    assert facts.gather(config).groups == 4


def test_a_plan_needs_volumes():
    with pytest.raises(ValueError, match=r"data\.root is empty, and a plan is made from"):
        facts.gather(base.get_config())


def test_the_file_says_why_and_gives_the_same_configuration(sheets, tmp_path, capsys):
    file = tmp_path / "mine.py"
    arguments = [str(sheets), "--minutes", "5", "--config.data.threads=1", "--output", str(file)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    text = file.read_text()
    assert "value 2 seems to mean unlabelled" in " ".join(printed.split())
    assert "config.data.threads = 1" in text and "# As given." in text
    assert "config.data.ignore = (2,)" in text  # though it is the default
    config = config_file.load(file)
    assert config.data.root == str(sheets) and config.train.minutes == 5
    assert config.train.epoch_length == "minutes" and config.data.ignore == (2,)
    planned_config = auto.get_config()
    planned_config.data.update(root=str(sheets), threads=1)
    planned_config.train.minutes = 5.0
    planned.fill(planned_config, {"data.root": str(sheets), "data.threads": 1})
    assert configuration.differences(config, configuration.as_dict(planned_config)) == []
    read_settings(config)
    assert command.main(arguments) == 0  # its own file may be replaced
    file.write_text("mine")
    assert command.main(arguments) == 1
    assert "was not written by jax_seg.plan" in capsys.readouterr().err


def test_a_card_takes_what_fits(sheets, monkeypatch):
    def bytes_of(config, card, devices):
        return 2**30 * (1 + config.data.batch * (2 if config.data.patch[1] > 24 else 1))

    monkeypatch.setattr(planning, "step_bytes", bytes_of)

    def chosen(gib):
        card = Machine("a card", gib * 2**30, None, object())
        monkeypatch.setattr(planning, "machine", lambda device: card)
        return planning.make_plan(config_of(sheets)).fields

    assert chosen(80)["data.batch"] == 8
    assert chosen(7)["data.batch"] == 3
    small = chosen(2)  # not even one of 24×32×32
    assert small["data.batch"] == 1 and small["data.patch"][1] <= 24
    assert small["model.dtype"] == "bfloat16" and small["model.filters"] == 32
    with pytest.raises(ValueError, match="a single patch of"):
        chosen(1)


def test_a_step_that_a_card_cannot_even_compile_does_not_fit(sheets, monkeypatch):
    largest = [1]

    def bytes_of(config, card, devices):
        return 2**30 if config.data.batch <= largest[0] else math.inf

    monkeypatch.setattr(planning, "step_bytes", bytes_of)
    card = Machine("a card", 8 * 2**30, None, object())
    monkeypatch.setattr(planning, "machine", lambda device: card)
    plan = planning.make_plan(config_of(sheets))
    (batch,) = [one for one in plan.decisions if one.topic == "batch"]
    assert plan.fields["data.batch"] == 1 and "compile a step of two patches" in batch.reason
    largest[0] = 0
    with pytest.raises(ValueError, match=r"a single patch of .* voxels needs more; choose"):
        planning.make_plan(config_of(sheets))


def test_several_devices_share_what_fits_on_each(sheets, monkeypatch):
    def bytes_of(config, card, devices):
        assert devices == ONE
        return 2**30 * config.data.batch

    monkeypatch.setattr(planning, "step_bytes", bytes_of)
    found = Machine("a GPU", 3 * 2**30, None)
    monkeypatch.setattr(planning, "machine", lambda device: found)
    for size, batch in ((1, 3), (2, 6), (4, 8), (16, 16)):
        four = SimpleNamespace(size=size)
        monkeypatch.setattr(planning.devices, "arrange", lambda four=four, **_: four)
        assert planning.make_plan(config_of(sheets)).fields["data.batch"] == batch


def test_a_plan_may_start_from_another_configuration(sheets, tmp_path, capsys):
    """Whose network keeps its levels; a field is set as with launch.py."""
    file = tmp_path / "mine.py"
    arguments = [str(sheets), "--base", "configs/residual_m.py:demo", "--output", str(file)]
    arguments += ["--config.data.ignore=2", "--config.train.minutes=8"]
    assert command.main([*arguments, "--config.model.planar_levels=0"]) == 0
    config, start = config_file.load(file), config_file.load("configs/residual_m.py:demo")
    demo = config_file.load(f"{file}:demo")
    assert (demo.data.name, demo.data.root) == ("synthetic", "")
    assert config.model == start.model and config.preprocess.per_volume
    assert config.data.ignore == (2,) and config.train.minutes == 8
    assert "8 minutes hold" in " ".join(capsys.readouterr().out.split())
    read_settings(config)


def test_a_plan_needs_time(sheets, capsys):
    assert command.main([str(sheets), "--minutes", "0"]) == 1
    assert "train.minutes is 0" in capsys.readouterr().err


def test_a_folder_of_one_volume_is_planned_without_a_part_held_out(sheets, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "v0.tif").symlink_to(sheets / name / "v0.tif")
    plan = planning.make_plan(config_of(tmp_path))
    assert written.facts_in_words(plan.facts).startswith("1 volume, 24×40×40 voxels")
    assert plan.fields["data.fold"] == "none"
    (said,) = (one.reason for one in plan.decisions if one.topic == "validation")
    assert "a single volume or scroll cannot be divided" in said
    config = config_of(tmp_path)
    configuration.override(config, plan.fields)
    read_settings(config)


def test_volumes_of_several_spacings_are_planned_at_their_median(sheets, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(sheets, root)
    for number in range(4):
        stated = [1 if number == 2 else 3, 1, 1]
        (root / "images" / f"v{number}.json").write_text(json.dumps({"spacing": stated}))
    plan = planning.make_plan(config_of(root))
    assert plan.facts.spacing == (3, 1, 1) and plan.facts.spacings_differ
    assert plan.facts.anisotropy == 3
    assert "spacing 3×1×1, not the same in all" in written.facts_in_words(plan.facts)
    assert plan.fields["augment.in_plane_only"] and plan.fields["model.planar_levels"] == 1


def test_labels_with_holes_in_their_values_keep_them(sheets, tmp_path):
    config = relabelled(sheets, tmp_path, lambda label: np.array([0, 7, 200])[label])
    plan = planning.make_plan(config)
    assert plan.facts.values.keys() == {0, 7, 200}
    assert plan.facts.labels[:3] == ((0,), (7,), (200,))
    assert plan.fields["data.foreground"] == (7,) and plan.fields["data.ignore"] == (200,)
    configuration.override(config, plan.fields)
    read_settings(config)


def test_images_of_different_channel_counts_are_refused(sheets, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(sheets, root)
    for number in range(4):
        image = root / "images" / f"v{number}.tif"
        voxels = tifffile.imread(image)
        image.unlink()
        for channel in range(1 + (number > 0)):
            tifffile.imwrite(image.with_name(f"v{number}_000{channel}.tif"), voxels)
    assert command.main([str(root), "--minutes", "5"]) == 1
    said = capsys.readouterr().err
    assert "channel" in said and "v0" in said and said.count("\n") == 1
