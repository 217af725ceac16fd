"""What eight virtual devices compute, for tests/training/test_devices.py: a process of its own.

    python -m tests.on_devices DATA OUTPUT

writes OUTPUT/results.json. DATA is a folder of `conftest.write_volumes`.
"""

import collections
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_seg.data.preprocess import PerVolume, as_array, measure, stored
from jax_seg.infer.network import make_network
from jax_seg.models.unet import Model
from jax_seg.report import plots
from jax_seg.runs import checkpoints
from jax_seg.system.devices import arrange, shared
from jax_seg.training import programs
from jax_seg.training import run as training
from jax_seg.training.find_batch import abstract_programs
from jax_seg.training.settings import read_settings
from tests import shared_programs
from tests.conftest import tiny_config

TERMS = {"dice": 0.5, "focal": 0.3, "variance": 0.2}
COLLECTIVE = re.compile(r"= (\S+) (all-gather|all-to-all|collective-permute)(?:-start)?\(")


def configured(root, count, space=1):
    config = tiny_config(root)
    config.data.update(batch=8, patches_per_volume=8)
    config.train.accumulate = 2
    config.devices.update(count=count, space=space)
    config.schedule.learning_rate = 0.3
    config.average.ema_decay = 0.5
    config.noise.update(start_epoch=1, every=1, std=0.01)
    config.validate.volumes_every = 0
    config.loss.weights.update(TERMS)
    return config


def one_step(root, count, space, preprocessing):
    """(change of the weights, metrics, collectives) of one update of two parts.

    Its programs are those of the runs here.
    """
    config = configured(root, count, space)
    settings = read_settings(config)
    devices, kind = settings.devices, settings.kind
    built = programs.build(
        **settings.programs,
        shape=kind.sample_shape(settings.task["data"]),
        preprocessing=preprocessing,
        augment=kind.augmentation(preprocessing, **settings.task),
        devices=devices,
    )
    generator = np.random.default_rng(0)
    shape = (16, 16, 16, 16, 1)
    batch = devices.place(
        {
            "image": generator.integers(0, 200, shape).astype(np.uint8),
            "label": generator.integers(0, 3, shape).astype(np.uint8),
        }
    )
    knobs = {
        "learning_rates": {"all": np.float32(0.1)},
        "loss_weights": {name: np.float32(weight) for name, weight in TERMS.items()},
    }
    state = devices.replicate(built.fresh_state())
    before = jax.device_get(state.params)
    text = built.train_step.trace(state, batch, knobs, 2).lower().compile().as_text()
    state, metrics = built.train_step(state, batch, knobs, 2)
    after = jax.device_get((state.params, state.averages["ema"]["params"]))
    metrics = {name: float(metrics[name]) for name in (*TERMS, "loss", "gradient_norm")}
    moved = collections.Counter(f"{kind} {shape}" for shape, kind in COLLECTIVE.findall(text))
    change = np.concatenate([flat(one) - flat(before) for one in after])
    return change, metrics, moved


def for_gpus(root, count, space):
    """{program: its text for GPUs} in bfloat16 of those that devices share."""
    config = configured(root, count, space)
    config.model.dtype = "bfloat16"
    found = abstract_programs(config, arrange(count=count, space=space))
    return {
        name: found[name][0].trace(*found[name][1]).lower(lowering_platforms=("cuda",)).as_text()
        for name in ("train", "validate")
    }


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def trained(root, workdir, *starts):
    """Scores, weights and preprocessing of a run of starts (devices, space, epochs to its end)."""
    for count, space, epochs in starts:
        config = configured(root, count, space)
        config.train.epochs = epochs
        scores = training.run(config, workdir)
    variables, beside, _ = checkpoints.read_variables(workdir, "latest", "ema")
    return scores, flat(variables), stored(beside["preprocessing"])


def normalised_by_itself():
    """Distance of the logits of five windows, normalised by numbers of their own, on one device."""
    rule, generator = PerVolume("zscore", 0.0, 100.0, "all"), np.random.default_rng(0)
    windows = generator.integers(0, 200, (5, 8, 8, 8, 1)).astype(np.uint8)
    model = Model(filters=2, poolings=1)
    variables = model.init(jax.random.key(0), windows.astype(np.float32))
    network, own = make_network(model, rule), as_array(measure(windows[0, ..., 0], rule)[0])
    alone = network(variables, windows, own=own)
    return distance(shared(network, arrange(count=8))(variables, windows, own=own), alone)


def distance(ours, expected):
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


def main(root, output):
    """Write what `test_devices` looks at."""
    shared_programs.share(pytest.MonkeyPatch())
    for picture in ("slices", "learning_curve"):  # drawing takes longer than training here
        setattr(plots, picture, lambda *_, **__: None)
    scores, weights, preprocessing = trained(root, output / "one", (1, 1, 2))
    expected, metrics, *_ = one_step(root, 1, 1, preprocessing)
    results = {"metrics": {"1": metrics}, "distance": {}, "moved": {}, "for_gpu": {}, "runs": {}}
    for count, space in ((8, 1), (4, 2)):
        name = f"{count} {space}"
        change, results["metrics"][name], moved = one_step(root, count, space, preprocessing)
        results["distance"][name], results["moved"][name] = distance(change, expected), moved
        results["for_gpu"][name] = for_gpus(root, count, space)
    found, resumed, _ = trained(root, output / "several", (8, 1, 1), (4, 2, 2))
    results["runs"] = {"dice": [scores["dice"], found["dice"]]}
    results["runs"]["distance"] = distance(resumed, weights)
    results["normalised_by_itself"] = normalised_by_itself()
    (output / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
