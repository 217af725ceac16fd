"""A plain answer to compare networks with: ridge regression on smoothed copies of an image."""

import numpy as np
from scipy import ndimage

UNITS = 80  # random features (Rahimi and Recht 2007)
RIDGE = 1e-3  # per sample, against a variance of about 1
TRUNCATE = 2.0  # standard deviations at which Gaussians end


def features(image, scales):
    """[D · H · W, 1 + 3 · scales] of an image [D, H, W]: its values, and for each scale three.

    They are the mean, the standard deviation and the mean difference from the mean, weighted by a
    Gaussian of that standard deviation in voxels. A single slice is smoothed within itself.
    """
    image = image.astype(np.float32)
    planes = [image]
    for scale in scales:
        sigma = [scale if size > 1 else 0 for size in image.shape]
        smooth, square = (_smoothed(of, sigma) for of in (image, image * image))
        rough = _smoothed(np.abs(image - smooth), sigma)
        planes += [smooth, np.sqrt(np.maximum(square - smooth**2, 0)), rough]
    return np.stack([plane.ravel() for plane in planes], axis=1)


def _smoothed(image, sigma):
    return ndimage.gaussian_filter(image, sigma, truncate=TRUNCATE)


def fit(x, y):
    """x [N, F] -> bool [N]: whether it is foreground, cut where the Dice of the fit is highest.

    Args:
      x: [N, F] features.
      y: [N] bool, foreground.
    """
    center, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    generator = np.random.default_rng(0)
    directions = generator.normal(size=(x.shape[1], UNITS)) / np.sqrt(x.shape[1])
    offsets = generator.normal(size=UNITS)

    def lifted(x):
        z = (x - center) / scale
        bent = np.maximum(z @ directions + offsets, 0)
        return np.concatenate([bent, z, np.ones((len(z), 1))], axis=1).astype(np.float64)

    a = lifted(x)
    squares = a.T @ a + RIDGE * len(a) * np.eye(a.shape[1])
    weights = np.linalg.solve(squares, a.T @ y.astype(np.float64))
    cuts = np.quantile(a @ weights, np.linspace(0.02, 0.98, 49))
    cut = max(cuts, key=lambda cut: dice(a @ weights > cut, y))
    return lambda x: lifted(x) @ weights > cut


def dice(mask, label):
    """Dice of two bool arrays."""
    both = np.count_nonzero(mask & label)
    return 2 * both / max(np.count_nonzero(mask) + np.count_nonzero(label), 1)
