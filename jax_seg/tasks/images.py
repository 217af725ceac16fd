"""Images in the folders of COD10K: resized to a square to train on, judged at their own size."""

import functools

import jax
import numpy as np

from jax_seg.data import colour, images, pipeline
from jax_seg.data.augment import augment
from jax_seg.data.preprocess import IMAGENET
from jax_seg.data.preprocess import stored as stored_preprocessing
from jax_seg.data.readers import pictures
from jax_seg.metrics import camouflage, segmentation
from jax_seg.system.files import write_json
from jax_seg.tasks.task import Task
from jax_seg.training import console, validate


def prepare(read, workdir, preprocessing):
    """The `Task` of a configuration of images, see `tasks.prepare`."""
    camouflage.require_evaluator()
    if not read.data.root:
        raise ValueError(
            "data.root names no folder; pass --config.data.root=FOLDER, with Train/Image and "
            "Train/GT_Object in it."
        )
    examples = images.find_examples(
        read.data.root, "Train", read.data.kind, read.data.super_classes
    )
    images.check_sizes(examples)
    training, validation = images.split_validation(
        examples, read.data.validation_share, read.data.split_seed, read.data.grouped
    )
    side, threads, kept = read.data.side, read.data.threads, {"memory_gb": read.data.memory_gb}
    preprocessing = stored_preprocessing(preprocessing) if preprocessing else IMAGENET
    fixed = images.ImageSampler(validation, side, shuffled=False, **kept)
    return Task(
        train=images.ImageSampler(training, side, read.seed, passes=read.data.passes, **kept),
        fixed=fixed,
        names=[example.id for example in training],
        held_out=[example.id for example in validation],
        shape=shape(read),
        preprocessing=preprocessing,
        augment=augmentation(read, preprocessing),
        segment=functools.partial(
            validate_images,
            sampler=fixed,
            batch=read.data.batch,
            threads=threads,
            threshold=read.validate.threshold,
        ),
        evaluate_last=evaluate_last,
        samples="images",
        wholes="images",
        about=f"{len(training)} training and {len(validation)} validation images",
        remarks=[],
    )


def shape(read):
    """See `tasks.shape`."""
    return (read.data.side, read.data.side, 3)


def augmentation(read, preprocessing):
    """See `tasks.augmentation`."""
    fields, colours = read.section("augment"), read.section("colour")

    def transform(key, batch):
        moved, coloured = jax.random.split(key)
        batch = augment(moved, batch, **fields)
        image = colour.jitter(coloured, batch["image"], preprocessing=preprocessing, **colours)
        return batch | {"image": image}

    return transform


def validate_images(network, variables, *, sampler, batch, threads, threshold):
    """Segment every image of a sampler and count agreement with its mask, at the mask's size.

    Args:
      network: of `network.make_network`.
      variables: of the network.
      sampler: `ImageSampler` in the order of its examples.
      batch: images per call of the network.
      threads: that read ahead.
      threshold: on the probability.

    Yields:
      (Example, Confusion, (uint8 map [H, W] of the probability, mask bool [H, W])), one by one.
    """
    count = -(-len(sampler) // batch)
    reader = pipeline.batches(sampler, batch=batch, start=0, count=count, threads=threads)
    left = len(sampler)  # the last batch begins again with the first images
    for arrays, numbers in pipeline.on_device(reader):
        probabilities = np.asarray(jax.nn.sigmoid(network(variables, arrays["image"])))
        for number, probability in zip(numbers[:left], probabilities[..., 0], strict=False):
            example = sampler.examples[number]
            mask = pictures.read_mask(example.mask)
            found = pictures.resize_probability(probability, mask.shape)
            counts = segmentation.confusion(found > threshold, mask)
            yield example, counts, (pictures.as_map(found), mask)
        left -= len(numbers)


def evaluate_last(weights, segment, *, workdir, log):
    """Score a finished run's weights on the whole validation part, and keep what was seen.

    Writes `validation/probabilities/<id>.png` (8 bits, of the raw weights), the scores of each
    image and of each super-class as `validation/scores.json`, a picture of the worst cases, and
    last the scores of all as `scores.json`: a second call for the same steps reads them.

    Args:
      weights: {'raw', 'swa' or 'ema': (step, variables)}.
      segment: variables -> what `validate_images` yields.
      workdir: folder of the run, a Path.
      log: logger.

    Returns:
      {name: scores with their 'step'}: those of `segmentation.scores`, of all pixels together, and
      those of `camouflage.summary`, means over images, of which IoU is called 'iou_mean'.
    """
    at = {name: step for name, (step, _) in weights.items()}
    if known := validate.scored_already(workdir, at, log):
        return known
    pooled, per_image, tables = {}, {}, {}
    for name, (step, variables) in weights.items():
        total, judged, examples = segmentation.Confusion(), [], []
        per_image[name] = {}
        for example, counts, (found, mask) in segment(variables):
            total += counts
            judged.append(camouflage.image_scores(found, mask))
            examples.append(example)
            own = {key: judged[-1][key] for key in camouflage.COLUMNS if key in judged[-1]}
            per_image[name][example.id] = own | segmentation.scores(counts)
            per_image[name][example.id]["labelled"] = int(counts.labelled)
            if name == "raw":
                pictures.write_map(_map_path(workdir, example), found)
        tables[name] = camouflage.by_super_class(
            judged, [e.super_class or camouflage.UNNAMED for e in examples]
        )
        means = {k: v for k, v in tables[name][camouflage.ALL].items() if k in camouflage.COLUMNS}
        if "iou" in means:
            means["iou_mean"] = means.pop("iou")
        scores = means | segmentation.scores(total)
        pooled[name] = {"step": step, **scores}
        log.info(f"All images, {name} weights of step {step}: {console.figures(scores)}")
        log.info(camouflage.table(tables[name]))
        if name == "raw":
            ious = {one: scores["iou"] for one, scores in per_image[name].items()}
            _draw_worst(examples, ious, workdir)
    raw = per_image.pop("raw")
    kept = {"step": at["raw"], "volumes": raw, "averages": per_image, "super_classes": tables}
    write_json(workdir / "validation" / "scores.json", kept)
    write_json(workdir / "scores.json", pooled)
    return pooled


def _draw_worst(examples, ious, workdir):
    from jax_seg.report import plots  # not before: Matplotlib takes half a second to start

    worst = sorted(examples, key=lambda example: ious[example.id])[: plots.CASES]
    cases = [
        (
            f"{example.id}, IoU {ious[example.id]:.3f}",
            *images.read_example(example),
            pictures.read_map(_map_path(workdir, example)),
        )
        for example in worst
    ]
    plots.cases(cases, workdir / "plots" / "worst.png")


def _map_path(workdir, example):
    return workdir / "validation" / "probabilities" / f"{example.id}.png"
