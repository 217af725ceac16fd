"""Volumes: patches to train on, sliding windows over whole volumes to judge by."""

import functools

from jax_seg.data import dataset
from jax_seg.data.augment import augment
from jax_seg.data.preprocess import stored as stored_preprocessing
from jax_seg.data.sampling import PatchSampler, check_patch
from jax_seg.infer import postprocess
from jax_seg.tasks.task import Task
from jax_seg.training import console, validate


def prepare(read, workdir, preprocessing):
    """The `Task` of a configuration of volumes, see `tasks.prepare`."""
    data = prepare_data(read, workdir, preprocessing)
    patch, threshold = tuple(read.data.patch), read.validate.threshold
    steps = postprocess.after_threshold(read.postprocess.steps, threshold)
    return Task(
        train=_sampler(read, data, "train", read.data.patches_per_volume, read.seed),
        fixed=_sampler(read, data, "validation", read.validate.patches_per_volume, read.seed + 1),
        names=[volume.id for volume in data.train],
        held_out=[volume.id for volume in data.validation],
        shape=shape(read),
        preprocessing=data.preprocessing,
        augment=augmentation(read, data.preprocessing),
        segment=functools.partial(
            validate.validate_volumes,
            data=data,
            patch=patch,
            overlap=read.validate.overlap,
            windows=read.validate.windows,
            threshold=threshold,
        ),
        evaluate_last=functools.partial(validate.evaluate_last, data=data, steps=steps),
        samples="patches",
        wholes="volumes",
        about=console.about_volumes(data),
    )


def shape(read):
    """See `tasks.shape`."""
    return (*check_patch(read.data.patch), 1)


def augmentation(read, preprocessing):
    """See `tasks.augmentation`."""
    return functools.partial(augment, **read.section("augment"))


def prepare_data(read, workdir, preprocessing=None):
    """The `Dataset` of a configuration; arguments and errors as of `tasks.prepare`."""
    root, synthetic = read.data.root, read.section("synthetic")
    if read.data.name == "synthetic":
        if root:
            raise ValueError(
                f"data.root is {root}, but data.name is 'synthetic', which generates its volumes: "
                "pass --config.data.name=folder too."
            )
        root = dataset.write_synthetic(workdir / "data", **synthetic)
    elif not root:
        raise ValueError(
            "data.root names no folder; pass --config.data.root=FOLDER, or --config.data.name="
            "synthetic for generated volumes."
        )
    fold = read.data.fold
    return dataset.prepare(
        root,
        images=read.data.images,
        labels_folder=read.data.labels,
        background=read.data.background,
        foreground=read.data.foreground,
        ignore=read.data.ignore,
        fold=int(fold) if fold.isdigit() else fold,
        fold_count=read.data.folds,
        group=read.data.group,
        seed=read.data.split_seed,
        cache_directory=read.data.cache or workdir / "cache",
        cache_gb=read.data.cache_gb,
        threads=max(read.data.threads, 1),
        preprocess=read.section("preprocess"),
        preprocessing=preprocessing and stored_preprocessing(preprocessing),
    )


def _sampler(read, data, part, patches_per_volume, seed):
    """The `PatchSampler` of the 'train' or 'validation' part of a `Dataset`."""
    return PatchSampler(
        volumes=getattr(data, part),
        fingerprints=getattr(data, f"{part}_facts"),
        cache=data.cache,
        table=data.table,
        patch=tuple(read.data.patch),
        patches_per_volume=patches_per_volume,
        foreground_share=read.data.foreground_share,
        balance_target=read.data.balance_target,
        dtype=data.dtype,
        seed=seed,
    )
