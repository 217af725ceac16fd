"""Every configuration of the plan against the table of its values."""

import importlib
import re
from pathlib import Path

import pytest

from configs import base
from jax_seg.infer import postprocess
from jax_seg.system import configuration
from jax_seg.training import settings

# file, batch, epochs, learning rate, dice focal variance boundary clDice connectivity, alpha,
# class weights of background and foreground.
TABLE = """
jan07_original   2 300 5e-3    .3  .4  0   .15 .10 .05 .34 1.94 .52
jan07_update1    2 300 5e-4    .3  .4  0   .15 .10 .05 .34 1.94 .52
jan07_update2    2 300 1e-4    .5  .5  0   0   0   0   .34 1.94 .52
v0_extreme       2 50  1e-3    .2  .4  .3  .05 .05 0   .95 12   1
v0_moderate      2 50  5e-4    .2  .4  .3  .05 .05 0   .75 6    1
v1               2 300 1e-4    .2  .4  .3  .05 .05 0   .75 2.94 1.52
v2               2 300 1e-4    .4  .25 .2  .1  .05 0   .4  1    3
v3               2 50  1e-4    .5  .15 .15 .15 .05 0   .3  .8   3.6
v2_optimized     2 300 1e-4    .4  .25 .2  .1  .05 0   .4  1    2
v4               2 300 2e-4    .45 .15 .25 .15 .05 0   .3  1    5
v5               2 300 1e-4    .3  .15 .5  .05 0   0   .4  1    2
v5_salvaged      4 300 1e-4    .7  .15 .1  .05 0   0   .4  1    2
fixed            2 300 1e-4    .5  .3  .1  .05 0   0   .5  2.94 1.52
batch8           8 300 2e-4    .5  .3  .1  .05 0   0   .5  2.94 1.52
batch12         12 300 2.45e-4 .5  .3  .1  .05 0   0   .5  2.94 1.52
escape           8 300 2e-4    .7  .2  .05 .05 0   0   .5  2.94 1.52
conservative    12 500 2.45e-4 .75 .15 .1  0   0   0   .5  2.94 1.52
combo           12 500 5e-4    .75 .15 0   0   0   0   .5  2.94 1.52
dice_only       12 500 2.45e-4 1   0   0   0   0   0   .5  1    1
wide            12 500 2.45e-4 .75 .15 .1  0   0   0   .5  2.94 1.52
adamw           12 500 2.45e-4 .75 .15 .1  0   0   0   .5  2.94 1.52
curriculum      12 500 2.45e-4 .75 .15 .1  0   0   0   .5  2.94 1.52
v6               4 100 1e-3    .8  .15 0   .05 0   0   .35 1    1.5
v7               8 100 1e-3    .75 .15 .1  0   0   0   .35 1    1.5
v8               8 100 5e-4    1   0   0   0   0   0   .35 1    1
v9               8 50  5e-4    .85 .10 .03 .02 0   0   .4  1    1
"""
COLUMNS = (
    "data.batch",
    "train.epochs",
    "schedule.learning_rate",
    "loss.weights.dice",
    "loss.weights.focal",
    "loss.weights.variance",
    "loss.weights.boundary",
    "loss.weights.cldice",
    "loss.weights.connectivity",
    "loss.focal_alpha",
    "loss.background_weight",
    "loss.foreground_weight",
)
ROWS = {line.split()[0]: line.split()[1:] for line in TABLE.strip().splitlines()}

COMMON = {
    "model.in_channels": 0,
    "model.out_channels": 1,
    "model.filters": 32,
    "model.poolings": 4,
    "data.patch": (128, 128, 128),
    "data.folds": 5,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.99,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 0.01,
    "optimizer.clip_norm": 0.5,
    "loss.focal_gamma": 2.0,
    "schedule.name": "cosine_restarts",
    "schedule.warmup_epochs": 5,
    "schedule.t_0": 10,
    "schedule.t_mult": 2,
    "schedule.eta_min": 1e-6,
    "average.swa_start": 40,
    "average.swa_every": 5,
    "average.swa_learning_rate": 5e-5,
    "noise.start_epoch": 30,
    "noise.every": 10,
    "noise.std": 0.001,
    "noise.decay": 0.9,
    "noise.patterns": ("decoder", "output"),
    "plateau.patience": 50,
    "plateau.rollback_fraction": 0.15,
    "plateau.worse_epochs": 3,
    "plateau.rule": "aggressive",
    "validate.threshold": 0.5,
    "postprocess.steps": ("remove_small:voxels=100", "fill_holes:voxels=50"),
}
JANUARY = {
    "model.poolings": 5,
    "optimizer.weight_decay": 1e-5,
    "optimizer.clip_norm": 2.0,
    "schedule.name": "plateau",
    "schedule.warmup_epochs": 10,
    "reduction.patience": 8,
    "reduction.factor": 0.5,
    "average.swa_every": 0,
    "noise.std": 0.0,
}
RECOVERY = {
    "schedule.name": "plateau",
    "reduction.patience": 5,
    "reduction.factor": 0.5,
    "plateau.rule": "conservative",
}
SIXTH = {
    "schedule.name": "plateau",
    "schedule.warmup_epochs": 2,
    "reduction.patience": 5,
    "reduction.factor": 0.5,
    "reduction.threshold": 1e-3,
    "optimizer.weight_decay": 1e-4,
    "plateau.rule": "capped",
    "plateau.maximum_scale": 5.0,
    "plateau.patience": 25,
}
QUIET = {"average.swa_every": 0, "noise.std": 0.0}
BALANCED = {"validate.background_target": (0.3, 0.7)}  # what the notes aim at before v2
FIFTH = {
    "plateau.rule": "conservative",
    "average.swa_start": 30,
    "noise.start_epoch": 10,
    "noise.every": 2,
    "noise.std": 0.005,
}
OTHER = {
    "jan07_original": JANUARY
    | {
        "schedule.warmup_epochs": 0,
        "optimizer.clip_norm": 1.0,
        "reduction.patience": 5,
        "reduction.factor": 0.3,
    },
    "jan07_update1": JANUARY,
    "jan07_update2": JANUARY | {"model.poolings": 5, "train.log_every": 50},
    "v0_moderate": {"optimizer.weight_decay": 0.1, "average.swa_start": 30} | BALANCED,
    "v1": BALANCED,
    "v2": {"validate.threshold": 0.7},
    "v3": {"validate.threshold": 0.8, "average.swa_start": 30},
    "v2_optimized": {"validate.threshold": 0.6, "average.swa_start": 50},
    "v4": {
        "schedule.t_0": 8,
        "schedule.warmup_epochs": 3,
        "average.swa_start": 20,
        "average.swa_learning_rate": 1e-4,
        "average.swa_every": 3,
        "noise.start_epoch": 15,
        "noise.every": 5,
        "noise.std": 0.002,
        "noise.decay": 0.85,
        "validate.threshold": 0.6,
        "plateau.patience": 60,
    },
    "v5": FIFTH,
    "v5_salvaged": FIFTH,
    "escape": {"plateau.rule": "escape"},
    "conservative": RECOVERY,
    "combo": RECOVERY | {"reduction.patience": 999},
    "dice_only": RECOVERY,
    "wide": RECOVERY | {"model.filters": 64},
    "adamw": RECOVERY | {"optimizer.name": "adamw"},
    "curriculum": RECOVERY | {"validate.metric": "dice"},
    "v6": SIXTH | QUIET | {"plateau.patience": 20},
    "v7": SIXTH | QUIET,
    "v8": SIXTH | QUIET,
    "v9": SIXTH
    | {
        "reduction.patience": 8,
        "average.swa_start": 30,
        "noise.start_epoch": 50,
        "validate.metric": "dice",
    },
}
# Epochs of each stage, with its weights of dice, focal, variance and boundary.
STAGES = {
    "curriculum": {(0, 50): (1, 0, 0, 0), (51, 499): (0.75, 0.15, 0.1, 0)},
    "v9": {
        (0, 30): (1, 0, 0, 0),
        (31, 39): (0.95, 0.05, 0, 0),
        (40, 49): (0.85, 0.10, 0.03, 0.02),
    },
}


def load(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


def test_there_is_a_file_for_every_row():
    files = {path.stem for path in (Path(base.__file__).parent).glob("*.py")}
    assert set(ROWS) <= files


@pytest.mark.parametrize("name", ROWS)
def test_a_version_has_the_values_of_the_table_and_of_the_base(name):
    config, defaults = configuration.flat(load(name)), configuration.flat(base.get_config())
    expected = (
        COMMON | dict(zip(COLUMNS, map(float, ROWS[name]), strict=True)) | OTHER.get(name, {})
    )
    for field, value in expected.items():
        assert config[field] == value, field
    for field, value in config.items():  # and nothing else differs from the base
        if field not in expected and not field.startswith("stages."):
            assert value == defaults[field], field


@pytest.mark.parametrize("name", ROWS)
def test_stages_and_steps_are_accepted(name):
    config = load(name)
    plan = settings.read_plan(configuration.Reader(config))
    found = {
        (stage.first, stage.last): tuple(
            float(stage.loss_weights.get(term, 0))
            for term in ("dice", "focal", "variance", "boundary")
        )
        for stage in plan
    }
    if name in STAGES:
        assert found.keys() == STAGES[name].keys()
        for epochs, weights in STAGES[name].items():
            assert found[epochs] == pytest.approx(weights)
    else:
        assert list(found) == [(0, config.train.epochs - 1)]
    postprocess.parse_all(config.postprocess.steps)


@pytest.mark.parametrize("name", ROWS)
def test_the_demo_keeps_the_character(name):
    """Epochs and all that counts them shrink by one factor; what is computed stays."""
    config, demo = load(name), load(name, "demo")
    factor = demo.train.epochs / config.train.epochs
    for section, field in (
        ("schedule", "warmup_epochs"),
        ("schedule", "t_0"),
        ("average", "swa_start"),
        ("average", "swa_every"),
        ("noise", "start_epoch"),
        ("noise", "every"),
        ("reduction", "patience"),
        ("plateau", "patience"),
        ("plateau", "worse_epochs"),
    ):
        before, after = config[section][field], demo[section][field]
        assert after == (max(round(before * factor), 1) if before else 0), field
    assert demo.loss == config.loss and demo.optimizer == config.optimizer
    assert demo.plateau.rule == config.plateau.rule and demo.model.filters < config.model.filters
    plan = settings.read_plan(configuration.Reader(demo))
    assert plan[-1].last == demo.train.epochs - 1
    assert len(plan) == max(len(config.stages), 1)
    if demo.average.swa_every:
        assert demo.average.swa_start < demo.train.epochs


@pytest.mark.parametrize("arg, side", [("", 128), ("192", 192), ("256", 256), ("demo", 48)])
def test_the_surface_recipe_grows_its_patches(arg, side):
    config = load("surface", arg)
    assert config.data.patch == (side,) * 3
    plan = settings.read_plan(configuration.Reader(config))
    assert plan[-1].last == config.train.epochs - 1
    assert set(plan[0].loss_weights) == {"dice", "cross_entropy", "skeleton_recall"}
    model = settings.read_programs(configuration.Reader(config), tuple(plan[0].loss_weights))
    assert model["model"]["name"] == "residual_unet" and model["averages"] == ("ema",)
    if arg.isdigit():  # it continues another run, at a lower rate
        assert config.schedule.learning_rate < load("surface").schedule.learning_rate
        with pytest.raises(ValueError, match=":64"):
            load("surface", "64")


def test_another_argument_is_refused():
    with pytest.raises(ValueError, match=":fast"):
        load("v6", "fast")


@pytest.mark.parametrize("name", [*ROWS, "demo"])
def test_a_version_says_what_changed_why_how_to_run_it_and_what_came_of_it(name):
    told = importlib.import_module(f"configs.{name}").__doc__
    for part in (
        rf"\A\S.*\.\n\n(?: .*\n)*    python launch\.py --config configs/{name}\.py "
        r"--config\.data\.root=FOLDER",
        r"^Changed(?: from .*)?: ",
        r"^Why: ",
        r"^(?:Observed\b.*: |Not run in the notes\.)",
    ):
        assert re.search(part, told, re.MULTILINE), part
