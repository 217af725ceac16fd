"""What a plan rests on: facts of a folder of labelled volumes, measured once."""

import collections
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_seg.data import dataset_json, folder, spacing
from jax_seg.data.cache import source
from jax_seg.data.dataset import cache_in
from jax_seg.data.labels import REST, label_table
from jax_seg.data.preprocess import has_input
from jax_seg.data.readers.contract import require_one_channel
from jax_seg.data.readers.spacing import differ
from jax_seg.diagnosis import appearance, volumes
from jax_seg.diagnosis.evidence import Evidence
from jax_seg.diagnosis.finding import Skipped
from jax_seg.diagnosis.labels import thickness, unlabelled_values
from jax_seg.ops.classes import FOREGROUND
from jax_seg.ops.components import connected
from jax_seg.weights.nnunet_plans import regions_in_order

SLAB = 2**24  # voxels of a label that are counted at once


class Facts(NamedTuple):
    """Facts of a folder of labelled volumes.

    Attributes:
      shapes: int [N, 3] voxels.
      dtype: of the images, as text: 'float32 and uint8'.
      groups: number of scrolls; of volumes where no table names scrolls.
      spacing: (z, y, x) micrometres of data.target_spacing, else that the files state, the median;
        None where none does.
      spacings_differ: whether volumes state different ones.
      anisotropy: steps in the plane that a step along depth equals.
      values: {label value: share of the voxels}, by value.
      labels: `Labels`.
      foreground, unlabelled: share of the labelled voxels, and of all.
      thickness: of the foreground in voxels, the median over volumes; 0 without foreground.
      pieces: median number of connected pieces of foreground in a volume, or in the middle of a
        large one (`evidence.LARGEST`).
      largest: share of that foreground in its largest piece, the median.
      cropped: whether pieces were counted in the middle of volumes.
      range_ratio: largest over smallest range of intensities of the volumes, of the channel in
        which they differ most.
      zeros: share of the voxels that are zero, in all channels.
      channels: their names, where nnU-Net's dataset.json gives them.
    """

    shapes: np.ndarray
    dtype: str
    groups: int
    spacing: tuple | None
    spacings_differ: bool
    anisotropy: float
    values: dict
    labels: "Labels"
    foreground: float
    unlabelled: float
    thickness: float
    pieces: float
    largest: float
    cropped: bool
    range_ratio: float
    zeros: float
    channels: tuple = ()


class Labels(NamedTuple):
    """What label values mean.

    Attributes:
      background, foreground, ignore: tuples of label values.
      reason: a sentence.
      classes: as the field data.classes, where foreground is of several classes.
    """

    background: tuple
    foreground: tuple
    ignore: tuple
    reason: str
    classes: tuple = ()


def gather(config, given=None, cache=""):
    """Measure the data that a configuration names.

    Args:
      config: ConfigDict of `configs/base.py`; of it the section `data` counts.
      given: {'data.foreground': …}, fields that the user has set; what label values mean is then
        not guessed.
      cache: folder for decoded volumes that the run will find there; '' for one that is removed.

    Returns:
      Facts.

    Raises:
      ValueError, FileNotFoundError: bad input, naming the file or the field.
    """
    config = config.copy_and_resolve_references()
    if not config.data.root:
        raise ValueError(
            "data.root is empty, and a plan is made from labelled volumes: pass "
            "--config.data.root=FOLDER; jax_seg.data.synthetic generates such a folder."
        )
    config.average.swa_every = config.schedule.warmup_epochs = 0  # planned by the run's length
    found = folder.find_volumes(
        config.data.root, images=config.data.images, labels=config.data.labels
    )
    with tempfile.TemporaryDirectory(prefix="jax_seg_plan_") as temporary:
        config.data.cache = config.data.cache or str(cache or temporary)
        config.data.update(fold="none", patch=(8, 8, 8))
        cache = cache_in(Path(config.data.cache), config.data.cache_gb)
        values = _values(found, cache, max(config.data.threads, 1))
        labels = _labels(config, values, given or {})
        return _measured(_evidence(config, labels), found, values, labels)


def _values(found, cache, threads):
    """{value: share of the voxels} of the labels, all of them: a value may be rare."""

    def one(volume):
        reader, counts = cache.open(volume.label), collections.Counter()
        require_one_channel(reader)
        depth, *plane = reader.shape
        step = max(SLAB // int(np.prod(plane)), 1)
        for start in range(0, depth, step):
            label = reader.read((start, 0, 0), (min(step, depth - start), *plane))
            if label.dtype == np.uint8:  # many times faster than sorting
                number_of_each = np.bincount(label.ravel(), minlength=256)
                values = np.flatnonzero(number_of_each)
                number_of_each = number_of_each[values]
            else:
                values, number_of_each = np.unique(label, return_counts=True)
                if fractions := values[values % 1 != 0].tolist():
                    raise ValueError(
                        f"{volume.label} holds the value {fractions[0]:.6g}, and label values are "
                        "whole numbers: name another folder in data.labels."
                    )
            counts.update(dict(zip(values.tolist(), number_of_each.tolist(), strict=True)))
        return counts

    with ThreadPoolExecutor(threads) as pool:
        counts = sum(pool.map(one, found), collections.Counter())
    total = sum(counts.values())
    return {value: counts[value] / total for value in sorted(counts)}


def _labels(config, values, given):
    """`Labels`: as the user says, as nnU-Net's dataset.json says, or as the voxels show."""
    if set(given) & {f"data.{name}" for name in ("foreground", "ignore", "classes")}:
        return _as_given(config, values, given)
    if len(values) == 1:
        raise ValueError(
            f"All labels of {config.data.root} hold the value {next(iter(values))} alone: there is "
            "nothing to learn; choose another data.labels."
        )
    if "data.background" in given:
        background = tuple(config.data.background)
    elif said := _of_dataset_json(config.data.root, values):
        return said
    else:
        background = (0,) if 0 in values else (min(values),)
    others = [value for value in values if value not in background]
    negative = tuple(value for value in others if value < 0 and 0 in values)
    rest = [value for value in others if value not in negative]
    if not rest:
        raise ValueError(
            f"Labels of {config.data.root} hold {_and(values)} alone, none of which seems to be "
            "foreground: set data.foreground, and data.background where that is not 0."
        )
    alone = Labels(background, tuple(rest), negative, "")
    below = f"; negative values, here {_and(negative)}, mean unlabelled" if negative else ""
    if len(rest) == 1:
        return alone._replace(reason=f"the labels hold {_and(values)} alone{below}")
    try:
        suspected = unlabelled_values(_evidence(config, alone))
    except Skipped as skipped:
        return alone._replace(
            reason=f"{_and(rest)} are taken for foreground together, and could not be compared "
            f"({skipped}); set data.classes to tell them apart, or data.ignore if one means "
            f"unlabelled{below}"
        )
    if not suspected:
        return alone._replace(
            reason=f"the voxels of {_and(rest)} all differ from those of {_and(background)}, so "
            "they are foreground together; set data.classes to tell them apart, or data.ignore if "
            f"one means unlabelled{below}"
        )
    # Of several, the least distinct: without it, the others have to be compared again.
    value, found = min(suspected.items(), key=lambda item: item[1].own)
    return alone._replace(
        foreground=tuple(one for one in rest if one != value),
        ignore=(value, *negative),
        reason=f"value {value} seems to mean unlabelled: its voxels look like background (their "
        f"correlation with the image is {found.own:.2f}, of {_and(found.others)} "
        f"it is {found.rest:.2f}) and its regions are "
        f"{found.thick / found.rest_thick:.0f} times as thick; if it does not, set data.foreground"
        f"{below}",
    )


def _and(values):
    return " and ".join(map(str, values))


def _as_given(config, values, given):
    """`Labels` as the user names them; a value that is named has no other meaning by default.

    So data.classes may hold a value that data.ignore holds by default.
    """
    classes, kinds = tuple(config.data.classes), ("background", "foreground", "ignore")
    chosen = {kind: tuple(config.data[kind]) for kind in kinds}
    named = {value for kind in kinds if f"data.{kind}" in given for value in chosen[kind]}
    if classes:
        named |= {*label_table(background=(), ignore=(), classes=classes).foreground}
    for kind in kinds:
        if f"data.{kind}" not in given and not (classes and kind == "foreground"):
            chosen[kind] = tuple(value for value in chosen[kind] if value not in named)
    reason, fixed = "as given", "data.ignore" in given
    taken = named.union(*chosen.values())
    negative = [v for v in values if v < 0 and 0 in values and v not in taken]
    if negative and not fixed and REST not in taken:
        chosen["ignore"] += tuple(negative)
        reason += f"; {_and(negative)}, negative, means unlabelled"
    by_default = [v for v in chosen["ignore"] if v in values and v not in negative and not fixed]
    if by_default:
        reason += f"; {_and(by_default)} means unlabelled by default, see data.ignore"
    chosen["foreground"] = label_table(**chosen, classes=classes).foreground
    return Labels(**chosen, reason=reason, classes=classes)


def _of_dataset_json(root, values):
    """`Labels` of nnU-Net's dataset.json beside the volumes; None without one.

    Several names beside background and ignore are classes, lists of values ones that share them.
    """
    of_name = dataset_json.label_values(root)
    if not of_name:
        return None
    background, ignore = (tuple(of_name.pop(name, ())) for name in ("background", "ignore"))
    foreground = tuple(dict.fromkeys(v for some in of_name.values() for v in some))
    if unnamed := sorted(set(values) - {*background, *ignore, *foreground}):
        raise ValueError(
            f"Labels of {root} hold the value {unnamed[0]}, which dataset.json does not name: add "
            "it there, or set data.foreground and data.ignore."
        )
    path = f"{root}/{dataset_json.NAME}"
    if order := dataset_json.region_order(root):
        regions_in_order(of_name, order, path)
    named = {name: ",".join(map(str, some)) for name, some in of_name.items()}
    words = ", ".join(f"{some} {name}" for name, some in named.items())
    reason = f"dataset.json says {', '.join(map(str, background))} background, {words}"
    if ignore:
        reason += f", {', '.join(map(str, ignore))} ignore"
    if len(named) == 1:
        return Labels(background, foreground, ignore, reason)
    classes = tuple(f"{name.replace('=', ' ')}={some}" for name, some in named.items())
    reason += "; to segment them as one, set data.foreground"
    label_table(background=background, ignore=ignore, classes=classes, prefix=f"{path}: data.")
    return Labels(background, foreground, ignore, reason, classes)


def _evidence(config, labels):
    config = config.copy_and_resolve_references()
    config.data.update(
        background=labels.background,
        foreground=labels.foreground,
        ignore=labels.ignore,
        classes=(),
    )
    return Evidence(config, quick=True)


def _measured(evidence, found, values, labels):
    sampler = evidence.task.train
    counts = np.sum([facts.counts for facts in sampler.fingerprints], 0)
    intensities = [facts.intensities for facts in sampler.fingerprints]
    ranges = np.array([np.ptp(np.percentile(one, (0.5, 99.5), axis=0), 0) for one in intensities])
    examples = evidence.part("training")
    field, grouped = tuple(evidence.field("data.spacing", ())), evidence.field("data.group", "")
    stated = [three for v in found if (three := field or spacing.stated(v.image, v.spacing))]
    target = tuple(evidence.field("data.target_spacing", ()))
    trained = [target] if target else stated
    thick = [thickness(e.label) for e in examples if (e.label == FOREGROUND).any()]
    sizes = [np.bincount(connected(e.label == FOREGROUND).ravel())[1:] for e in examples]
    return Facts(
        shapes=np.array([facts.shape for facts in sampler.fingerprints]),
        dtype=" and ".join(sorted({str(source(volume.image).dtype) for volume in found})),
        groups=len({volume.scroll_id for volume in found}) if grouped else len(found),
        spacing=tuple(np.median(trained, 0).tolist()) if trained else None,
        spacings_differ=any(differ(one, stated[0]) for one in stated),
        anisotropy=_anisotropy(trained, examples),
        values=values,
        labels=labels,
        foreground=float(counts[1] / max(counts[0] + counts[1], 1)),
        unlabelled=float(counts[2] / counts.sum()),
        thickness=float(np.median(thick)) if thick else 0.0,
        pieces=float(np.median([len(one) for one in sizes])),
        largest=float(np.median([one.max() / one.sum() for one in sizes if len(one)] or [0])),
        cropped=any(e.label.shape != tuple(e.shape) for e in examples),
        range_ratio=float(np.max(ranges.max(0) / np.maximum(ranges.min(0), 1e-12))),
        zeros=float(np.mean([1 - np.mean(has_input(one, 1)) for one in intensities])),
        channels=tuple(dataset_json.channel_names(evidence.field("data.root"))),
    )


def _anisotropy(stated, examples):
    """Of the spacing where files state it, else as the images show."""
    if stated:
        depth, *plane = np.median(stated, 0)
        return float(depth / np.mean(plane))
    voxels = appearance.VOXELS[True]
    thick = [e for e in examples if min(e.image.shape) >= 8][: volumes.EXAMINED]
    measured = [
        volumes.anisotropy(e.image[appearance.middle(e.image.shape, voxels)]) for e in thick
    ]
    return float(np.median(measured)) if measured else 1.0
