"""A generated CT volume of a rolled, carbonised papyrus, with partial surface labels.

A scroll is one long sheet wound into a spiral. Every voxel has a *phase*: turns counted outwards,
an integer on the sheet. The phase is bent by noise that never folds it, so wraps crowd and part
but do not cross; the distance to the sheet follows from its gradient. Papyrus, debris, air and
grit are painted on that geometry, then blurred and disturbed as a scanner would. Labels come from
the geometry: exact where given, and given only around the stretches of sheet that were traced.

The same seed gives the same volume on any machine: transcendental functions and matrix products
are float64, and float32 takes only operations that IEEE 754 rounds in one way.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

BACKGROUND, SURFACE, UNLABELED = 0, 1, 2  # in the label file, as the competition has them


class Look(NamedTuple):
    """The appearance of a generated volume.

    Attributes:
      spacing: mean distance between neighbouring wraps, voxels.
      turns: lowest and highest number of wraps between the axis and the centre of the volume.
      handedness: 1 or -1, the sense of the spiral.
      squash: short over long diameter of the scroll.
      compression: standard deviation of the logarithm of the wraps per voxel.
      warp: standard deviation of the radial displacement over about 60 voxels, voxels.
      crumple: the same over about 20 voxels, voxels.
      thickness: of the sheet, voxels.
      holes: fraction of the sheet that is missing.
      fibre: relative standard deviation of the sheet's density due to each layer of fibres.
      sheet_variation: relative standard deviation of density along the unrolled sheet.
      papyrus: mean density of the sheet above its surroundings, fraction of the grey range.
      air: fraction of the volume that is one or several voids without papyrus.
      filling: mean density between the wraps, fraction of the grey range.
      filling_variation: its relative standard deviation, at about 5 and again at 25 voxels.
      grit: dense grains per million voxels.
      blur: standard deviation of the point spread, voxels.
      grain: standard deviation of the noise that the point spread correlates, fraction of grey.
      white_noise: standard deviation of the uncorrelated noise, fraction of grey.
      rings: standard deviation of the ring artefacts, fraction of grey.
      labelled: mean fraction of voxels that carry a label.
    """

    spacing: float = 15.0
    turns: tuple[float, float] = (2.0, 10.0)
    handedness: int = 1
    squash: float = 0.75
    compression: float = 0.45
    warp: float = 11.0
    crumple: float = 1.6
    thickness: float = 2.0
    holes: float = 0.1
    fibre: float = 0.25
    sheet_variation: float = 0.2
    papyrus: float = 0.42
    air: float = 0.06
    filling: float = 0.22
    filling_variation: float = 0.35
    grit: float = 40.0
    blur: float = 0.9
    grain: float = 0.03
    white_noise: float = 0.03
    rings: float = 0.02
    labelled: float = 0.42


def scroll_volume(seed, size=96, **look):
    """Image and label of one piece of a scroll whose axis runs roughly along the first dimension.

    Geometry, sheet, surroundings, scanner and annotator draw from streams of their own, so changing
    an attribute of one does not affect the others.

    Args:
      seed: non-negative int, or a sequence of them.
      size: voxels per side, or (D, H, W); 32 or more each.
      **look: attributes of `Look` that differ from its defaults.

    Returns:
      (image, label), uint8 [D, H, W]; label 0 background, 1 surface, 2 unlabelled.

    Raises:
      ValueError: a side below 32 voxels, or not one or three sides.
    """
    shape, look = volume_shape(size), Look(**look)
    names = ("geometry", "sheet", "surroundings", "scanner", "annotator")
    streams = np.random.SeedSequence(seed).spawn(len(names))
    stream = {
        n: np.random.Generator(np.random.PCG64(s)) for n, s in zip(names, streams, strict=True)
    }

    distance, turn, crowded = _wind(stream["geometry"], shape, look)
    void = _void(stream["surroundings"], shape, look.air)
    density = _sheet_density(stream["sheet"], distance, turn, void, look)
    sheet = (density > 0) & (np.abs(distance) <= look.thickness / 2)
    label = _annotate(
        stream["annotator"], sheet, distance, turn, crowded, look.spacing, look.labelled
    )
    density *= look.papyrus
    density += _surroundings(stream["surroundings"], void, look)
    return _scan(stream["scanner"], density, look), label


def smooth_noise(generator, shape, scale):
    """Gaussian noise of mean 0 and mean variance 1: a cubic B-spline with random coefficients.

    Args:
      generator: numpy Generator.
      shape: (D, H, W).
      scale: voxels between coefficients, one number or one per axis.

    Returns:
      float32 [D, H, W].
    """
    bases = [
        _cubic_bspline(length, step, generator.random())
        for length, step in zip(shape, np.broadcast_to(scale, 3), strict=True)
    ]
    planes = np.tensordot(bases[0], generator.standard_normal([b.shape[1] for b in bases]), 1)
    field = np.empty(shape, np.float32)
    for z, plane in enumerate(planes):
        field[z] = bases[1] @ plane @ bases[2].T
    return field


def _cubic_bspline(length, step, offset):
    """Values at `length` voxels of the B-splines `step` apart, scaled to unit mean variance."""
    position = np.arange(length) / step + offset
    knots = np.arange(-1, np.floor(position[-1]) + 3)
    u = np.abs(position[:, None] - knots)
    values = (np.maximum(2 - u, 0) ** 3 - 4 * np.maximum(1 - u, 0) ** 3) / 6
    return values / np.sqrt(151 / 315)  # the integral of the squared cubic B-spline


def _line_noise(generator, length, scale):
    return smooth_noise(generator, (length, 1, 1), (scale, 1, 1))[:, 0, 0].astype(np.float64)


def volume_shape(size):
    """(D, H, W) of a size given as one number or three; ValueError below 32 voxels."""
    shape = tuple(int(s) for s in np.atleast_1d(size))
    shape = shape * 3 if len(shape) == 1 else shape
    if len(shape) != 3 or min(shape) < 32:
        raise ValueError(
            f"size is {size}, but a volume has one or three sides of at least 32 voxels."
        )
    return shape


def _wind(generator, shape, look):
    """Signed distance to the sheet (voxels), turn of the nearest wrap, and where wraps merge."""
    depth, height, width = shape
    outward = 2 * np.pi * generator.random()
    squash_direction = np.pi * generator.random()
    cosine, sine = np.cos(squash_direction), np.sin(squash_direction)
    reach = look.spacing * generator.uniform(*look.turns)
    tilt = 0.1 * generator.standard_normal(2)
    z = np.arange(depth) - depth / 2
    # The axis relative to the centre of each slice.
    axis_y = reach * np.sin(outward) + tilt[0] * z + 5 * _line_noise(generator, depth, 60)
    axis_x = reach * np.cos(outward) + tilt[1] * z + 5 * _line_noise(generator, depth, 60)
    farthest = np.hypot(np.abs(axis_y).max() + height / 2, np.abs(axis_x).max() + width / 2)

    bend = look.warp * smooth_noise(generator, shape, 60)
    bend += look.crumple * smooth_noise(generator, shape, 20)

    per_turn = 16
    count = per_turn * int(
        2 + (farthest / np.sqrt(look.squash) + 6 * (look.warp + look.crumple)) / look.spacing
    )
    growth = np.exp(
        look.compression * _line_noise(generator, count, per_turn) - look.compression**2 / 2
    )
    wraps = np.cumsum(growth) / per_turn
    radii = np.arange(count) * look.spacing / per_turn

    phase, turn = bend, np.empty_like(bend)  # in place: a field of 320³ is 131 MB
    for k in range(depth):
        y = np.arange(height)[:, None] - height / 2 - axis_y[k]
        x = np.arange(width) - width / 2 - axis_x[k]
        u = cosine * y + sine * x
        v = (cosine * x - sine * y) / look.squash
        angle = look.handedness * np.arctan2(v, u) / (2 * np.pi)
        phase[k] = np.interp(np.hypot(u, v) * np.sqrt(look.squash) + bend[k], radii, wraps) - angle
        turn[k] = np.rint(phase[k]) + angle

    steepness = np.sqrt(sum(_periodic_slope(phase, axis) ** 2 for axis in range(3)))
    distance = (phase - np.rint(phase)) / np.maximum(steepness, np.float32(1e-3))
    # Near the axis the spiral winds faster than voxels can show.
    return distance, turn, (steepness > 0.3) | (turn < 0.7)


def _periodic_slope(phase, axis):
    """Derivative per voxel along an axis of a field that is defined up to whole turns."""
    step = np.diff(np.moveaxis(phase, axis, 0), axis=0)
    step -= np.rint(step)
    step = np.concatenate([step[:1], step, step[-1:]])
    return np.moveaxis((step[:-1] + step[1:]) / 2, 0, axis)


def _along_sheet(generator, turn, scale):
    """Unit noise that is constant across the sheet and varies over `scale` turns along it."""
    per_turn = 32
    count = per_turn * (int(turn.max()) + 3)
    noise = _line_noise(generator, count, scale * per_turn)
    values = np.empty(turn.shape, np.float32)
    for k, plane in enumerate(turn):
        values[k] = np.interp(plane, np.arange(count) / per_turn - 1, noise)
    return values


def _sheet_density(generator, distance, turn, void, look):
    """Mean 1 on the sheet, 0 off it, with partial volume at its faces."""
    shape = distance.shape
    density = np.clip((look.thickness + 1) / 2 - np.abs(distance), 0, 1)
    density[void | (smooth_noise(generator, shape, 12) < special.ndtri(look.holes))] = 0
    density *= 1 + look.sheet_variation * _along_sheet(generator, turn, 0.4)
    # One layer of fibres runs along the scroll's axis, the other around it.
    along = smooth_noise(generator, shape, (30, 2.5, 2.5))
    around = smooth_noise(generator, shape, (2.5, 14, 14))
    density *= np.maximum(1 + look.fibre * np.where(distance > 0, along, around), 0.2)
    return density


def _void(generator, shape, fraction):
    """Ragged pieces of air."""
    field = smooth_noise(generator, shape, 50)
    field += 0.3 * smooth_noise(generator, shape, 10)
    return field < np.quantile(field, fraction, method="lower")


def _surroundings(generator, void, look):
    """Debris between the wraps, nearly nothing in the voids, and dense grains."""
    debris = smooth_noise(generator, void.shape, 5) + smooth_noise(generator, void.shape, 25)
    density = 1 + look.filling_variation * debris
    density[void] = 0.3
    density *= look.filling
    for _ in range(generator.poisson(look.grit * void.size / 1e6)):
        center = generator.uniform(0, void.shape)
        radius = generator.uniform(1, 3)
        brightness = generator.uniform(0.4, 0.9)
        start = np.maximum(center - radius, 0).astype(int)
        stop = np.minimum(center + radius + 1, void.shape).astype(int)
        box = tuple(map(slice, start, stop))
        offsets = np.ogrid[box]
        inside = sum((o - c) ** 2 for o, c in zip(offsets, center, strict=True)) <= radius**2
        density[box][inside] = brightness
    return density


def _scan(generator, density, look):
    """The uint8 image that a scanner makes of the density."""
    shape = density.shape
    # The blur divides the standard deviation of white noise by this factor.
    spread = max(2 * math.sqrt(math.pi) * look.blur, 1) ** 1.5
    density += look.grain * spread * generator.standard_normal(shape, np.float32)
    image = ndimage.gaussian_filter(density, look.blur, output=density, truncate=3)
    image += look.white_noise * generator.standard_normal(shape, np.float32)
    center = generator.uniform(-0.5, 1.5, 2) * shape[1:]
    y, x = np.mgrid[: shape[1], : shape[2]]
    radius = np.hypot(y - center[0], x - center[1])
    pattern = generator.standard_normal(int(radius.max()) + 2)[np.rint(radius).astype(int)]
    strength = 1 + 0.4 * _line_noise(generator, shape[0], 40)
    for k, plane in enumerate(image):
        plane += look.rings * strength[k] * pattern
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _annotate(generator, sheet, distance, turn, crowded, spacing, labelled):
    """Labels around the stretches of sheet that an annotator would have traced."""
    score = smooth_noise(generator, sheet.shape, 40) + _along_sheet(generator, turn, 0.3)
    score[crowded | (np.abs(distance) > spacing)] = -np.inf
    wanted = np.clip(labelled + generator.uniform(-0.08, 0.08), 0, 1)
    traced = score > np.quantile(score, 1 - wanted, method="lower")
    return np.where(traced, np.where(sheet, SURFACE, BACKGROUND), UNLABELED).astype(np.uint8)
