"""How well a label explains an image: where it lies, shifted, mirrored, or as another's label.

The image becomes a few maps that turn with it: means at three scales, edges, bright and dark
ridges. The correlation of the label with their best linear combination needs no idea of what
foreground looks like: bright or dark, a sheet, a blob or another texture.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from jax_seg.diagnosis import crops
from jax_seg.ops.classes import FOREGROUND, MASKED

VOXELS = {True: 64_000, False: 125_000}  # in the middle, that are looked at, quick or not
FARTHEST = 8  # voxels: shifts that are looked at, several times the thickness of a sheet
SCALES = (1.0, 2.0, 4.0)  # voxels: of the means
RIDGE = 1.5  # voxels: scale of edges and ridges
RIDGE_PENALTY = 1e-3  # of the mean variance: constant and equal maps then do no harm
SAMPLED = 20_000  # voxels for placements that are compared as a whole, not by a voxel
MINIMUM = 200  # voxels of foreground and of background: fewer say nothing


class Moments(NamedTuple):
    """Products of a volume's maps with a label, for each placement of the label.

    Attributes:
      covariance: float64 [P, K, K] of the maps, over labelled voxels.
      product: float64 [P, K], covariance of the maps and the label.
      variance: float64 [P] of the label.
    """

    covariance: np.ndarray
    product: np.ndarray
    variance: np.ndarray

    def join(self, *others):
        """All placements in one."""
        return Moments(*(np.concatenate(parts) for parts in zip(self, *others, strict=True)))

    def at(self, index):
        """(covariance, product, variance) of one placement."""
        return self.covariance[index], self.product[index], self.variance[index]


def middle(shape, voxels):
    """Slices of the middle of a volume, at most that many voxels: long axes are cut first."""
    # Fourier transforms of other lengths take several times as long.
    size = [fft.prev_fast_len(n, real=True) for n in crops.shrunk(shape, voxels)]
    return crops.middle(shape, size)


def maps(image):
    """float32 [6, D, H, W] of an image: means at SCALES, edges, and the two kinds of ridges.

    Ridges are the largest and smallest eigenvalue of the Hessian (Frangi et al. 1998).
    """
    image = image.astype(np.float32)
    low, high = np.percentile(image, (0.5, 99.5))
    image = (np.clip(image, low, high) - low) / max(high - low, 1e-12)
    found = [ndimage.gaussian_filter(image, scale) for scale in SCALES]
    axes = [axis for axis in range(3) if image.shape[axis] > 1]
    found.append(np.sqrt(sum(_derivative(image, axis) ** 2 for axis in axes)))
    hessian = {(a, b): _derivative(image, a, b) for a in axes for b in axes if a <= b}
    found = np.stack([*found, *_extreme_eigenvalues(hessian, axes)])
    found -= found.mean((1, 2, 3), keepdims=True)
    return found / np.maximum(found.std((1, 2, 3), keepdims=True), 1e-6)


def moments_of(found, labels):
    """`Moments` of labels where they are.

    Args:
      found: maps [K, D, H, W].
      labels: iterable of encoded labels [D, H, W]; at most SAMPLED voxels of them are used.
    """
    chosen = np.arange(found[0].size)
    if chosen.size > SAMPLED:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, SAMPLED, replace=False))
    flat = found.reshape(len(found), -1)[:, chosen].astype(np.float64)
    return [_moments(flat, label.ravel()[chosen]) for label in labels]


def _moments(flat, label):
    """`Moments` of one label [N] with maps [K, N]."""
    labelled, foreground = label != MASKED, label == FOREGROUND
    count = max(np.count_nonzero(labelled), 1)
    share, mean = _share(foreground, labelled), flat @ labelled / count
    covariance = (flat * labelled) @ flat.T / count - np.outer(mean, mean)
    product = flat @ foreground / count - share * mean
    return Moments(covariance[None], product[None], np.array([share * (1 - share)]))


def moments_of_shifts(found, label, margin):
    """`Moments` of a label at every shift within a margin, by correlation with Fourier transforms.

    Args:
      found: maps [K, D, H, W].
      label: encoded, [D, H, W].
      margin: [3] voxels: the farthest shift. As many are omitted at the border.

    Returns:
      Moments of the shifts in the order of `shifts(margin)`: how far the label is moved.
    """
    inside = np.zeros(label.shape, bool)
    inside[tuple(slice(m, n - m) for m, n in zip(margin, label.shape, strict=True))] = True
    labelled = inside & (label != MASKED)
    foreground = labelled & (label == FOREGROUND)
    near = np.ix_(*(np.arange(-m, m + 1) % n for m, n in zip(margin, label.shape, strict=True)))
    weights = [np.conj(fft.rfftn(w.astype(np.float32), workers=2)) for w in (labelled, foreground)]

    def sums(values, weight):
        product = fft.rfftn(values, workers=2) * weight
        return fft.irfftn(product, s=label.shape, workers=2)[near].ravel().astype(np.float64)

    count, share = max(np.count_nonzero(labelled), 1), _share(foreground, labelled)
    means = np.stack([sums(one, weights[0]) for one in found], -1) / count
    product = np.stack([sums(one, weights[1]) for one in found], -1) / count - share * means
    covariance = np.empty((len(means), len(found), len(found)))
    for a, b in itertools.combinations_with_replacement(range(len(found)), 2):
        covariance[:, a, b] = covariance[:, b, a] = sums(found[a] * found[b], weights[0]) / count
    covariance -= means[:, :, None] * means[:, None, :]
    return Moments(covariance, product, np.full(len(means), share * (1 - share)))


def shifts(margin):
    """int [P, 3] of all shifts within a margin, the last axis fastest."""
    return np.stack(
        [
            axis.ravel()
            for axis in np.meshgrid(*(np.arange(-m, m + 1) for m in margin), indexing="ij")
        ],
        -1,
    )


def combination(moments):
    """[K] weights of the maps that explain labels best.

    Args:
      moments: list of (covariance, product, variance), one per volume, which count alike.
    """
    covariance = np.mean([one[0] for one in moments], 0)
    # Volumes with much foreground would otherwise decide alone.
    product = np.mean([one[1] / np.sqrt(max(one[2], 1e-12)) for one in moments], 0)
    penalty = RIDGE_PENALTY * np.trace(covariance) / len(covariance)
    return np.linalg.solve(covariance + penalty * np.eye(len(covariance)), product)


def correlations(moments, weights):
    """[P] correlation of the label at each placement with a combination of the maps."""
    spread = np.einsum("i,pij,j->p", weights, moments.covariance, weights)
    return moments.product @ weights / np.sqrt(np.maximum(spread * moments.variance, 1e-12))


def free_correlations(moments):
    """[P] correlation at each placement with the combination that is best there."""
    count = moments.covariance.shape[-1]
    penalty = RIDGE_PENALTY * np.trace(moments.covariance, axis1=1, axis2=2) / count
    regular = moments.covariance + penalty[:, None, None] * np.eye(count)
    solved = np.linalg.solve(regular, moments.product[..., None])[..., 0]
    explained = np.maximum(np.sum(solved * moments.product, -1), 0)
    return np.sqrt(explained / np.maximum(moments.variance, 1e-12))


def margin(shape):
    """[3] voxels: the farthest shifts of a volume of this shape."""
    return tuple(min(FARTHEST, n // 6) for n in shape)


def telling(examples, most, voxels):
    """At most `most` examples, evenly, whose middle has foreground and background to compare."""
    found = [one for one in examples if _tells(one.label[middle(one.label.shape, voxels)])]
    if not found:
        return []
    chosen = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))
    return [found[number] for number in chosen]


def _tells(label):
    inner = label[
        tuple(slice(m, n - m) for m, n in zip(margin(label.shape), label.shape, strict=True))
    ]
    foreground = np.count_nonzero(inner == FOREGROUND)
    return min(foreground, np.count_nonzero(inner != MASKED) - foreground) >= MINIMUM


def _share(foreground, labelled):
    return np.count_nonzero(foreground) / max(np.count_nonzero(labelled), 1)


def _derivative(image, *axes):
    order = [0, 0, 0]
    for axis in axes:
        order[axis] += 1
    return ndimage.gaussian_filter(image, RIDGE, order=order, truncate=3)


def _extreme_eigenvalues(hessian, axes):
    """(largest, smallest) eigenvalues [D, H, W] of symmetric matrices {(row, column): [D, H, W]}.

    In closed form (Smith 1961): numpy's solver takes ten times as long.
    """
    diagonal = [hessian[axis, axis] for axis in axes]
    mean = sum(diagonal) / len(axes)
    if len(axes) < 3:
        spread = np.sqrt((diagonal[0] - mean) ** 2 + hessian[tuple(axes)] ** 2)
        return mean + spread, mean - spread
    x, y, z = (one - mean for one in diagonal)
    p, q, r = hessian[0, 1], hessian[0, 2], hessian[1, 2]
    spread = np.sqrt((x * x + y * y + z * z + 2 * (p * p + q * q + r * r)) / 6) + 1e-12
    determinant = x * (y * z - r * r) - p * (p * z - q * r) + q * (p * r - y * q)
    angle = np.arccos(np.clip(determinant / (2 * spread**3), -1, 1)) / 3
    return mean + 2 * spread * np.cos(angle), mean + 2 * spread * np.cos(angle + 2 * np.pi / 3)
