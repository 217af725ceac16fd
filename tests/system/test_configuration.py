import subprocess
import sys
from pathlib import Path

import ml_collections
import pytest

import launch
from configs import base
from jax_seg.system import configuration
from tests.conftest import ROOT


def small():
    return ml_collections.ConfigDict({"seed": 1, "data": {"patch": (2, 3), "inner": {"x": 0.5}}})


def test_reader_gives_fields_and_sections_and_knows_what_was_read():
    config = small()
    reader = configuration.Reader(config)
    assert reader.seed == 1
    assert reader.section("data") == {"patch": (2, 3), "inner": {"x": 0.5}}
    reader.refuse_unread()


def test_reader_refuses_fields_that_nobody_read():
    reader = configuration.Reader(small())
    assert reader.data.patch == (2, 3)
    with pytest.raises(ValueError, match=r"data\.inner\.x.*seed"):
        reader.refuse_unread()


def test_reader_names_the_nearest_field():
    with pytest.raises(ValueError, match=r"'data\.pach'; did you mean 'data\.patch'"):
        _ = configuration.Reader(small()).data.pach


def test_a_version_cannot_add_a_field_or_change_a_type():
    config = base.get_config()
    with pytest.raises(AttributeError, match="learning_rte"):
        config.schedule.learning_rte = 1.0
    with pytest.raises(TypeError):
        config.schedule.learning_rate = "fast"


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("data.fold=1", "data.fold", "1"),
        ("data.ignore=2", "data.ignore", (2,)),
        ("data.classes=sheet=1", "data.classes", ("sheet=1",)),
        ("data.patch=(8,8,8)", "data.patch", (8, 8, 8)),
        ("preprocess.per_volume=true", "preprocess.per_volume", True),
        ("train.minutes=8", "train.minutes", 8.0),
    ],
)
def test_a_field_of_a_command_line_has_the_type_that_it_has_in_the_file(argument, field, value):
    config = base.get_config()
    name, given = configuration.parse_override(f"--config.{argument}")
    assert configuration.override(config, {name: given}) == {field: value}
    assert configuration.flat(config)[field] == value


def test_dict_round_trip_keeps_tuples():
    config = base.get_config()
    stored = configuration.as_dict(config)
    assert configuration.from_dict(stored).data.patch == (128, 128, 128)
    assert configuration.differences(config, stored) == []


def test_differences_name_field_and_both_values_but_not_what_may_differ():
    config, stored = small(), configuration.as_dict(small())
    config.seed, config.data.inner.x = 2, 0.75
    assert configuration.differences(config, stored) == ["data.inner.x: 0.5 → 0.75", "seed: 1 → 2"]
    assert configuration.differences(config, stored, ignore=("data", "seed")) == []


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--config.schedule.learning_rat=3", "no field 'schedule.learning_rat'; did you mean"),
        ("--config.colour.hue=0.2", "no field 'colour.hue', which belongs to another kind of data"),
        ("--config.colours.hue=0.2", "no field 'colours.hue'; did you mean 'colour.hue'?"),
        ("--config.schedule.learning_rate=fast", "could not convert string to float: 'fast'"),
        ("--config.data.root=/nowhere", "/nowhere"),
        ("--config=configs/v66.py", "Error: configs/v66.py does not exist; did you mean v6.py?"),
        ("--config=configs/auto.py:demo", "Error: configs/auto.py takes no ':demo'"),
    ],
)
def test_the_command_line_ends_in_one_sentence(argument, message, tmp_path):
    command = [sys.executable, "launch.py", "--config=configs/v6.py", f"--workdir={tmp_path}/run"]
    ended = subprocess.run([*command, argument], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert message in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "source, folder",
    [
        ("configs/v6.py", "runs/v6"),
        ("configs/v6.py:demo", "runs/v6_demo"),
        ("/a/cod10k.py:unet", "runs/cod10k_unet"),
    ],
)
def test_each_argument_of_a_configuration_has_a_workdir(source, folder):
    assert launch.default_workdir(source) == Path(folder)
