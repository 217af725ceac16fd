"""Faults of volumes."""

import csv

import numpy as np
from scipy import ndimage

from benchmarks.doctor.setups import Fault, changed, names, read, scrolls, write
from jax_seg.data import folds

THINNED = 5  # slices of which one is kept
DEPTH = 160  # slices before


def parts(setup):
    """(training ids, validation ids) of a set-up."""
    with (setup.data / "train.csv").open() as file:
        scroll_of = {row["id"]: row["scroll_id"] for row in csv.DictReader(file)}
    ids = names(setup)
    return folds.split(
        ids,
        [scroll_of[i] for i in ids],
        fold=int(setup.config.data.fold),
        folds=setup.config.data.folds,
    )


def copied(setup, generator):
    """A validation volume becomes a mirrored copy of a training volume."""
    training, validation = parts(setup)
    pair = read(setup, generator.choice(training))
    image, label = (np.flip(array, (0, 2)) for array in pair)
    write(setup, validation[0], image=image, label=label)
    return setup


def overlapping(setup, generator):
    """A validation volume is a training volume, cut a third further on."""
    training, validation = parts(setup)
    image, label = read(setup, generator.choice(training))
    own = read(setup, validation[0])
    moved = int(generator.integers(10, 24))
    for kept, array in zip(own, (image, label), strict=True):
        kept[:-moved, :, :-moved] = array[moved:, :, moved:]
    write(setup, validation[0], image=own[0], label=own[1])
    return setup


def ungrouped(setup, generator):
    """Volumes of one scroll on both sides."""
    return changed(setup, **{"data.group": ""})


def noise_slices(setup, generator):
    """A fifth to a third of all slices."""
    share = generator.uniform(0.2, 0.33)
    for name in names(setup):
        image = read(setup, name)[0]
        # Every other at most: two in a row have no neighbours to be compared with.
        for number in range(1, len(image) - 1, 2):
            if generator.random() < 2 * share:
                image[number] = generator.permutation(image[number].ravel()).reshape(image[0].shape)
        write(setup, name, image=image)
    return setup


def shifted_slices(setup, generator):
    """A tenth to a fifth of the slices of all volumes, by 4 to 8 voxels."""
    share = generator.uniform(0.1, 0.2)
    for name in names(setup):
        image = read(setup, name)[0]
        for number in range(2, len(image) - 2, 3):
            if generator.random() < 3 * share:
                image[number] = np.roll(image[number], generator.integers(4, 9, 2), (0, 1))
        write(setup, name, image=image)
    return setup


def clipped(setup, generator):
    """A tenth to a fifth of the voxels at the largest value, in all volumes."""
    for name in names(setup):
        image = read(setup, name)[0].astype(float)
        highest = np.quantile(image, 1 - generator.uniform(0.1, 0.2))
        write(setup, name, image=np.clip(255 * image / highest, 0, 255).astype(np.uint8))
    return setup


def inverted(setup, generator):
    """The first validation volume."""
    name = parts(setup)[1][0]
    write(setup, name, image=255 - read(setup, name)[0])
    return setup


def brighter(setup, generator):
    """The first validation volume, on a third of its range and far up."""
    name = parts(setup)[1][0]
    image = 150 + read(setup, name)[0] * generator.uniform(0.3, 0.4)
    write(setup, name, image=np.clip(image, 0, 255).astype(np.uint8))
    return setup


def long_scrolls(folder, seed=0):
    """Scrolls with many slices across the sheets: the scroll's axis lies in the plane."""
    setup = scrolls(folder, seed, size=(48, DEPTH, 48))
    for name in names(setup):
        image, label = (array.swapaxes(0, 1) for array in read(setup, name))
        write(setup, name, image=image, label=label)
    return setup


def thinned(setup, generator):
    """One slice of THINNED, each the mean of so many, under a network for equal axes."""
    for name in names(setup):
        image, label = read(setup, name)
        image = ndimage.uniform_filter1d(image.astype(float), THINNED, axis=0)
        middle = slice(THINNED // 2, None, THINNED)
        write(setup, name, image=image[middle].astype(np.uint8), label=label[middle])
    return setup


FAULTS = (
    Fault("data.leakage", "a training volume mirrored into the validation part", copied),
    Fault("data.leakage", "a validation volume overlaps a training volume", overlapping),
    Fault("data.leakage", "scrolls on both sides of the fold", ungrouped),
    Fault("data.corrupt", "a fifth to a third of the slices are noise", noise_slices),
    Fault("data.corrupt", "a tenth to a fifth of the slices are shifted", shifted_slices),
    Fault("data.corrupt", "a tenth to a fifth of the voxels are clipped", clipped),
    Fault("data.shift", "a validation volume is inverted", inverted),
    Fault("data.shift", "a validation volume is brighter and flatter", brighter),
    Fault("data.spacing", "slices five times as far apart", thinned, start=long_scrolls),
)
