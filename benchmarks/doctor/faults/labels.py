"""Faults of labels."""

import numpy as np
from scipy import ndimage

from benchmarks.doctor.setups import Fault, changed, names, read, write

SURFACE, BACKGROUND = 1, 0  # in the label files


def notes_mapping(setup, generator):
    """As in the notes: 2 means unlabelled, and is foreground."""
    return changed(setup, **{"data.foreground": (1, 2), "data.ignore": ()})


def rest_mapping(setup, generator):
    """All that is not background is foreground."""
    return changed(setup, **{"data.foreground": ("rest",), "data.ignore": ()})


def all_shifted(setup, generator):
    """Every label two or three voxels along height."""
    distance = int(generator.integers(2, 4))
    for name in names(setup):
        label = read(setup, name)[1]
        write(setup, name, label=ndimage.shift(label, (0, distance, 0), order=0, mode="nearest"))
    return setup


def some_mirrored(setup, generator):
    """Three labels of eight along one axis."""
    axis = int(generator.integers(3))
    for name in generator.choice(names(setup), 3, replace=False):
        write(setup, name, label=np.flip(read(setup, name)[1], axis))
    return setup


def some_transposed(setup, generator):
    """Two labels, height and width exchanged."""
    for name in generator.choice(names(setup), 2, replace=False):
        write(setup, name, label=read(setup, name)[1].swapaxes(1, 2))
    return setup


def two_swapped(setup, generator):
    """The labels of two volumes exchanged."""
    one, other = generator.choice(names(setup), 2, replace=False)
    labels = read(setup, one)[1], read(setup, other)[1]
    write(setup, one, label=labels[1])
    write(setup, other, label=labels[0])
    return setup


def some_thicker(setup, generator):
    """Sheets of two volumes one voxel thicker on each side."""
    for name in generator.choice(names(setup), 2, replace=False):
        label = read(setup, name)[1]
        thick = ndimage.binary_dilation(label == SURFACE)
        write(setup, name, label=np.where(thick & (label == BACKGROUND), SURFACE, label))
    return setup


def pieces_missing(setup, generator):
    """About a third of all sheets, in pieces of about 30 voxels, as background."""
    share = generator.uniform(0.28, 0.38)
    for name in names(setup):
        label = read(setup, name)[1]
        noise = ndimage.gaussian_filter(generator.standard_normal(label.shape), 12)
        surface = label == SURFACE
        missing = surface & (noise < np.quantile(noise[surface], share))
        write(setup, name, label=np.where(missing, BACKGROUND, label))
    return setup


def unlabeled_as_background(setup, generator):
    """2 means unlabelled, and is background."""
    return changed(setup, **{"data.background": (0, 2), "data.ignore": ()})


FAULTS = (
    Fault(
        "labels.unlabeled_as_foreground", "value 2 is foreground, as in the notes", notes_mapping
    ),
    Fault("labels.unlabeled_as_foreground", "all but background is foreground", rest_mapping),
    Fault("labels.misaligned", "all labels shifted by 2 or 3 voxels", all_shifted),
    Fault("labels.misaligned", "three labels of eight mirrored", some_mirrored),
    Fault("labels.misaligned", "two labels transposed", some_transposed),
    Fault("labels.swapped", "two labels exchanged", two_swapped),
    Fault("labels.inconsistent", "two labels 1 voxel thicker on each side", some_thicker),
    Fault("labels.incomplete", "a third of the sheets is background", pieces_missing),
    Fault("labels.incomplete", "value 2, unlabelled, is background", unlabeled_as_background),
)
