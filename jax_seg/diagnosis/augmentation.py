"""Checks of augmentation: what it does to thin structures, and to the statistics of images."""

import functools
from typing import NamedTuple

import jax
import numpy as np
from scipy import ndimage

from jax_seg.data.augment import PROBABILITIES, augment
from jax_seg.data.preprocess import preprocess
from jax_seg.diagnosis.evidence import once, stacked
from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.diagnosis.sampling import NEARLY_ALL, lower_bound
from jax_seg.ops.components import connected, sizes_of

MOVES = ("flip", "rotate90", "rotate", "scale", "rotate_degrees", "scale_range", "in_plane_only")
LEAST_PIECE = 3  # voxels: smaller pieces are the dust of any resampling
MOST_SAMPLES = 24  # whose labels are followed
ERASED = 0.1  # of the foreground is trained as background: about the Dice that is lost
LABELLED = 0.25  # of the labels remain: scaling by 1.4, the most in use, leaves (1 / 1.4)³ = 0.36
BROKEN = 2.0  # times as many pieces
MANY = 1 / 3  # of the samples: where most are plausible, the network learns these
BEYOND = 0.5  # of the range of the real samples: other scanners widen it by as much
# What changes little for a network, however alike the real samples are:
SHIFT = 0.5  # of the mean and other quantiles, standard deviations of the voxels of a sample
FACTOR = 2**0.5  # of contrast
FINE = 2.0  # of the variance between neighbours, and of coarse structure


class Fate(NamedTuple):
    """What became of the foreground of a sample, counted in voxels and pieces.

    Attributes:
      seen: foreground voxels that the augmented sample should show.
      erased: of them those without foreground at their new place, nor beside it.
      pieces: connected pieces of those that it should show, and `left` those that it shows.
      labelled: share of the augmented sample that is labelled; `possible` before.
    """

    seen: int
    erased: int
    pieces: int
    left: int
    labelled: float
    possible: float


def destroys_labels(evidence):
    """Foreground that resampling erases, breaks or moves out of sight, on the run's own labels."""
    moves = _moves(evidence)
    if not moves.get("rotate") and not moves.get("scale"):
        return []  # flips and quarter turns move voxels and change none
    followed = fates(evidence, moves)
    total = Fate(*np.sum(followed, 0))
    if not total.pieces:
        raise Skipped("the first samples hold no foreground")
    erased, broken = total.erased / max(total.seen, 1), total.left / total.pieces
    remaining = total.labelled / total.possible
    if erased <= ERASED and broken <= BROKEN and remaining >= LABELLED:
        return []
    effects = []
    if erased > ERASED:
        effects.append(f"erases {100 * erased:.0f} % of the foreground that it should show")
    if broken > BROKEN:
        effects.append(f"breaks {total.pieces:.0f} pieces of foreground into {total.left:.0f}")
    if remaining < LABELLED:
        effects.append(f"leaves {100 * remaining:.0f} % of the labelled voxels, and masks the rest")
    field = "augment.scale_range" if moves.get("scale") else "augment.rotate"
    widest = "(0.7, 1.4)" if field == "augment.scale_range" else "0"
    return [
        Finding(
            "augment.destroys_labels",
            "error" if max(erased, 1 - remaining) > NEARLY_ALL else "warning",
            f"Augmentation {' and '.join(effects)}.",
            {
                "erased": float(erased),
                "pieces_before": int(total.pieces),
                "pieces_after": int(total.left),
                "labelled_before": float(total.possible / len(followed)),
                "labelled_after": float(total.labelled / len(followed)),
            },
            field,
            f"Set {field} to {widest}, as in the default, or lower augment.{field[8:13]}.",
        )
    ]


def implausible(evidence):
    """Augmented samples whose statistics lie far outside of those of all real samples."""
    plain, changed = (batch["image"] for batch in evidence.augmented)
    held_out = _validation(evidence, len(plain))
    real = statistics(np.concatenate([plain, held_out]))
    outside = _outside(statistics(changed), real)
    reference = _outside(statistics(held_out), statistics(plain)).any(1).mean()
    share = outside.any(1).mean()
    if lower_bound(share, len(outside)) <= max(MANY, reference):
        return []
    worst = int(np.argmax(outside.mean(0)))
    name = STATISTICS[min(worst, len(STATISTICS) - 1)]
    values, own = statistics(changed)[:, worst], real[:, worst]
    field = _responsible(evidence, name, np.median(values) > np.median(own))
    return [
        Finding(
            "augment.implausible",
            "error" if share > NEARLY_ALL else "warning",
            f"{100 * share:.0f} % of the augmented samples are far from every real one, most often "
            f"in {name} ({np.median(values):.2g} against {own.min():.2g} to {own.max():.2g}); of "
            f"the validation samples {100 * reference:.0f} % are as far from the training samples.",
            {
                "implausible": float(share),
                "implausible_of_validation": float(reference),
                "median_augmented": float(np.median(values)),
                "lowest_real": float(own.min()),
                "highest_real": float(own.max()),
            },
            field,
            f"Narrow {field} towards its default or lower the transform's probability.",
        )
    ]


STATISTICS = (
    "the mean",
    "the logarithm of the standard deviation",
    "the darkest hundredth",
    "the median",
    "the brightest hundredth",
    "the logarithm of coarse structure",
    "the logarithm of the difference between neighbours",
)
"""Of a sample; the last for each axis. All but the first two are relative to these."""


def statistics(images):
    """[N, statistics] of normalised samples [N, *spatial, C]: those of STATISTICS."""
    return np.array([_statistics(image.mean(-1)) for image in images])


def _statistics(image):
    mean, deviation = image.mean(), image.std() + 1e-6
    marks = (np.quantile(image, (0.01, 0.5, 0.99)) - mean) / deviation
    image = (image - mean) / deviation
    coarse = ndimage.gaussian_filter(image, [2.0 if size > 1 else 0.0 for size in image.shape])
    axes = [axis for axis, size in enumerate(image.shape) if size > 1]
    fine = [np.mean(np.diff(image, axis=axis) ** 2) for axis in axes]
    return [mean, np.log(deviation), *marks, *np.log(np.add([coarse.var(), *fine], 1e-6))]


def _outside(found, real):
    """bool [N, statistics]: far beyond the range of the real ones, see BEYOND and the rest."""
    low, high = real.min(0), real.max(0)
    least = np.full(real.shape[1], np.log(FINE))
    least[0] = SHIFT * np.exp(np.median(real[:, 1]))
    least[1], least[2:5] = np.log(FACTOR), SHIFT
    return np.maximum(low - found, found - high) > np.maximum(BEYOND * (high - low), least)


def _responsible(evidence, name, larger):
    """The field of the range that changes a statistic, among the transforms that are on."""
    finer, coarser = ("noise",), ("blur", "low_resolution", "scale")
    kinds = {
        STATISTICS[0]: ("brightness",),
        STATISTICS[1]: ("brightness", "contrast", *(finer if larger else coarser)),
        STATISTICS[5]: coarser if larger else ("noise", "scale"),
        STATISTICS[6]: finer if larger else coarser,
    }.get(name, ("gamma", "gamma_inverted"))
    fields = evidence.settings.task["augment"]
    on = [kind for kind in PROBABILITIES if fields.get(kind, 0.0)]
    if not on:
        return "colour.probability" if "colour.probability" in evidence.fields else "augment"
    chosen = max([kind for kind in on if kind in kinds] or on, key=fields.get)
    others = {
        "gamma_inverted": "augment.gamma_range",
        "rotate": "augment.rotate_degrees",
        "rotate90": "augment.rotate90",
    }
    return others.get(chosen, f"augment.{chosen}_range")


def _validation(evidence, count):
    """float32 [M, *spatial, C] of the first validation samples, at most `count`."""
    sampler = evidence.task.validation
    drawn = stacked([sampler[number] for number in range(min(count, 4 * len(sampler)))])
    return np.asarray(preprocess(drawn["image"], evidence.preprocessing, drawn.get("own")))


def _moves(evidence):
    """The fields of the transforms that move voxels."""
    return {k: v for k, v in evidence.settings.task["augment"].items() if k in MOVES}


def fates(evidence, moves):
    """List of `Fate`, of the first samples, by the transforms that move voxels alone."""
    plain = {name: values[:MOST_SAMPLES] for name, values in evidence.augmented[0].items()}
    batch = plain | {"image": _coordinates(plain["label"].shape)}
    moved = once(functools.partial(augment, **moves))(jax.random.key(0), batch)
    moved = jax.device_get(moved)
    return [
        _fate(
            plain["label"][number, ..., 0] > 0,
            plain["mask"][number, ..., 0] > 0,
            moved["image"][number],
            moved["label"][number, ..., 0] > 0,
            moved["mask"][number, ..., 0] > 0,
        )
        for number in range(len(plain["label"]))
    ]


def _coordinates(shape):
    """[N, *spatial, axes] float32: each voxel's place relative to the centre."""
    spatial = shape[1:-1]
    grid = np.stack(np.indices(spatial), -1) - (np.array(spatial) - 1) / 2
    return np.broadcast_to(grid.astype(np.float32), (*shape[:-1], len(spatial)))


def _fate(label, mask, coordinates, moved, moved_mask):
    """`Fate` of a sample.

    Args:
      label, mask: bool [*spatial] before.
      coordinates: [*spatial, axes], where each augmented voxel was.
      moved, moved_mask: bool [*spatial] after.
    """
    label = label & mask
    matrix, centre = _matrix(coordinates), (np.array(label.shape) - 1) / 2
    voxels = np.argwhere(label)
    places = np.rint((voxels - centre) @ np.linalg.inv(matrix).T + centre).astype(int)
    inside = np.all((places >= 0) & (places < label.shape), 1)
    voxels, places = voxels[inside], tuple(places[inside].T)
    near = ndimage.maximum_filter(moved, 3)
    judged = ndimage.minimum_filter(moved_mask, 3)[places]
    seen = np.zeros_like(label)
    seen[tuple(voxels.T)] = True
    return Fate(
        seen=int(judged.sum()),
        erased=int((judged & ~near[places]).sum()),
        pieces=_pieces(seen),
        left=_pieces(moved),
        labelled=float(moved_mask.mean()),
        possible=float(mask.mean()),
    )


def _matrix(coordinates):
    """[axes, axes] where neighbours of the centre were, from the augmented coordinates."""
    sizes = coordinates.shape[:-1]
    centre = tuple((n - 1) // 2 for n in sizes)
    matrix = np.eye(len(sizes))
    for axis, size in enumerate(sizes):
        if size > 1:
            beside = tuple(c + (a == axis) for a, c in enumerate(centre))
            matrix[:, axis] = coordinates[beside] - coordinates[centre]
    return matrix


def _pieces(mask):
    mask = np.atleast_3d(mask) if mask.ndim < 3 else mask
    return int(np.sum(sizes_of(connected(mask))[1:] >= LEAST_PIECE))


CHECKS = (
    Check(("augment.destroys_labels",), destroys_labels),
    Check(("augment.implausible",), implausible),
)
