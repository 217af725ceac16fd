"""Folders of runs without training: random weights under the steps and averages that are asked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_seg import models
from jax_seg.data import folds
from jax_seg.data.folder import find_volumes
from jax_seg.runs import checkpoints
from jax_seg.system import configuration
from jax_seg.system.files import write_json
from jax_seg.training import state
from tests.conftest import tiny_config

FIXED = {"low": 0.0, "high": 255.0, "shift": 0.0, "scale": 1 / 255}


def write_run(
    workdir, root, *, steps=(1,), averages=("swa", "ema"), averaged=1, change=None, rule=FIXED
):
    """A run of the tiny configuration on the volumes of `root`, with a checkpoint at each step.

    Every checkpoint and every average has weights of its own, and the first step is the best.
    """
    config = tiny_config(root)
    config.validate.metric = "dice"
    config.postprocess.steps = ()
    config.model.in_channels = 1  # as a run finds in its data
    if change:
        change(config)
    stored = configuration.as_dict(config)
    volumes, fold = find_volumes(root), config.data.fold
    training, validation = folds.split(
        [volume.id for volume in volumes],
        [volume.scroll_id for volume in volumes],
        fold=int(fold) if fold.isdigit() else fold,
        folds=config.data.folds,
    )
    write_json(workdir / "config.json", stored)
    model = models.build(**stored["model"])
    manager = checkpoints.open_checkpoints(workdir, metric="dice", keep=len(steps))

    def weights(*seed):
        generator = np.random.default_rng(seed)
        image = jnp.zeros((1, *config.data.patch, config.model.in_channels))
        shapes = jax.eval_shape(model.init, jax.random.key(0), image) | {"batch_stats": {}}
        return jax.tree.map(
            # Without biases: a constant one would make masks that are full or empty.
            lambda leaf: jnp.asarray(
                generator.normal(0, 0.3 * (leaf.ndim > 1), leaf.shape), jnp.float32
            ),
            shapes,
        )

    name = sum(workdir.name.encode())
    for number, step in enumerate(steps):
        fresh = state.create(weights(name, step, 0), optax.identity(), averages)
        kept = {kind: weights(name, step, n) for n, kind in enumerate(averages, 1)}
        checkpoints.save(
            manager,
            fresh._replace(step=jnp.asarray(step, jnp.int32), averages=kept),
            {
                "epoch": number,
                "loop": {"averaged": averaged},
                "config": stored,
                "split": {"training": training, "validation": validation},
                "preprocessing": rule,
                "code_version": "test",
            },
            {"dice": 1.0 - number / 10},
        )
    checkpoints.wait(manager)
    manager.close()
    return workdir
