"""Judging a model: the loss of fixed patches while it trains, and whole volumes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tifffile

from jax_seg.data import pipeline
from jax_seg.data.fingerprint import read_pair
from jax_seg.infer import postprocess
from jax_seg.infer.sliding_window import predict_volume
from jax_seg.metrics import segmentation
from jax_seg.models.camouflage import MOMENTUM
from jax_seg.system.files import read_json, replacing, write_json
from jax_seg.training import console, plateau


def validate_patches(evaluate, variables, sampler, *, weights, batch, threads, seed):
    """Mean loss over the first epoch of a sampler: the same patches at every call.

    Args:
      evaluate: of `step.make_patch_evaluation`.
      variables: of the network.
      sampler: of the validation volumes or images.
      weights: {loss term: weight}.
      batch: patches per call.
      threads: that read ahead.
      seed: of the bootstrap.

    Returns:
      {'loss': mean, term: mean, …, 'standard_error': of the loss, by bootstrap over the volumes; 0
      when there is one volume, or the loss of one is not finite}.
    """
    count = -(-len(sampler) // batch)
    values, numbers = [], []
    reader = pipeline.batches(sampler, batch=batch, start=0, count=count, threads=threads)
    for patches, volumes in pipeline.on_device(reader):
        values.append(jax.device_get(evaluate(variables, patches, weights)))
        numbers.extend(volumes)
    numbers = np.array(numbers[: len(sampler)])
    joined = {name: np.concatenate([v[name] for v in values])[: len(sampler)] for name in values[0]}
    per_volume = [joined["loss"][numbers == n].mean() for n in np.unique(numbers)]
    # Of a loss that is not finite there is no error; `plateau.step` sees to the loss itself.
    several = len(per_volume) > 1 and np.isfinite(per_volume).all()
    error = plateau.bootstrap_noise(per_volume, seed, 1000) if several else 0.0
    return {name: float(v.mean()) for name, v in joined.items()} | {"standard_error": error}


def measure_statistics(see, variables, sampler, *, batch, threads):
    """The statistics of batch norm that given weights have: the mean over an epoch's batches.

    Args:
      see: of `step.make_statistics_pass`.
      variables: of the network.
      sampler: of the training patches or images.
      batch, threads: of `pipeline.batches`.

    Returns:
      `variables` with new 'batch_stats'.
    """
    count = -(-len(sampler) // batch)
    reader = pipeline.batches(sampler, batch=batch, start=0, count=count, threads=threads)
    # From zero a batch leaves 1 - momentum of its own statistics: every batch weighs the same.
    zero = variables | {"batch_stats": jax.tree.map(jnp.zeros_like, variables["batch_stats"])}
    total = zero["batch_stats"]
    for patches, _ in pipeline.on_device(reader):
        total = jax.tree.map(jnp.add, total, see(zero, patches["image"])["batch_stats"])
    mean = jax.tree.map(lambda leaf: leaf / (count * (1 - MOMENTUM)), total)
    return variables | {"batch_stats": mean}


def validate_volumes(network, variables, data, *, patch, overlap, windows, threshold):
    """Segment the whole validation volumes by sliding window and count agreement with their labels.

    Args:
      network: of `network.make_network`.
      variables: of the network.
      data: `Dataset`.
      patch, overlap: of `sliding_window.predict_volume`.
      windows: per call of the network.
      threshold: on the probability.

    Yields:
      (Volume, Confusion, logits float32 [D, H, W]), one by one, so that the caller may stop.
    """
    for volume in data.validation:
        image, label = read_pair(volume, data.cache, data.table)
        logits = predict_volume(
            functools.partial(network, variables),
            image,
            patch=patch,
            overlap=overlap,
            batch=windows,
        )
        prediction = np.asarray(logits > np.log(threshold / (1 - threshold)))
        yield volume, segmentation.confusion(prediction, label), logits


def evaluate_last(weights, segment, *, workdir, log, data, steps):
    """Score a finished run's weights on the whole validation volumes, and keep what was seen.

    Writes `validation/probabilities/<id>.tif` (float16, of the raw weights), the scores of each
    volume as `validation/scores.json`, a picture, and last the pooled scores as `scores.json`: a
    second call for the same steps reads them.

    Args:
      weights: {'raw', 'swa' or 'ema': (step, variables)}.
      segment: variables -> what `validate_volumes` yields.
      workdir: folder of the run, a Path.
      log: logger.
      data: `Dataset`.
      steps: of post-processing, see `postprocess.apply`; more than a threshold is scored, too.

    Returns:
      {name: pooled scores with their 'step'}; the raw weights' with post-processing as
      'postprocessed'.
    """
    from jax_seg.report import plots  # not before: Matplotlib takes half a second to start

    at = {name: step for name, (step, _) in weights.items()}
    if known := scored_already(workdir, at, log):
        return known
    per_volume, pooled, improved = {}, {}, segmentation.Confusion()
    for name, (step, variables) in weights.items():
        total, per_volume[name] = segmentation.Confusion(), {}
        for volume, counts, logits in segment(variables):
            scores = segmentation.scores(counts)
            log.info(f"{volume.id} {name}: {console.figures(scores)}")
            per_volume[name][volume.id] = scores | {"labelled": int(counts.labelled)}
            if name == "raw":
                image, label = read_pair(volume, data.cache, data.table)
                probability = np.asarray(jax.nn.sigmoid(logits), np.float16)
                _keep_probabilities(probability, workdir / "validation", volume.id)
                prediction = postprocess.apply(probability, image, steps)
                improved += segmentation.confusion(prediction, label)
                if not total.labelled:
                    picture = workdir / "plots" / f"{volume.id}.png"
                    plots.slices(image, label, prediction, picture, title=volume.id)
            total += counts
        scores = segmentation.scores(total)
        pooled[name] = {"step": step, **scores}
        log.info(f"All volumes, {name} weights of step {step}: {console.figures(scores)}")
    if len(steps) > 1:
        scores = segmentation.scores(improved)
        pooled["postprocessed"] = {"step": at["raw"], **scores}
        log.info(f"All volumes, raw weights and {', '.join(steps)}: {console.figures(scores)}")
    raw = per_volume.pop("raw")
    kept = {"step": at["raw"], "volumes": raw, "averages": per_volume}
    write_json(workdir / "validation" / "scores.json", kept)
    write_json(workdir / "scores.json", pooled)
    return pooled


def scored_already(workdir, at, log):
    """The scores in `workdir/scores.json` if they are of the steps {name: step}, else None.

    None, too, where they or those of the volumes are damaged: they are made again.
    """
    path, of_volumes = workdir / "scores.json", workdir / "validation" / "scores.json"
    try:
        scores = read_json(path) if path.exists() else {}
        if of_volumes.exists():
            read_json(of_volumes)
    except ValueError as error:
        log.warning(f"{error} The run is scored again.")
        return None
    if {name: scores.get(name, {}).get("step") for name in at} != at:
        return None
    log.info(f"Scored already: {path}")
    return scores


def _keep_probabilities(probability, folder, name):
    with replacing(folder / "probabilities" / f"{name}.tif") as beside:
        tifffile.imwrite(beside, probability, photometric="minisblack", compression="zlib")
