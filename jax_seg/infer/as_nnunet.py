"""Segment a volume exactly as nnU-Net does, for networks imported from it.

How nnU-Net (Isensee et al. 2021, version 2) differs from `sliding_window`: It leaves out what lies
around the input, however intensities are normalised. It resamples a volume to the spacing that the
network was trained on. It averages logits, over flips within each window and over folds, where this
project averages probabilities. A volume smaller than the window is extended by what normalises to
0. The step from window to window need not be whole voxels. And sums of weighted logits of every
class, and sums of weights, are in half precision: near the volume's edges, where no window has much
weight, its probabilities are rounded by as much as 0.2.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_seg.data.preprocess import PerVolume, Preprocessing, as_array, preprocess
from jax_seg.data.readers.spacing import completed
from jax_seg.data.resample import changes_shape, new_shape, require_memory, resample
from jax_seg.data.sampling import with_channels
from jax_seg.infer.ensemble import PLANE, turn_back
from jax_seg.infer.part import Part, cropped, whole
from jax_seg.infer.sliding_window import axes_of, read, trimmed
from jax_seg.infer.volume import background, placed, resampled_back

PEAK = 10.0  # nnU-Net's largest weight in a window
NORMALISED = Preprocessing(-3e38, 3e38, 0.0, 1.0)  # of a volume that is normalised already
BOX = PerVolume("percentile", 0.0, 100.0, "box")  # finds the box of a volume; the quickest rule


def segment_volume(
    network,
    volume,
    preprocessing,
    *,
    patch,
    overlap,
    orientations,
    spacing=None,
    trained=None,
    classes=1,
):
    """The logits of a whole volume, or of a part of one.

    Args:
      network: [1, *patch, C] as stored, own -> float32 logits [1, *patch, K], of
        `network.make_network` with its variables and a `PerVolume`; K as many as nnU-Net's network
        has.
      volume: [D, H, W] as stored, or [D, H, W, C]; or the `Part` of one, without `spacing`.
      preprocessing: `Preprocessing` or `PerVolume`.
      patch: window in voxels.
      overlap: share of a window that its neighbour covers too, about.
      orientations: of `ensemble.orientations_of`, over which each window's logits are averaged.
      spacing: (z, y, x) of the volume; None where it is not known.
      trained: the spacing that the network was trained on, in the same unit, or None. A volume that
        has another shape there is resampled to it, and its logits back, but not along an axis where
        it is None.
      classes: number of them.

    Returns:
      float32 [D, H, W] on the device, of several classes [D, H, W, classes]: the logits, less that
      of the background where the network has one.
    """
    part = volume if isinstance(volume, Part) else whole(np.asarray(volume))
    numbers, box = part.measured(measuring(preprocessing))
    if not isinstance(preprocessing, PerVolume):
        numbers = preprocessing
    inside = original = cropped(part, box)
    if inside is None:
        return background(part, classes)
    zero = 0.0 if getattr(preprocessing, "region", "") == "nonzero" else numbers.shift
    trained = trained and spacing and completed(trained, spacing)
    # Where the whole keeps its shape its box does, too; a box that alone does stays as it is.
    if resampled := bool(trained and changes_shape(part.whole, spacing, trained)):
        shape = new_shape(inside.whole, spacing, trained)
        require_memory(inside.whole, shape)
        voxels = inside.read((0, 0, 0), inside.whole)
        voxels = np.asarray(preprocess(voxels, as_rule(preprocessing), as_array(numbers)))
        channels = np.moveaxis(with_channels(voxels), -1, 0)
        each = [resample(one, shape, spacing, trained, 3) for one in channels]
        inside, numbers, zero = whole(np.stack(each, -1)), NORMALISED, 0.0
    options = {"patch": tuple(patch), "overlap": overlap, "orientations": orientations}
    sums = _sums(functools.partial(network, own=as_array(numbers)), inside, zero, **options)
    logits = _divided(*sums, classes)
    if resampled:
        logits = resampled_back(logits, original.whole, trained, spacing)
    return placed(logits, box, part)


def window_starts(length, window, overlap):
    """As `sliding_window.window_starts`, with a step that need not be whole voxels.

    Of odd windows, so an overlap may be smaller than the given one.
    """
    last = length - window
    count = math.ceil(last / max(window * (1 - overlap), 1)) + 1
    step = last / max(count - 1, 1)
    return [round(step * number) for number in range(count)]


def measuring(preprocessing):
    """The `PerVolume` that finds the box of a volume, and its numbers if the network wants them."""
    return preprocessing if isinstance(preprocessing, PerVolume) else BOX


def _sums(network, part, zero, *, patch, overlap, orientations):
    """([*size, K] weighted logits, [*size] weights) of a `Part`, added in half precision.

    The windows that hold a voxel are added in the order of the whole volume's, so a part equals the
    same part of the whole.
    """
    axes = axes_of(part, patch, overlap, window_starts)
    voxels = with_channels(read(part, axes, zero))
    if voxels.dtype.itemsize > 4:
        voxels = voxels.astype(np.float32)
    size, shape, voxels = (*patch, voxels.shape[3]), voxels.shape[:3], jnp.asarray(voxels)
    weights, sums = jnp.asarray(_weights(patch)), None
    starts = list(itertools.product(*(axis.starts for axis in axes)))
    part.tally.update(windows=len(starts))
    for start in starts:
        window, logits = lax.dynamic_slice(voxels, (*start, 0), size), 0.0
        for orientation in orientations:
            turned = _turned(window, orientation)[None]
            logits += turn_back(network(turned)[0], orientation) / len(orientations)
        if sums is None:
            zeros = functools.partial(jnp.zeros, dtype=jnp.float16)
            sums = zeros((*shape, logits.shape[-1])), zeros(shape)
        sums = _add(*sums, _weigh(logits, weights), weights, np.array(start, np.int32))
    return tuple(trimmed(one, axes, part) for one in sums)


def as_rule(preprocessing):
    """A `PerVolume` for the network, so that it takes its numbers as an argument in any case."""
    if isinstance(preprocessing, PerVolume):
        return preprocessing
    return PerVolume("zscore", 0.0, 100.0, "all")


@functools.partial(jax.jit, static_argnums=1)
def _turned(window, orientation):
    """`ensemble.turn` on the device."""
    return jnp.rot90(jnp.flip(window, orientation.flips), orientation.turns, PLANE)


def _weights(patch):
    """A window's weights in half precision, [*patch]; those that vanish become the smallest."""
    profiles = []
    for length in patch:  # Gaussians of sigma length / 8, centred on a voxel
        distances = (np.arange(length) - length // 2) / (length / 8)
        profiles.append(np.exp(-0.5 * np.square(distances)))
    weights = np.einsum("i,j,k->ijk", *profiles)
    weights = (PEAK * weights / weights.max()).astype(np.float16)
    return np.where(weights == 0, weights[weights > 0].min(), weights)


@jax.jit
def _weigh(logits, weights):
    """Apart from `_add`, as in `sliding_window`, so that each product is rounded by itself."""
    return logits * weights.astype(jnp.float32)[..., None]


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _add(logit_sums, weight_sums, weighted, weights, start):
    """Each sum with a window added, computed in float32 and rounded to half precision."""
    corner = (*start, 0)
    here = lax.dynamic_slice(logit_sums, corner, weighted.shape).astype(jnp.float32) + weighted
    there = lax.dynamic_slice(weight_sums, start, weights.shape).astype(jnp.float32)
    return (
        lax.dynamic_update_slice(logit_sums, here.astype(jnp.float16), corner),
        lax.dynamic_update_slice(
            weight_sums, (there + weights.astype(jnp.float32)).astype(jnp.float16), start
        ),
    )


@functools.partial(jax.jit, static_argnums=2)
def _divided(logit_sums, weight_sums, classes):
    mean = logit_sums.astype(jnp.float32) / weight_sums.astype(jnp.float32)[..., None]
    mean = lax.reduce_precision(mean, exponent_bits=5, mantissa_bits=10)  # as half precision does
    logits = mean[..., 1:] - mean[..., :1] if mean.shape[-1] > classes else mean
    return logits[..., 0] if classes == 1 else logits
