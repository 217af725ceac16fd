"""Images in the layout of COD10K: resized to a square for training, scored at their own size."""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg.data import colour as colours
from jax_seg.data import images, pipeline
from jax_seg.data.augment import augment as augment_batch
from jax_seg.data.preprocess import IMAGENET
from jax_seg.data.preprocess import stored as stored_preprocessing
from jax_seg.data.readers import pictures as files
from jax_seg.metrics import camouflage, segmentation
from jax_seg.system.files import write_json
from jax_seg.tasks import kinds, sources
from jax_seg.tasks.task import Task, stored_scores

NOUN, POINT, SAMPLES = "image", "pixel", "images"
TUNABLE = False
WORST = 6  # an image takes less space on the page than a volume
PREDICTION = kinds.IMAGES
FIELDS = {
    "data": (
        *("name", "root", "kind", "super_classes", "validation_share", "split_seed", "grouped"),
        *("side", "passes", "memory_gb", "batch", "threads"),
    ),
    "augment": None,
    "colour": None,
    "validate": ("threshold",),
}


def prepare(workdir, preprocessing, *, seed, data, augment, colour, validate):
    """The `Task` of a configuration of images.

    Args:
      workdir: folder of the run.
      preprocessing: dict of the stored `Preprocessing`; None takes that of ImageNet.
      seed: of the order of the images.
      data, augment, colour, validate: sections of the configuration.

    Raises:
      ValueError, FileNotFoundError: bad input, naming the file or the field.
    """
    camouflage.require_evaluator()
    _require_root(data)
    examples = images.find_examples(data["root"], "Train", data["kind"], data["super_classes"])
    images.check_sizes(examples)
    training, validation = images.split_validation(
        examples, data["validation_share"], data["split_seed"], data["grouped"]
    )
    side, kept = data["side"], {"memory_gb": data["memory_gb"]}
    preprocessing = stored_preprocessing(preprocessing) if preprocessing else IMAGENET
    judged = images.ImageSampler(validation, side, shuffled=False, **kept)
    checksums = _checksums(examples)
    return Task(
        train=images.ImageSampler(training, side, seed, passes=data["passes"], **kept),
        validation=judged,
        train_ids=[example.id for example in training],
        validation_ids=[example.id for example in validation],
        checksums=checksums,
        shape=sample_shape(data),
        preprocessing=preprocessing,
        augment=augmentation(preprocessing, augment=augment, colour=colour),
        segment=functools.partial(
            segment_images,
            sampler=judged,
            batch=data["batch"],
            threads=data["threads"],
            threshold=validate["threshold"],
        ),
        evaluate=functools.partial(
            evaluate,
            checksums={one.id: checksums[one.id] for one in validation},
            pairs={one.id: (one.image, one.mask) for one in validation},
        ),
        samples=SAMPLES,
        wholes=f"{NOUN}s",
        about=f"{len(training)} training and {len(validation)} validation images",
        remarks=[],
    )


def channels(_data):
    """Number of channels of an image: red, green and blue."""
    return 3


def sample_shape(data, channels=3):
    """Shape of a resized image, channels last; `data` is the section of the configuration."""
    return (data["side"], data["side"], channels)


def sample_type(_data):
    """Type in which images are sent to the device."""
    return np.dtype(np.uint8)


def augmentation(preprocessing, *, augment, colour, **_):
    """(key, batch) -> batch, from the sections `augment` and `colour`."""

    def transform(key, batch):
        moved, coloured = jax.random.split(key)
        batch = augment_batch(moved, batch, **augment)
        image = colours.jitter(coloured, batch["image"], preprocessing=preprocessing, **colour)
        return batch | {"image": image}

    return transform


def labelled(root, **_):
    """Every `Example` of a training folder with its mask, by its id; as of `find_examples`."""
    return {example.id: example for example in images.find_examples(root, kind="all")}


def read_pair(example, _table):
    """An example as one slice: mean of its channels [1, H, W], and its mask [1, H, W] as uint8."""
    image, mask = images.read_example(example)
    return image.mean(-1)[None], mask.astype(np.uint8)[None]


def read_middle(example, _sampler, _box_of):
    """(image, mask, (0, 0, 0), shape, super-class): as in `read_pair`, always whole."""
    image, mask = read_pair(example, None)
    return image, mask, (0, 0, 0), image.shape, example.super_class or ""


def read_probability(path):
    """The probabilities [1, H, W] that `evaluate` wrote as a map."""
    return files.read_map(path)[None] / np.float32(255)


def probability_of(result):
    """The probabilities float32 [1, H, W] of (map, mask), the last that `segment_images` yields."""
    found, _ = result
    return found[None] / np.float32(255)


def segmenter(network, config, preprocessing, *, overlap=None, windows=None, name=""):
    """How a trained network segments an image at its own size.

    Args:
      network: of `network.make_network`.
      config: ConfigDict of the run.
      overlap, windows: must be None: a network for images segments each as a whole.
      name: of the run, for messages.

    Returns:
      ((variables, image uint8 [1, H, W, 3]) -> float32 logits [1, H, W] on the device, {}): the
      logits of the probability, resized as in the run's own evaluation.

    Raises:
      ValueError: overlap or windows are given.
    """
    if overlap is not None or windows is not None:
        raise ValueError(
            f"{name} is a network for images, which segments each as a whole: remove --overlap and "
            "--windows."
        )

    def segment(variables, image):
        square = files.resize_image(np.ascontiguousarray(image[0]), config.data.side)
        probability = jax.nn.sigmoid(network(variables, square[None]))
        found = files.resize_probability(probability[0, ..., 0], image.shape[1:3])
        return jax.scipy.special.logit(jnp.clip(found, 1e-6, 1 - 1e-6))[None]

    return segment, {}


def segment_images(network, variables, share=slice(None), *, sampler, batch, threads, threshold):
    """Segment every image of a sampler and count agreement with its mask, at the mask's size.

    Args:
      network: of `network.make_network`.
      variables: of the network.
      share: of the sampler's examples, a slice of their list.
      sampler: `ImageSampler` in the order of its examples.
      batch: images per call of the network.
      threads: that read ahead.
      threshold: on the probability.

    Yields:
      (Example, Confusion, (uint8 map [H, W] of the probability, mask bool [H, W])), one by one.
    """
    if (chosen := sampler.examples[share]) != sampler.examples:  # else it keeps what it has decoded
        sampler = dataclasses.replace(sampler, examples=chosen)
    left = len(sampler)  # the last batch is filled up with the first images
    for arrays, numbers in pipeline.first_epoch(sampler, batch=batch, threads=threads):
        probabilities = np.asarray(jax.nn.sigmoid(network(variables, arrays["image"])))
        for number, probability in zip(numbers[:left], probabilities[..., 0], strict=False):
            example = sampler.examples[number]
            mask = files.read_mask(example.mask)
            found = files.resize_probability(probability, mask.shape)
            counts = segmentation.confusion(found > threshold, mask)
            yield example, counts, (files.as_map(found), mask)
        left -= len(numbers)


def evaluate(weights, segment, *, workdir, report, pictures, judged_on, checksums, pairs):
    """Score a finished run's weights on the whole validation part, and keep the results.

    Writes `validation/probabilities/<id>.png` (8 bits, of the raw weights), the scores of each
    image and of each super-class as `validation/scores.json`, a picture of the worst cases, and
    last the scores of all as `scores.json`, which a second call for the same steps reads.

    Args:
      weights: {'raw', 'swa' or 'ema': (step, variables)}.
      segment: variables -> what `segment_images` yields.
      workdir: folder of the run, a Path.
      report: called with each line of the log.
      pictures: draws `cases`, see `report.plots`.
      judged_on: `JudgedOn` of the validation part, which chose the step of the raw weights.
      checksums: of a `Task`, those of the validation part.
      pairs: {id: (path of its image, path of its mask)} of the validation part.

    Returns:
      {name: scores with their 'step'}: those of `segmentation.scores`, of all pixels together, and
      those of `camouflage.summary`, means over images, whose IoU is called 'iou_mean'.
    """
    at = {name: step for name, (step, _) in weights.items()}
    if known := stored_scores(workdir, at, checksums, report):
        sources.refresh(workdir / "validation" / "scores.json", checksums, pairs)
        return known
    pooled, per_image, tables = {}, {}, {}
    for name, (step, variables) in weights.items():
        keep = functools.partial(_keep_map, workdir) if name == "raw" else None
        examples, per_image[name], scores, tables[name] = _judge(segment(variables), keep)
        on = judged_on if name == "raw" else judged_on._replace(chose=())
        pooled[name] = {"step": step, **on.as_json(), **scores}
        report(
            f"All images, {name} weights of step {step}: {segmentation.in_words(scores)}"
            f"{judged_on.suffix('images')}"
        )
        report(camouflage.table(tables[name]))
        if name == "raw":
            _draw_worst(examples, per_image[name], workdir, pictures)
    raw = per_image.pop("raw")
    kept = {"step": at["raw"], "judged_on": judged_on.as_json()}
    kept |= {"volumes": raw, "averages": per_image, "super_classes": tables, "data": checksums}
    kept |= {"sources": sources.record(pairs)}
    write_json(workdir / "validation" / "scores.json", kept)
    write_json(workdir / "scores.json", pooled)
    return pooled


def _judge(segmented, keep=None):
    """([Example], {id: its scores}, scores of all, table by super-class) of `segment_images`."""
    total, judged, examples, own = segmentation.Confusion(), [], [], {}
    for example, counts, (found, mask) in segmented:
        total += counts
        judged.append(camouflage.image_scores(found, mask))
        examples.append(example)
        own[example.id] = {k: judged[-1][k] for k in camouflage.COLUMNS if k in judged[-1]}
        own[example.id] |= segmentation.scores(counts) | {"labelled": int(counts.labelled)}
        if keep:
            keep(example, found)
    table = camouflage.by_super_class(
        judged, [example.super_class or camouflage.UNNAMED for example in examples]
    )
    means = {k: v for k, v in table[camouflage.ALL].items() if k in camouflage.COLUMNS}
    if "iou" in means:
        means["iou_mean"] = means.pop("iou")
    return examples, own, means | segmentation.scores(total), table


def _draw_worst(examples, scores, workdir, pictures):
    worst = sorted(examples, key=lambda example: scores[example.id]["iou"])[: pictures.CASES]
    cases = [
        (
            f"{example.id}, IoU {scores[example.id]['iou']:.3f}",
            *images.read_example(example),
            files.read_map(_map_path(workdir, example)),
        )
        for example in worst
    ]
    pictures.cases(cases, workdir / "plots" / "worst.png")


def _keep_map(workdir, example, found):
    files.write_map(_map_path(workdir, example), found)


def _map_path(workdir, example):
    return workdir / "validation" / "probabilities" / f"{example.id}.png"


def _checksums(examples):
    """{id: [[bytes, CRC-32] of the image's file, CRC-32 of the mask's]}."""

    def of_file(path):
        content = path.read_bytes()
        return [len(content), zlib.crc32(content)]

    return {one.id: [of_file(one.image), of_file(one.mask)[1]] for one in examples}


def _require_root(data):
    if not data["root"]:
        raise ValueError(
            "data.root is empty; pass --config.data.root=FOLDER, with Train/Image and "
            "Train/GT_Object in it."
        )
