"""Faults of augmentation and preprocessing."""

import numpy as np
from scipy import ndimage

from benchmarks.doctor.setups import Fault, changed, names, read, scrolls, write


def thin_sheets(folder, seed):
    """Volumes crossed by tilted sheets whose labels are one voxel thick."""
    setup = scrolls(folder, seed)
    for number, name in enumerate(names(setup)):
        generator = np.random.default_rng([seed, number])
        shape = read(setup, name)[0].shape
        normal = generator.standard_normal(3) * 0.3 + (1, 0, 0)
        place = np.tensordot(normal / np.linalg.norm(normal), np.indices(shape), 1)
        distance = np.abs((place + generator.uniform(0, 8)) % 12 - 6)
        image = 70 + 90 * np.exp(-(distance**2) / 2) + 8 * generator.standard_normal(shape)
        image += 40 * ndimage.gaussian_filter(generator.standard_normal(shape), 2)
        label = (distance <= 0.5).astype(np.uint8)
        write(setup, name, image=image.clip(0, 255).astype(np.uint8), label=label)
    return setup


def _range(name, low, high, width, probability=1.0):
    """Plants a transform whose range begins between `low` and `high` and is `width` wide."""

    def plant(setup, generator):
        start = float(generator.uniform(low, high))
        limits = {f"augment.{name}_range": (start, start + width)}
        return changed(setup, **{f"augment.{name}": probability}, **limits)

    return plant


def _from_near_black(setup, generator):
    high = float(generator.uniform(4.5, 6.0))
    fields = {"augment.brightness": 1.0, "augment.brightness_range": (0.02, high)}
    return changed(setup, **fields)


def _clipped_above(setup, generator):
    return changed(setup, **{"preprocess.high_percentile": float(generator.uniform(40, 55))})


def _clipped_below(setup, generator):
    return changed(setup, **{"preprocess.low_percentile": float(generator.uniform(88, 93))})


def _rescaled_since(setup, generator):
    factor = float(generator.uniform(1.6, 2.4))

    def rescale(workdir):
        for name in names(setup):
            image = read(setup, name)[0]
            write(setup, name, image=(image / factor).astype(np.uint8))

    return setup._replace(after=(*setup.after, rescale))


def _sixteen_bits(setup, generator):
    factor = int(generator.integers(180, 257))
    for name in names(setup)[:3]:
        write(setup, name, image=read(setup, name)[0].astype(np.uint16) * factor)
    return setup


FAULTS = (
    Fault(
        "augment.destroys_labels",
        "sheets one voxel thick scaled by 2",
        _range("scale", 1.7, 2.2, 0.5),
        start=thin_sheets,
    ),
    Fault("augment.destroys_labels", "scaled out of sight", _range("scale", 1.8, 2.2, 1.0)),
    Fault(
        "augment.implausible", "noise as strong as the image", _range("noise", 0.9, 1.3, 0.7, 0.8)
    ),
    Fault("augment.implausible", "strong blur", _range("blur", 2.5, 4.0, 1.0, 0.8)),
    Fault("augment.implausible", "brightness from near black to white", _from_near_black),
    Fault("preprocess.saturated", "clipped above the median", _clipped_above),
    Fault("preprocess.saturated", "clipped below a high percentile", _clipped_below),
    Fault(
        "preprocess.skew", "every training input brightened", _range("brightness", 1.5, 1.9, 0.4)
    ),
    Fault("preprocess.skew", "volumes rescaled after the run", _rescaled_since, trains=True),
    Fault("preprocess.skew", "some volumes in 16 bits", _sixteen_bits),
)
