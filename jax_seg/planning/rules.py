"""Settings from facts: each rule returns a decision with its reason."""

import math
from typing import NamedTuple

import numpy as np

from jax_seg.planning.machine import WIDTHS

ENOUGH = 400  # updates within the time: fewer leave a wide network behind a narrow one
FLAT = 1.5  # times as far apart along one axis: beyond, it is not rotated into another
DIFFERENT = 2.0  # times: between volumes whose intensities are normalised each by itself
EMPTY = 0.25  # of the voxels are zero: the outside of a scan
RARE = 0.02  # of the labelled voxels are foreground
KEPT_BYTES = 40  # per voxel and filter, that a training step holds on a CPU
SHORT = 3000  # updates, below which an average of the weights forgets faster
BATCH, LARGEST_BATCH = 2, 8
RATE = 3e-3  # Muon's, as in configs/membrane.py
JUDGED = 8  # patches after each epoch, where the validation volumes are no more: it has to be short
EPOCHS = 8, 100  # at least and at most: one a minute


class Decision(NamedTuple):
    """Fields of the configuration, and why.

    Attributes:
      topic: 'labels', 'patch', ….
      fields: {dotted path: value}.
      reason: a sentence without its full stop.
    """

    topic: str
    fields: dict
    reason: str


def labels(facts):
    """Which values are foreground, and which unlabelled."""
    chosen = facts.labels
    of_classes = ("classes",) if chosen.classes else ("foreground",)
    fields = {
        f"data.{name}": getattr(chosen, name) for name in ("background", *of_classes, "ignore")
    }
    if chosen.classes:
        fields["model.out_channels"] = len(chosen.classes)
    shares = ", ".join(f"{100 * share:.1f} % are {v}" for v, share in facts.values.items())
    return Decision("labels", fields, f"{chosen.reason} (of the voxels {shares})")


def validation(facts):
    """Folds, and how many patches are judged after each epoch."""
    groups = facts.groups
    held_out = math.ceil(len(facts.shapes) / min(groups, 5))
    fields = {"validate.patches_per_volume": max(JUDGED // held_out, 1)}
    fields |= {"validate.volumes_every": 0, "validate.metric": "dice"}
    if groups < 2:
        fields |= {"data.fold": "none"}
        reason = "a single volume or scroll cannot be divided: scores are of the training part"
        return Decision("validation", fields, reason)
    fields |= {"data.folds": min(groups, 5)}
    kind = "volumes" if groups == len(facts.shapes) else "scrolls"
    return Decision(
        "validation",
        fields,
        f"{groups} {kind} make {min(groups, 5)} folds; patches are judged after each epoch, whole "
        "volumes at the end",
    )


def preprocessing(facts, per_volume=None):
    """How intensities are normalised; None where the configuration has each volume by itself.

    Args:
      facts: Facts.
      per_volume: whether each is, where that is set.
    """
    fields = {"preprocess.name": "zscore"}
    if per_volume:
        return None
    if per_volume is False:
        return Decision("intensities", fields, "one scale serves all volumes, as given")
    if {name.lower() for name in facts.channels} == {"ct"}:
        reason = "dataset.json says CT, where a value means the same in every volume"
        return Decision("intensities", fields, f"{reason}, so one scale serves all")
    if facts.range_ratio <= DIFFERENT:
        reason = f"the volumes' ranges differ by a factor of at most {facts.range_ratio:.2f}"
        return Decision("intensities", fields, f"{reason}, so one scale serves all")
    region = "box" if facts.zeros > EMPTY else "all"
    fields |= {"preprocess.per_volume": True, "preprocess.region": region}
    factor = f"{facts.range_ratio:,.0f}" if facts.range_ratio > 10 else f"{facts.range_ratio:.2g}"
    reason = f"the volumes' ranges differ by a factor of {factor}"
    return Decision("intensities", fields, f"{reason}, so each is normalised by itself")


def augmentation(facts):
    """Which augmentation the data bear."""
    fields = {"augment.noise": 0.0, "augment.brightness": 0.0, "augment.contrast": 0.0}
    reason = "the volumes' intensities are alike, so augmentation does not change them"
    if facts.range_ratio > DIFFERENT:
        fields = {}
        reason = "the volumes' intensities differ, so augmentation changes them"
    if not alike(facts):
        fields |= {"augment.in_plane_only": True}
        depth = "coarser" if facts.anisotropy > 1 else "finer"
        reason += f"; depth is {depth} than the plane, so nothing turns out of it"
    if _oblong(facts):
        fields |= {"augment.rotate": 0.0, "augment.rotate90": 0.0}
        reason += (
            "; steps along height and width differ, so nothing turns within the plane either: "
            "volumes whose first axis is the coarse one are augmented better"
        )
    return Decision("augmentation", fields, reason)


def alike(facts):
    """Whether steps along depth are about as long as in the plane."""
    return 1 / FLAT <= facts.anisotropy <= FLAT


def _oblong(facts):
    """Whether the files state that height and width are not alike."""
    plane = facts.spacing[1:] if facts.spacing else (1.0, 1.0)
    return max(plane) > FLAT * min(plane)


def width(machine, chosen, minutes):
    """Filters, by the time on a CPU; the batch of a CPU.

    Args:
      machine: Machine.
      chosen: {dotted path: value} of the geometry, and of what the user has set.
      minutes: of the whole run.

    Returns:
      (Decision, updates that the time holds, or None on a GPU).
    """
    patch, planar = chosen["data.patch"], chosen["model.planar_levels"]
    planar = planar or sum(1 in kernel for kernel in chosen.get("model.kernels", ()))
    poolings, batch = chosen["model.poolings"], chosen.get("data.batch", BATCH)
    if machine.is_gpu:
        return Decision("width", {"model.filters": WIDTHS[0]}, "the field's usual width"), None
    own = chosen.get("model.filters")
    wider = ""
    for filters in (own,) if own else WIDTHS:
        rate = machine.rates[min(machine.rates, key=lambda known: abs(known - filters))]
        seconds = operations(patch, batch, filters, poolings, planar) / rate
        updates = 60 * minutes / seconds
        if own:
            break
        if KEPT_BYTES * batch * math.prod(patch) * filters > machine.memory / 2:
            wider = (
                "; a wider network would not fit into memory"
                if filters > WIDTHS[-1]
                else "; it may not fit into memory: set a smaller data.patch"
            )
        elif updates < ENOUGH:
            wider = f"; a wider network would make fewer than {ENOUGH}"
        else:
            break
    if updates < ENOUGH:
        wider = f"; {ENOUGH} are usually the least that suffice: give the run more minutes"
    few = "" if "data.batch" in chosen else " (a larger one would make fewer updates)"
    reason = (
        f"with {filters} filters and a batch of {batch}{few} an update takes about {seconds:.2g} s "
        f"on {machine.name}, so {minutes:g} minutes hold about {float(f'{updates:.2g}'):,.0f} "
        f"updates{wider}"
    )
    return Decision("width", {"model.filters": filters, "data.batch": batch}, reason), updates


def operations(patch, batch, filters, poolings, planar_levels):
    """Floating-point operations of an update of the U-Net: three times those of its convolutions.

    Args:
      patch: (depth, height, width) voxels.
      batch: patches.
      filters, poolings, planar_levels: of the network.
    """
    total, voxels, below = 0.0, float(math.prod(patch) * batch), 1
    for level in range(poolings + 1):
        channels = filters * 2**level
        taps = 9 if level < planar_levels else 27
        products = below * channels + channels**2  # of the encoder
        if level < poolings:
            products += 2 * channels**2 + channels**2  # of the decoder
        total += 2 * taps * products * voxels
        voxels /= 4 if level < planar_levels else 8
        below = channels
    return 3 * total


def sampling(facts):
    """How often a patch is placed at foreground."""
    if facts.foreground >= RARE:
        return None
    reason = f"foreground is {100 * facts.foreground:.2g} % of the labelled voxels"
    return Decision("sampling", {"data.foreground_share": 0.5}, reason)


def loss(given=None):
    """Terms of the loss, equal in weight, beside those that the user has set."""
    fields = {"dice": 1.0, "cross_entropy": 1.0, "focal": 0.0}
    fields = {f"loss.weights.{name}": weight for name, weight in fields.items()}
    reason = (
        "Dice counts a thin foreground as much as all that surrounds it, and cross entropy gives "
        "every voxel a gradient"
    )
    if any(path.startswith("loss.weights.") for path in given or {}):
        reason = "Dice and cross entropy, where nothing else was given"
    return Decision("loss", fields, reason)


def optimizer(given=None):
    """The optimizer, and how far its gradients may reach; None where the user has set another."""
    if (given or {}).get("optimizer.name", "muon") != "muon":
        return None
    fields = {"name": "muon", "momentum": 0.95, "weight_decay": 1e-2, "clip_norm": 1.0}
    return Decision(
        "optimizer",
        {f"optimizer.{name}": value for name, value in fields.items()},
        "Muon learned more than AdamW on membranes in as many updates, and more than SGD on "
        "scrolls in as much time",
    )


def schedule(minutes, updates, given=None):
    """Epochs, rate and averages for the time.

    Args:
      minutes: of the whole run.
      updates: about how many fit; None if unknown.
      given: {dotted path: value} that the user has set.
    """
    given, short = given or {}, updates is not None and updates < SHORT
    epochs = given.get("train.epochs", int(np.clip(round(minutes), *EPOCHS)))
    decay = given.get("average.ema_decay", 0.99 if short else 0.999)
    with_muon = given.get("optimizer.name", "muon") == "muon"
    fields = {
        "schedule.name": "cosine",
        **({"schedule.learning_rate": RATE} if with_muon else {}),
        "schedule.warmup_epochs": 2,
        "train.epochs": epochs,
        "train.minutes": float(minutes),
        "train.epoch_length": "minutes",
        "average.swa_every": 0,
        "average.ema_decay": decay,
        "noise.std": 0.0,
        "plateau.worse_epochs": 0,
        "plateau.rollback_fraction": 0.0,
        "plateau.patience": 0,
    }
    name = given.get("schedule.name", "cosine")
    reason = f"{epochs} epochs and one {name} schedule fill {minutes:g} minutes"
    if not any(path.startswith("plateau.") for path in given):
        reason += ", without rollbacks"
    if with_muon and "schedule.learning_rate" not in given:
        reason += f"; {RATE:g} is the rate with which Muon learned membranes"
    if 0 < decay < 1:
        reason += f"; the average of the weights spans the last {round(1 / (1 - decay)):,} updates"
    return Decision("schedule", fields, reason)


def device(machine):
    """Compute type; None on a CPU, which has one."""
    if not machine.is_gpu:
        return None
    reason = f"{machine.name} multiplies fastest in bfloat16"
    return Decision("device", {"model.dtype": "bfloat16"}, reason)


def postprocessing():
    """None before there are predictions to try its steps on."""
    reason = "none for now; jax_seg.tune chooses steps after training"
    return Decision("post-processing", {"postprocess.steps": ()}, reason)
