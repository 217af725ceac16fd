"""Find the largest batch that fits, from the memory of the compiled step without running it."""

import os

import jax
import numpy as np

from jax_seg.data.preprocess import Preprocessing
from jax_seg.training import programs
from jax_seg.training.settings import read_settings


def abstract_step(config):
    """(training step, its arguments as shapes and types) of a configuration, without its data."""
    settings = read_settings(config)
    kind, task, plan = settings.kind, settings.task, settings.plan
    shape, preprocessing = kind.sample_shape(task["data"]), Preprocessing(0.0, 1.0, 0.0, 1.0)
    compiled = programs.build(
        **settings.programs,
        shape=shape,
        preprocessing=preprocessing,
        augment=kind.augmentation(preprocessing, **task),
    )
    samples = settings.batch * plan[0].accumulate
    batch = {
        "image": jax.ShapeDtypeStruct((samples, *shape), kind.sample_type(task["data"])),
        "label": jax.ShapeDtypeStruct((samples, *shape[:-1], 1), np.uint8),
    }
    one = jax.ShapeDtypeStruct((), np.float32)
    knobs = {
        "learning_rates": dict.fromkeys(plan[0].rates, one),
        "loss_weights": dict.fromkeys(plan[0].loss_weights, one),
    }
    state = jax.eval_shape(compiled.fresh_state)
    return compiled.train_step, (state, batch, knobs, plan[0].accumulate)


def step_bytes(config):
    """Bytes that a training step of the configuration holds on the device, as compiled.

    Weights, optimizer state, the batches of one update and all intermediate results, as reported by
    the compiler.
    """
    step, arguments = abstract_step(config)
    memory = step.lower(*arguments).compile().memory_analysis()
    return (
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


def find_batch(config, limit_bytes, report=print):
    """Double the batch while the training step fits, with and without rematerialisation.

    Args:
      config: ConfigDict; data.batch and, if the network has it, model.rematerialise are varied.
      limit_bytes: memory of the device.
      report: called with each line of the table.

    Returns:
      {rematerialise: largest batch that fits, 0 if none does}.
    """
    report(f"{'batch':>6} {'rematerialise':>14} {'GiB':>8}   of {limit_bytes / 2**30:.1f} GiB")
    largest = {}
    for rematerialise in (False, True) if "rematerialise" in config.model else (False,):
        batch, largest[rematerialise] = 1, 0
        while True:
            tried = config.copy_and_resolve_references()
            tried.data.batch = batch
            if "rematerialise" in tried.model:
                tried.model.rematerialise = rematerialise
            needed = step_bytes(tried)
            fits = needed <= limit_bytes
            report(
                f"{batch:>6} {rematerialise!s:>14} {needed / 2**30:>8.2f}"
                + ("" if fits else "   does not fit")
            )
            if not fits:
                break
            largest[rematerialise] = batch
            batch *= 2
    return largest


def device_bytes():
    """Memory of the first device in bytes; on a CPU, of the machine."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
