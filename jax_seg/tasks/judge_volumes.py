"""Score the whole validation volumes of a run: by sliding window, per volume and together."""

import functools

import jax
import numpy as np

from jax_seg.data.fingerprint import read_pair as read_encoded
from jax_seg.data.writers import write_tiff
from jax_seg.infer import postprocess as postprocessing
from jax_seg.infer.postprocess import by_class
from jax_seg.infer.volume import at_spacing, segment_volume
from jax_seg.metrics import segmentation
from jax_seg.metrics.balance import class_balance, remarks
from jax_seg.ops.classes import ONE, masks_of, numbered, numbers_of, painted, probabilities_of
from jax_seg.system import memory
from jax_seg.system.files import write_json
from jax_seg.tasks import kinds, sources
from jax_seg.tasks.task import stored_scores


def probability_of(logits, classes=ONE):
    """The probability float32 [D, H, W] of foreground of what `segment_volumes` yields last.

    Of several classes it is that of any of them, where they share voxels of the most probable.
    """
    if len(classes.names) == 1:
        return np.asarray(jax.nn.sigmoid(logits))
    of_each = probabilities_of(logits, classes)
    return np.asarray(of_each.sum(-1).clip(max=1) if classes.exclusive else of_each.max(-1))


def segment_volumes(
    network, variables, share=slice(None), *, data, patch, overlap, windows, threshold
):
    """Segment the whole validation volumes by sliding window and count agreement with their labels.

    Both are those of the data set: a volume of another spacing than the run's is resampled, and its
    logits back, as in prediction.

    Args:
      network: of `network.make_network`.
      variables: of the network.
      share: of the validation volumes, a slice of their list.
      data: `Dataset`.
      patch, overlap: of `sliding_window.predict_volume`.
      windows: per call of the network.
      threshold: on the probability.

    Yields:
      (Volume, what `segmentation.count` counts, logits float32 [D, H, W], of several classes
      [D, H, W, classes]), one by one, so that the caller may stop.
    """
    segment = at_spacing(
        functools.partial(
            segment_volume,
            functools.partial(network, variables),
            preprocessing=data.preprocessing,
            patch=patch,
            overlap=overlap,
            batch=windows,
            classes=len(data.table.classes.names),
        ),
        data.spacing,
    )
    for volume in _originals(data)[share]:
        image, label = read_encoded(volume, data.cache, data.table)
        logits = segment(image, spacing=data.spacings[volume.id])
        masks = np.asarray(masks_of(logits, data.table.classes, threshold))
        yield volume, segmentation.count(masks, label, data.table.classes), logits


def evaluate(weights, segment, *, workdir, report, pictures, judged_on, data, steps, target=()):
    """Score a finished run's weights on the whole validation volumes, and store the results.

    Writes `validation/probabilities/<id>.tif` (float16, of the raw weights), the scores of each
    volume as `validation/scores.json`, a picture, and last the pooled scores as `scores.json`,
    which a second call for the same steps reads.

    Args:
      weights: {'raw', 'swa' or 'ema': (step, variables)}.
      segment: variables -> what `segment_volumes` yields.
      workdir: folder of the run, a Path.
      report: called with each line of the log.
      pictures: draws `slices`, see `report.plots`.
      judged_on: `JudgedOn` of the validation volumes, which chose the step of the raw weights.
      data: `Dataset`.
      steps: of post-processing, see `postprocess.apply`; steps beyond a threshold are also scored.
      target: share of predicted background to report on, see `balance.class_balance`; () for none.

    Returns:
      {name: pooled scores with their 'step' and the keys of `JudgedOn`}; the raw weights' with
      post-processing as 'postprocessed'; with a target 'within_background_target' of the raw ones.
    """
    at = {name: step for name, (step, _) in weights.items()}
    of_data = checksums(data.validation, data.validation_facts)
    pairs = {volume.id: (volume.image, volume.label) for volume in _originals(data)}
    if known := stored_scores(workdir, at, of_data, report):
        sources.refresh(workdir / "validation" / "scores.json", of_data, pairs)
        return known
    counts, improved = {}, []
    for name, (_, variables) in weights.items():
        counts[name] = {}
        for volume, found, logits in segment(variables):
            words = segmentation.in_words(segmentation.scores(found))
            report(f"{volume.id} {name}: {words}{judged_on.suffix('volume')}")
            if name == "raw":
                draw = None if counts[name] else pictures.slices
                improved.append(_keep(volume, logits, data, steps, workdir, draw))
            counts[name][volume.id] = found
    pooled = {}
    for name, found in counts.items():
        on = judged_on if name == "raw" else judged_on._replace(chose=())
        what = f"{name} weights of step {at[name]}"
        pooled[name] = _pooled(sum(found.values()), at[name], on, what, report)
    if len(steps) > 1:
        what = f"raw weights and {', '.join(steps)}"
        pooled["postprocessed"] = _pooled(sum(improved), at["raw"], judged_on, what, report)
    if target:
        raw = {id: segmentation.together(found) for id, found in counts["raw"].items()}
        balance = class_balance(raw, target, noun=judged_on.mark())
        pooled["raw"]["within_background_target"] = balance["pooled"]["within_target"]
        report(*remarks(balance, judged_on.mark())["target"])
    volumes = {
        name: {
            id: segmentation.scores(c) | {"labelled": int(c.labelled)} for id, c in found.items()
        }
        for name, found in counts.items()
    }
    kept = {"step": at["raw"], "judged_on": judged_on.as_json(), "volumes": volumes.pop("raw")}
    kept |= {"averages": volumes, "data": of_data, "sources": sources.record(pairs)}
    kept["together"] = {
        id: segmentation.as_json(segmentation.together(found))
        for id, found in counts["raw"].items()
    }
    write_json(workdir / "validation" / "scores.json", kept)
    write_json(workdir / "scores.json", pooled)
    return pooled


def require_memory(data):
    """Refuse validation volumes that memory cannot hold, before hours of training.

    Raises:
      ValueError: it names the first.
    """
    for volume in _originals(data):
        needed = kinds.VOLUMES.needs(volume.image, len(data.table.classes.names))
        memory.require(needed, volume.image, "score it as a whole at the end of the run")


def _originals(data):
    """The validation volumes of a `Dataset` as they were found."""
    return [data.originals[volume.id] for volume in data.validation]


def _pooled(counts, step, on, what, report):
    """The entry of `scores.json` of some weights; reports it."""
    scores = segmentation.scores(counts)
    report(f"All volumes, {what}: {segmentation.in_words(scores)}{on.suffix()}")
    return {"step": step, **on.as_json(), **scores}


def _keep(volume, logits, data, steps, workdir, draw):
    """Write a volume's probabilities; the counts of its post-processed prediction.

    Of several classes the probability of any of them is written, and the label values predicted.
    """
    image, label = read_encoded(volume, data.cache, data.table)
    classes, folder = data.table.classes, workdir / "validation"
    probability = probability_of(logits, classes).astype(np.float16)
    path = folder / "probabilities" / f"{volume.id}.tif"
    write_tiff(path, probability, compression="zlib")
    picture = workdir / "plots" / f"{volume.id}.png"
    if len(classes.names) == 1:
        masks = postprocessing.apply(probability, image, steps)
        if draw:
            draw(image, label, masks, picture, title=volume.id)
    else:
        masks = by_class.apply(logits, image, steps, classes)
        path = folder / "masks" / f"{volume.id}.tif"
        write_tiff(path, painted(masks, classes.values), compression="lzw")
        if draw:
            true = numbers_of(label, classes)
            draw(image, true, numbered(masks), picture, volume.id, classes.names)
    return segmentation.count(masks, label, classes)


def checksums(volumes, facts):
    """{id: checksums of image and label} of volumes and their `Fingerprint`s."""
    return {v.id: one.checksums.tolist() for v, one in zip(volumes, facts, strict=True)}
