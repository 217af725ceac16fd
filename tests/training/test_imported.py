"""Training from the weights of an nnU-Net network."""

import numpy as np
import pytest

from configs import auto, base
from jax_seg import convert
from jax_seg.planning import planned
from jax_seg.runs import checkpoints, from_weights, together
from jax_seg.runs.events import read_events
from jax_seg.system import configuration
from jax_seg.system.files import write_json
from jax_seg.training import run as training
from tests.conftest import GOLDEN, tiny_config

FOLDER = GOLDEN / "nnunet" / "turned"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("imported") / "network"
    convert.convert_folder(FOLDER, workdir)
    return workdir


def configured(root, source):
    config = tiny_config(root)
    defaults = base.get_config()
    config.model, config.data.patch = defaults.model, defaults.data.patch
    config.train.update(start_from=str(source), epochs=2)
    config.schedule.learning_rate = 0.2
    for name in ("flip", "rotate90", "noise", "brightness", "contrast"):
        config.augment[name] = 0.0  # it compiles faster
    return config


def losses(workdir):
    """On the patches held out, by epoch."""
    return [event["loss"] for event in read_events(workdir) if event["kind"] == "validation"]


def test_an_imported_network_improves(volumes_folder, imported, tmp_path):
    """Beyond its own weights: those of a run whose rate is next to nothing."""
    still = configured(volumes_folder, imported)
    from_weights.inherit(still, base.get_config(), "absent")
    still.schedule.learning_rate, still.train.epochs = 1e-9, 1
    training.run(still, tmp_path / "still")
    (before,) = losses(tmp_path / "still")
    config = configured(volumes_folder, imported)
    fields, sentence = from_weights.inherit(config, base.get_config(), "absent")
    assert "model.name=residual_unet" in sentence and fields["preprocess.per_volume"]
    assert config.data.patch == (16, 24, 4) and config.preprocess.region == "box"
    training.run(config, tmp_path / "run")
    saved = checkpoints.open_for_reading(tmp_path / "run")
    assert saved.found()[saved.resolve("latest")].loop["spacing"] == [1000, 1000, 3000]
    assert losses(tmp_path / "run")[-1] < 0.9 * before
    # Its windows are blended as in any run: it is no longer nnU-Net's.
    segment, (network,), _ = together.load([str(tmp_path / "run")])
    assert network.facts["preprocessing"]["region"] == "box"
    volume = np.random.default_rng(0).normal(80, 12, (18, 20, 22)).astype(np.float32)
    dim, bright = (np.asarray(segment(factor * volume)) for factor in (1, 20))
    np.testing.assert_allclose(dim, bright, atol=1e-3)


def test_what_is_set_is_not_inherited(volumes_folder, imported):
    config = configured(volumes_folder, imported)
    config.data.patch, config.preprocess.name = (16, 16, 16), "percentile"
    config.preprocess.low_percentile, config.model.dtype = 2.0, "bfloat16"
    fields, _ = from_weights.inherit(config, base.get_config(), "absent")
    assert "data.patch" not in fields and config.data.patch == (16, 16, 16)
    assert config.preprocess.low_percentile == 2.0 and config.model.dtype == "bfloat16"
    assert config.model.features == (4, 4, 8)
    assert config.data.target_spacing == (1000, 1000, 3000)  # micrometres
    assert from_weights.inherit(config, base.get_config(), "absent") == ({}, "")
    for source in ("", "/moved"):
        config.train.start_from = source
        assert from_weights.inherit(config, base.get_config(), "absent") == ({}, "")


def test_fixed_numbers_of_a_network_become_a_z_score(volumes_folder, tmp_path):
    convert.convert_folder(GOLDEN / "nnunet" / "flat", tmp_path / "network")
    config = configured(volumes_folder, tmp_path / "network")
    from_weights.inherit(config, base.get_config(), "absent")
    assert (config.preprocess.name, config.preprocess.per_volume) == ("zscore", False)
    assert (config.preprocess.low_percentile, config.preprocess.high_percentile) == (0.5, 99.5)


def test_a_plan_keeps_the_network_from_which_a_run_starts(volumes_folder, imported, tmp_path):
    config = auto.get_config()
    given = {"data.root": str(volumes_folder), "train.start_from": str(imported)}
    configuration.override(config, given)
    inherited, _ = from_weights.inherit(config, base.get_config(), "absent")
    assert planned.fill(config, given, tmp_path / "run", inherited)
    assert config.model.name == "residual_unet" and config.model.features == (4, 4, 8)
    assert config.data.patch == (16, 24, 4) and config.preprocess.region == "box"
    assert config.train.epoch_length == "minutes"  # the rest is planned
    # It is resumed when its network has moved: what it inherited lies in its own configuration.
    (tmp_path / "run" / "checkpoints" / "save_2").mkdir(parents=True)
    write_json(tmp_path / "run" / "config.json", configuration.as_dict(config))
    moved, again = imported.rename(tmp_path / "moved"), auto.get_config()
    configuration.override(again, given)
    inherited, _ = from_weights.inherit(again, base.get_config(), tmp_path / "run")
    planned.fill(again, given, tmp_path / "run", inherited)
    assert configuration.differences(again, configuration.as_dict(config)) == []
    moved.rename(imported)
