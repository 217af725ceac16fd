"""Faults of judging: how a run is validated, ended, cut and post-processed."""

import json

import numpy as np
import tifffile

from benchmarks.doctor.setups import Fault, changed, names, read, scrolls, write
from jax_seg.diagnosis.evidence import Evidence
from jax_seg.system.files import read_json, write_json


def one_volume_held_out(setup, generator):
    """As many folds as volumes."""
    return changed(setup, **{"data.folds": len(names(setup)), "data.group": ""})


def nothing_to_find(setup, generator):
    """The validation volumes' foreground is not labelled."""
    for name in _held_out(setup):
        label = read(setup, name)[1]
        label[label == 1] = 2
        write(setup, name, label=label)
    return setup


def scraps_of_labels(setup, generator):
    """A few voxels of each validation volume are labelled."""
    side = int(generator.integers(6, 10))
    for name in _held_out(setup):
        label = read(setup, name)[1]
        place = generator.choice(np.argwhere(label == 1))
        start = np.clip(place - side // 2, 0, np.array(label.shape) - side)
        inside = tuple(slice(int(s), int(s) + side) for s in start)
        kept = np.full_like(label, 2)
        kept[inside] = label[inside]
        write(setup, name, label=kept)
    return setup


def loss_of_chosen_patches(setup, generator):
    """The checkpoint is chosen by patches that are chosen for their foreground."""
    target = float(generator.uniform(0.5, 0.7))
    fields = {"data.patch": (12, 12, 12), "data.foreground_share": 1.0}
    fields |= {"validate.metric": "loss", "data.balance_target": target}
    return changed(setup, **fields)


def steps_of_another_checkpoint(setup, generator):
    """Post-processing was tuned on the predictions of an earlier checkpoint."""
    threshold = float(generator.uniform(0.4, 0.5))
    return setup._replace(after=(_choosing(f"threshold:value={threshold:.2f}", behind=1),))


def windows_side_by_side(setup, generator):
    """Small windows that do not overlap."""
    fields = {"data.patch": (16, 16, 16), "data.patches_per_volume": 24, "validate.overlap": 0.0}
    return changed(setup, **fields)


def high_threshold(setup, generator):
    """Predictions are cut at a high probability."""
    value = round(float(generator.uniform(0.7, 0.85)), 2)

    def after(workdir):
        content = read_json(workdir / "config.json")
        content["validate"]["threshold"] = value
        write_json(workdir / "config.json", content)

    return setup._replace(after=(after,))


def high_tuned_threshold(setup, generator):
    """The chosen steps cut at a high probability."""
    value = round(float(generator.uniform(0.7, 0.85)), 2)
    return setup._replace(after=(_choosing(f"threshold:value={value}"),))


def opening_of_sheets(setup, generator):
    """An opening wider than the sheets, in the configuration."""
    radius = int(generator.integers(1, 3))
    step = f"open:depth={radius},height={radius},width={radius}"
    return changed(setup, **{"postprocess.steps": ("fill_holes:voxels=50", step)})


def removal_of_sheets(setup, generator):
    """The chosen steps remove pieces that are sheets."""
    voxels = int(generator.uniform(5000, 9000))
    steps = ("threshold:value=0.5", "fill_holes:voxels=50", f"remove_small:voxels={voxels}")
    return setup._replace(after=(_choosing(*steps),))


def stopped_too_early(setup, generator):
    """A few epochs at a constant rate."""
    epochs = int(generator.integers(4, 6))
    return changed(setup, **{"train.epochs": epochs, "schedule.name": "constant"})


def two_small_volumes(folder, seed):
    """A set-up with little to learn from."""
    setup = scrolls(folder, seed, volumes=4, size=32)
    return changed(
        setup,
        **{
            "data.folds": 2,
            "data.patch": (24, 24, 24),
            "data.patches_per_volume": 8,
            "validate.volumes_every": 6,
        },
    )


def learned_by_heart(setup, generator):
    """Two volumes, many epochs, no augmentation."""
    fields = {f"augment.{name}": 0.0 for name in _augmentations(setup)}
    fields |= {"model.filters": 8, "optimizer.weight_decay": 0.0, "schedule.name": "constant"}
    return changed(setup, **fields, **{"train.epochs": int(generator.integers(36, 45))})


def looking_elsewhere(setup, generator):
    """The model answers as for another place: its predictions are moved by half of the volume."""

    def move(probability):
        shift = [int(generator.uniform(0.4, 0.6) * n) for n in probability.shape]
        return np.roll(probability, shift, (0, 1, 2))

    return setup._replace(after=(_predicting(move),))


def foreground_everywhere(setup, generator):
    """The model answers foreground nearly everywhere."""

    def constant(probability):
        noise = generator.normal(0, 0.02, probability.shape)
        return np.clip(0.9 + noise, 0, 1).astype(np.float16)

    return setup._replace(after=(_predicting(constant),))


def _held_out(setup):
    return Evidence(setup.config).task.validation_ids


def _augmentations(setup):
    """Names of the probabilities of augmentation."""
    return [name for name, value in setup.config.augment.items() if type(value) is float]


def _choosing(*steps, behind=0):
    """Writes what `jax_seg.tune` chooses, for a checkpoint some updates before the best."""

    def after(workdir):
        best = read_json(workdir / "scores.json")["raw"]["step"]
        content = {"steps": list(steps), "checkpoint_step": best - behind}
        (workdir / "postprocess.json").write_text(json.dumps(content))

    return after


def _predicting(change):
    """Changes the stored probabilities."""

    def after(workdir):
        for path in sorted((workdir / "validation" / "probabilities").glob("*.tif")):
            tifffile.imwrite(path, change(tifffile.imread(path)), compression="zlib")

    return after


FAULTS = (
    Fault("validation.noisy", "a single volume held out", one_volume_held_out),
    Fault("validation.noisy", "no foreground in the validation labels", nothing_to_find),
    Fault("validation.noisy", "a few labelled voxels in validation", scraps_of_labels),
    Fault("validation.unlike_test", "the loss of chosen patches decides", loss_of_chosen_patches),
    Fault(
        "validation.unlike_test",
        "steps tuned for another checkpoint",
        steps_of_another_checkpoint,
        trains=True,
    ),
    Fault("inference.seams", "small windows side by side", windows_side_by_side, trains=True),
    Fault("inference.threshold", "a threshold of about 0.8", high_threshold, trains=True),
    Fault("inference.threshold", "a tuned one of about 0.8", high_tuned_threshold, trains=True),
    Fault("postprocess.destructive", "an opening of thin sheets", opening_of_sheets),
    Fault("postprocess.destructive", "small pieces removed", removal_of_sheets, trains=True),
    Fault("training.unfinished", "a constant rate, few epochs", stopped_too_early, trains=True),
    Fault(
        "training.overfits",
        "two volumes learned by heart",
        learned_by_heart,
        trains=True,
        start=two_small_volumes,
    ),
    Fault(
        "training.no_better_than_constant",
        "predictions of another place",
        looking_elsewhere,
        trains=True,
    ),
    Fault(
        "training.no_better_than_constant",
        "foreground nearly everywhere",
        foreground_everywhere,
        trains=True,
    ),
)
