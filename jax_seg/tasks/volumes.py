"""Volumes: training on patches, scoring whole volumes by sliding windows."""

import functools
from pathlib import Path

import numpy as np

from jax_seg.data import dataset, folder, readers, spacing
from jax_seg.data.augment import augment as augment_batch
from jax_seg.data.cache import source
from jax_seg.data.intensities import blended
from jax_seg.data.labels import encode
from jax_seg.data.names import some
from jax_seg.data.preprocess import stored as stored_preprocessing
from jax_seg.data.readers import read_image, read_volume
from jax_seg.data.readers.contract import channels_of
from jax_seg.data.sampling import PatchSampler, check_patch
from jax_seg.infer import postprocess as postprocessing
from jax_seg.infer.volume import segment_volume
from jax_seg.metrics.balance import require_target
from jax_seg.tasks import judge_volumes, kinds
from jax_seg.tasks.judge_volumes import probability_of as probability_of
from jax_seg.tasks.task import Task

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
        *("spacing", "target_spacing", "resample"),
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
        checksums=judge_volumes.checksums(found.train, found.train_facts)
        | judge_volumes.checksums(found.validation, found.validation_facts),
        shape=sample_shape(data, found.channels),
        preprocessing=found.preprocessing,
        augment=augmentation(
            found.preprocessing, augment=augment, exclusive=found.table.classes.exclusive
        ),
        segment=functools.partial(
            judge_volumes.segment_volumes,
            data=found,
            patch=tuple(data["patch"]),
            overlap=validate["overlap"],
            windows=validate["windows"],
            threshold=threshold,
        ),
        evaluate=functools.partial(
            judge_volumes.evaluate,
            data=found,
            steps=postprocessing.after_threshold(postprocess["steps"], threshold),
            target=target,
        ),
        samples=SAMPLES,
        wholes=f"{NOUN}s",
        about=_about(found),
        remarks=[*_of_spacing(found, augment), *found.remarks],
        spacing=found.spacing,
        classes=found.table.classes,
        require_memory=functools.partial(judge_volumes.require_memory, found),
    )


def _of_spacing(found, augment):
    """Sentences on volumes that are resampled or of unknown spacing, and on patches that are turned
    though they cover unequal distances."""
    if not found.spacing:
        return []
    at, sentences = readers.spacing.in_words(found.spacing), []
    unknown = sorted(id for id, stated in found.spacings.items() if not stated)
    if 0 < len(unknown) < len(found.spacings):
        sentences.append(
            f"{some(unknown, 'volume')} without a stated spacing, unlike the others, count as if "
            f"at the run's, {at}: where that is wrong, state it in train.csv or NAME.json."
        )
    own = {volume.image for volume in found.originals.values()}
    if copies := {v.id for v in (*found.train, *found.validation) if v.image not in own}:
        sentences.append(
            f"{len(copies)} of {len(found.spacings)} volumes are resampled to the run's spacing, "
            f"{at}; data.target_spacing sets another."
        )
    in_plane = augment.get("in_plane_only", False)
    turned = augment["rotate"] or augment["rotate90"]
    if turned and readers.spacing.unequal(found.spacing[1:] if in_plane else found.spacing):
        sentences.append(
            f"The voxels' spacing is {at}, so a patch covers unequal distances, and augmentation "
            "turns it: jax_seg.plan chooses patch, levels and augmentation for that; "
            "augment.in_plane_only=True leaves depth alone, augment.rotate=0 and "
            "augment.rotate90=0 turn nothing."
        )
    return sentences


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


def augmentation(_preprocessing, *, augment, exclusive=False, **_):
    """(key, batch) -> batch, from the section `augment`; `exclusive` of `augment.augment`."""
    return functools.partial(augment_batch, apart=True, exclusive=exclusive, **augment)


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
        at=spacing.Rule(
            data.get("spacing", ()), data.get("target_spacing", ()), data.get("resample", "auto")
        ),
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
