"""Faults of sampling."""

import numpy as np
from scipy import ndimage

from benchmarks.doctor.setups import Fault, changed, names, read, scrolls, write


def balls(folder, seed, size=72):
    """Volumes with a bright ball each, in all of which every voxel is labelled."""
    setup = scrolls(folder, seed, size=size)
    for number, name in enumerate(names(setup)):
        generator = np.random.default_rng([seed, number])
        image = 90 + 6 * generator.standard_normal((size,) * 3)
        image += 60 * ndimage.gaussian_filter(generator.standard_normal(image.shape), 2)
        label = np.zeros(image.shape, np.uint8)
        centre = generator.integers(8, size - 8, (3, 1, 1, 1))
        label[np.sum((np.indices(image.shape) - centre) ** 2, 0) <= 4**2] = 1
        image += 70 * ndimage.gaussian_filter(label.astype(np.float32), 0.7)
        write(setup, name, image=image.clip(0, 255).astype(np.uint8), label=label)
    return changed(setup, **{"data.patch": (24, 24, 24)})


def _random_places(setup, generator):
    return changed(setup, **{"data.foreground_share": 0.0})


def _little_foreground_wanted(setup, generator):
    share = float(generator.uniform(0.0005, 0.002))
    return changed(setup, **{"data.foreground_share": 0.1, "data.balance_target": share})


def _background_ignored(setup, generator):
    return changed(setup, **{"data.background": (), "data.ignore": (0, 2)})


def _but_for_a_cube(label, width, generator):
    """`label` without what lies outside of a cube at a foreground voxel."""
    foreground = np.argwhere(label == 1)
    corner = np.maximum(foreground[generator.integers(len(foreground))] - width // 2, 0)
    kept = tuple(slice(first, first + width) for first in corner)
    masked = np.full_like(label, 2)
    masked[kept] = label[kept]
    return masked


def _unlabelled_volumes(setup, generator):
    for name in names(setup)[:5]:
        width = int(generator.integers(6, 9))
        write(setup, name, label=_but_for_a_cube(read(setup, name)[1], width, generator))
    return setup


def _cubes(setup, generator):
    for name in names(setup):
        width = int(generator.integers(10, 14))
        write(setup, name, label=_but_for_a_cube(read(setup, name)[1], width, generator))
    return changed(setup, **{"data.patch": (64, 64, 64)})


def _foreground_alone(setup, generator):
    return changed(setup, **{"data.foreground_share": 1.0, "data.patches_per_volume": 12})


def _few_patches(setup, generator):
    side = 4 * int(generator.integers(3, 5))
    return changed(setup, **{"data.patch": (side,) * 3, "data.patches_per_volume": 1})


def _larger_than_the_volumes(setup, generator):
    side = int(generator.choice((64, 72, 80)))
    return changed(setup, **{"data.patch": (side,) * 3})


def _large(folder, seed):
    return scrolls(folder, seed, size=72)


FAULTS = (
    Fault(
        "sampling.no_foreground",
        "patches at random places where foreground is rare",
        _random_places,
        start=balls,
    ),
    Fault(
        "sampling.no_foreground",
        "of four places, the one with the least foreground",
        _little_foreground_wanted,
        start=balls,
    ),
    Fault("sampling.mostly_masked", "background is in data.ignore", _background_ignored),
    Fault(
        "sampling.mostly_masked",
        "five of eight volumes unlabelled but for a small cube",
        _unlabelled_volumes,
    ),
    Fault(
        "sampling.mostly_masked",
        "patches of 64³ around labelled cubes of 12³",
        _cubes,
        start=_large,
    ),
    Fault(
        "sampling.coverage",
        "every patch placed at foreground, where it is rare",
        _foreground_alone,
        start=balls,
    ),
    Fault("sampling.coverage", "a small patch of each volume an epoch", _few_patches, start=_large),
    Fault("sampling.padding", "patches larger than the volumes", _larger_than_the_volumes),
)
