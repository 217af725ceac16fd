"""Judging a model while it trains: the loss of fixed patches, and whole volumes."""

import functools

import jax
import numpy as np

from jax_seg.data import pipeline
from jax_seg.data.fingerprint import read_pair
from jax_seg.infer.sliding_window import predict_volume
from jax_seg.metrics import segmentation


def validate_patches(evaluate, params, sampler, *, weights, batch, threads):
    """Mean loss over the first epoch of a sampler: the same patches at every call.

    Args:
      evaluate: of `step.make_patch_evaluation`.
      params: parameters.
      sampler: `PatchSampler` of the validation volumes.
      weights: {loss term: weight}.
      batch: patches per call.
      threads: that read ahead.

    Returns:
      ({'loss': mean, term: mean, …}, [volumes] mean loss of each volume).
    """
    count = -(-len(sampler) // batch)
    values, numbers = [], []
    reader = pipeline.batches(sampler, batch=batch, start=0, count=count, threads=threads)
    for patches, volumes in pipeline.on_device(reader):
        values.append(jax.device_get(evaluate(params, patches, weights)))
        numbers.extend(volumes)
    numbers = np.array(numbers[: len(sampler)])
    joined = {name: np.concatenate([v[name] for v in values])[: len(sampler)] for name in values[0]}
    per_volume = [joined["loss"][numbers == n].mean() for n in np.unique(numbers)]
    return {name: float(value.mean()) for name, value in joined.items()}, per_volume


def validate_volumes(network, params, data, *, patch, overlap, windows, threshold):
    """Segment the whole validation volumes by sliding window and count agreement with their labels.

    Args:
      network: of `step.make_network`.
      params: parameters.
      data: `Dataset`.
      patch, overlap: of `sliding_window.predict_volume`.
      windows: per call of the network.
      threshold: on the probability.

    Yields:
      (Volume, Confusion, prediction bool [D, H, W]), one by one, so that the caller may stop.
    """
    logit = np.log(threshold / (1 - threshold))
    for volume in data.validation:
        image, label = read_pair(volume, data.cache, data.table)
        logits = predict_volume(
            functools.partial(network, params), image, patch=patch, overlap=overlap, batch=windows
        )
        prediction = np.asarray(logits > logit)
        yield volume, segmentation.confusion(prediction, label), prediction
