"""The loss on fixed validation patches, and batch norm statistics for averaged weights."""

import jax
import numpy as np

from jax_seg.data import pipeline
from jax_seg.system.devices import ONE
from jax_seg.training import plateau


def validate_patches(evaluate, variables, sampler, *, weights, batch, threads, devices=ONE):
    """Mean loss over the first epoch of a sampler: the same patches at every call.

    Args:
      evaluate: of `step.make_patch_evaluation`.
      variables: of the network.
      sampler: of the validation volumes or images.
      weights: {loss term: weight}.
      batch: patches per call.
      threads: number of threads that read ahead.
      devices: `Devices` that share every batch.

    Returns:
      {'loss': mean, term: mean, …, 'standard_error': of the loss, by bootstrap over the volumes; 0
      for a single volume, or if the loss of one is not finite}.
    """
    values, numbers = [], []
    for patches, volumes in pipeline.first_epoch(
        sampler, batch=batch, threads=threads, devices=devices
    ):
        values.append(evaluate(variables, patches, weights))
        jax.block_until_ready(values[-2:-1])  # batches that wait for their turn take memory
        numbers.extend(volumes)
    values = jax.device_get(values)
    numbers = np.array(numbers[: len(sampler)])
    joined = {name: np.concatenate([v[name] for v in values])[: len(sampler)] for name in values[0]}
    per_volume = [joined["loss"][numbers == n].mean() for n in np.unique(numbers)]
    # A non-finite loss has no standard error; `plateau.step` handles the loss itself.
    several = len(per_volume) > 1 and np.isfinite(per_volume).all()
    error = plateau.standard_error(per_volume) if several else 0.0
    return {name: float(v.mean()) for name, v in joined.items()} | {"standard_error": error}


def measure_statistics(batch_stats_of, variables, sampler, *, batch, threads, devices=ONE):
    """Batch norm statistics of given weights: the mean over an epoch's batches.

    Args:
      batch_stats_of: of `step.make_statistics_pass`.
      variables: of the network.
      sampler: of the training patches or images.
      batch, threads, devices: of `pipeline.batches`.

    Returns:
      `variables` with new 'batch_stats'.
    """
    found = []
    options = {"batch": batch, "threads": threads, "devices": devices}
    for patches, _ in pipeline.first_epoch(sampler, **options):
        found.append(batch_stats_of(variables, patches["image"]))
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *found)
    return variables | {"batch_stats": mean}
