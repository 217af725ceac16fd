"""Volumes: training on patches, scoring whole volumes by sliding windows."""

import functools
from pathlib import Path

import jax
import numpy as np

from jax_seg.data import dataset, folder
from jax_seg.data.augment import augment as augment_batch
from jax_seg.data.cache import source
from jax_seg.data.fingerprint import read_pair as read_encoded
from jax_seg.data.intensities import blended
from jax_seg.data.labels import encode
from jax_seg.data.preprocess import stored as stored_preprocessing
from jax_seg.data.readers import read_image, read_volume
from jax_seg.data.readers.contract import channels_of
from jax_seg.data.sampling import PatchSampler, check_patch
from jax_seg.data.writers import write_tiff
from jax_seg.infer import postprocess as postprocessing
from jax_seg.infer.postprocess import by_class
from jax_seg.infer.volume import at_spacing, segment_volume
from jax_seg.metrics import segmentation
from jax_seg.metrics.balance import class_balance, remarks, require_target
from jax_seg.ops.classes import MASKED, ONE, masks_of, members, painted, probabilities_of
from jax_seg.system.files import write_json
from jax_seg.tasks import kinds, sources
from jax_seg.tasks.task import Task, stored_scores

NOUN, POINT, SAMPLES = "volume", "voxel", "patches"
TUNABLE = True
WORST = 1
PREDICTION = kinds.VOLUMES
FIELDS = {
    "data": (
        *("name", "root", "images", "labels", "background", "foreground", "ignore"),
        "classes",
        *("fold", "folds", "group", "split_seed", "threads", "cache", "cache_gb"),
        *("patch", "patches_per_volume", "foreground_share", "balance_target"),
        *("spacing", "resample"),
    ),
    "synthetic": None,
    "preprocess": None,
    "augment": None,
    "validate": ("patches_per_volume", "overlap", "windows", "threshold", "background_target"),
    "postprocess": ("steps",),
}


def prepare(
    workdir, preprocessing, *, seed, data, synthetic, preprocess, augment, validate, postprocess
):
    """The `Task` of a configuration of volumes.

    Args:
      workdir: folder of the run, where the cache and generated volumes lie by default.
      preprocessing: dict of the stored `Preprocessing`; None fits it to the training volumes.
      seed: of the patches.
      data, synthetic, preprocess, augment, validate, postprocess: sections of the configuration.

    Raises:
      ValueError, FileNotFoundError: bad input, naming the file or the field.
    """
    found = prepare_data(
        workdir, preprocessing, data=data, synthetic=synthetic, preprocess=preprocess
    )
    threshold, target = validate["threshold"], tuple(validate["background_target"])
    if target:
        require_target(target, "validate.background_target")
    return Task(
        train=_sampler(found, "train", data, data["patches_per_volume"], seed),
        validation=_sampler(found, "validation", data, validate["patches_per_volume"], seed + 1),
        train_ids=[volume.id for volume in found.train],
        validation_ids=[volume.id for volume in found.validation],
        checksums=_checksums(found.train, found.train_facts)
        | _checksums(found.validation, found.validation_facts),
        shape=sample_shape(data, found.channels),
        preprocessing=found.preprocessing,
        augment=augmentation(found.preprocessing, augment=augment),
        segment=functools.partial(
            segment_volumes,
            data=found,
            patch=tuple(data["patch"]),
            overlap=validate["overlap"],
            windows=validate["windows"],
            threshold=threshold,
        ),
        evaluate=functools.partial(
            evaluate,
            data=found,
            steps=postprocessing.after_threshold(postprocess["steps"], threshold),
            target=target,
        ),
        samples=SAMPLES,
        wholes=f"{NOUN}s",
        about=_about(found),
        remarks=found.remarks,
        spacing=found.spacing,
        classes=found.table.classes,
    )


def channels(data):
    """Number of channels of the images, from the headers of one; 1 if no data is named."""
    if data["name"] == "synthetic" or not data["root"]:
        return 1
    found = folder.find_volumes(data["root"], images=data["images"], labels=data["labels"])
    return channels_of(source(found[0].image))


def sample_shape(data, channels=1):
    """Shape of a patch, channels last; `data` is the section of the configuration."""
    return (*check_patch(data["patch"]), channels)


def sample_type(data):
    """Type in which patches are sent to the device; float32, the largest, if no data is named."""
    if data["name"] == "synthetic":
        return np.dtype(np.uint8)
    if not data["root"]:
        return np.dtype(np.float32)
    found = folder.find_volumes(data["root"], images=data["images"], labels=data["labels"])
    return dataset.sample_type(volume.image for volume in found)


def augmentation(_preprocessing, *, augment, **_):
    """(key, batch) -> batch, from the section `augment`."""
    return functools.partial(augment_batch, apart=True, **augment)


def prepare_data(workdir, preprocessing=None, *, data, synthetic, preprocess, **_):
    """The `Dataset` of a configuration; arguments and errors as of `prepare`."""
    root, fold = data_root(workdir, data, synthetic), data["fold"]
    return dataset.prepare(
        root,
        images=data["images"],
        labels_folder=data["labels"],
        background=data["background"],
        foreground=data["foreground"],
        ignore=data["ignore"],
        fold=int(fold) if fold.isdigit() else fold,
        fold_count=data["folds"],
        group=data["group"],
        seed=data["split_seed"],
        cache_directory=data["cache"] or Path(workdir) / "cache",
        cache_gb=data["cache_gb"],
        threads=max(data["threads"], 1),
        preprocess=preprocess,
        preprocessing=preprocessing and stored_preprocessing(preprocessing),
        voxels=data.get("spacing", ()),
        resample=data.get("resample", "auto"),
        classes=data.get("classes", ()),
    )


def data_root(workdir, data, synthetic):
    """The folder of the data set; generated volumes are written to `workdir` once.

    Raises:
      ValueError: data.root is missing, or names a folder beside generated volumes.
    """
    root = data["root"]
    if data["name"] == "synthetic":
        if root:
            raise ValueError(
                f"data.root is {root}, but data.name is 'synthetic', which generates its volumes: "
                "pass --config.data.name=folder too."
            )
        return dataset.write_synthetic(Path(workdir) / "data", **synthetic)
    if not root:
        raise ValueError(
            "data.root is empty; pass --config.data.root=FOLDER, or --config.data.name="
            "synthetic for generated volumes."
        )
    return root


def labelled(root, images="", labels=""):
    """Every labelled `Volume` of a data set by its id; errors as of `find_volumes`."""
    return {volume.id: volume for volume in folder.find_volumes(root, images=images, labels=labels)}


def read_pair(volume, table):
    """A volume's image as stored, [D, H, W] or [D, H, W, C], and its label encoded by a table."""
    return read_image(volume.image), encode(read_volume(volume.label), table, volume.label)


def read_middle(volume, sampler, box_of):
    """A part of a large volume, as training reads it.

    Args:
      volume: Volume.
      sampler: `PatchSampler` that it belongs to.
      box_of: shape -> (first voxel, size) of the part.

    Returns:
      (image [d, h, w] as stored, or several channels `blended`; encoded label, first voxel, shape
      of the whole volume, name of its scroll or '').
    """
    image, label = sampler.cache.open(volume.image), sampler.cache.open(volume.label)
    start, size = box_of(image.shape)
    encoded = encode(label.read(start, size), sampler.table, volume.label)
    scroll = str(volume.scroll_id or "")
    return blended(image.read(start, size)), encoded, start, tuple(image.shape), scroll


def read_probability(path):
    """The probabilities [D, H, W] that `evaluate` wrote."""
    return read_volume(path)


def probability_of(logits, classes=ONE):
    """The probability float32 [D, H, W] of foreground of what `segment_volumes` yields last.

    Of several classes it is that of any of them, where they share voxels of the most probable.
    """
    if len(classes.names) == 1:
        return np.asarray(jax.nn.sigmoid(logits))
    of_each = probabilities_of(logits, classes)
    return np.asarray(of_each.sum(-1).clip(max=1) if classes.exclusive else of_each.max(-1))


def segmenter(network, config, preprocessing, *, overlap=None, windows=None, name=""):
    """How a trained network segments a volume of any size.

    Args:
      network: of `network.make_network`.
      config: ConfigDict of the run.
      preprocessing: `Preprocessing` or `PerVolume` of the network.
      overlap, windows: of `predict_volume`; None takes the run's.
      name: of the run, for messages.

    Returns:
      ((variables, volume [D, H, W] or [D, H, W, C] as stored) -> float32 logits [D, H, W] on the
      device, dict of the options that decide the result).
    """
    overlap = config.validate.overlap if overlap is None else overlap
    options = {
        "patch": config.data.patch,
        "overlap": overlap,
        "batch": config.validate.windows if windows is None else windows,
        "classes": config.model.out_channels,
    }

    def segment(variables, volume):
        return segment_volume(
            functools.partial(network, variables), volume, preprocessing, **options
        )

    return segment, {"patch": list(config.data.patch), "overlap": overlap}


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
    checksums = _checksums(data.validation, data.validation_facts)
    pairs = {volume.id: (volume.image, volume.label) for volume in _originals(data)}
    if known := stored_scores(workdir, at, checksums, report):
        sources.refresh(workdir / "validation" / "scores.json", checksums, pairs)
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
    kept |= {"averages": volumes, "data": checksums, "sources": sources.record(pairs)}
    write_json(workdir / "validation" / "scores.json", kept)
    write_json(workdir / "scores.json", pooled)
    return pooled


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
            order = range(1, 1 + len(classes.names))
            true = painted(members(label[..., None], classes), order)
            true[label == MASKED] = MASKED
            draw(image, true, painted(masks, order), picture, volume.id, classes.names)
    return segmentation.count(masks, label, classes)


def _sampler(found, part, data, patches_per_volume, seed):
    """The `PatchSampler` of the 'train' or 'validation' part of a `Dataset`."""
    return PatchSampler(
        volumes=getattr(found, part),
        fingerprints=getattr(found, f"{part}_facts"),
        cache=found.cache,
        table=found.table,
        patch=tuple(data["patch"]),
        patches_per_volume=patches_per_volume,
        foreground_share=data["foreground_share"],
        balance_target=data["balance_target"],
        dtype=found.dtype,
        seed=seed,
        numbers=found.numbers and [found.numbers[v.id] for v in getattr(found, part)],
    )


def _checksums(volumes, facts):
    return {v.id: one.checksums.tolist() for v, one in zip(volumes, facts, strict=True)}


def _about(found):
    """How many volumes a `Dataset` has, and what their voxels are."""
    counts = np.sum([facts.counts for facts in found.train_facts], 0)
    background, foreground, masked = 100 * counts / counts.sum()
    parts = f"{len(found.train)} training and {len(found.validation)} validation volumes"
    if found.train == found.validation:
        parts = f"{len(found.train)} training volumes, none held out (data.fold=none)"
    return (
        f"{parts}; voxels: "
        f"{background:.1f} % background, {foreground:.1f} % foreground, {masked:.1f} % unlabelled"
    )
