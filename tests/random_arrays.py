"""Random patches with labels, and random masks, the same at every call."""

import numpy as np
from scipy import ndimage


def random_patch(shape, seed=0):
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=shape).astype(np.float32)
    label = random.random(shape) < 0.3
    return logits, label.astype(np.uint8)


def random_mask(seed=0, shape=(12, 13, 14), share=0.5, sigma=0.8):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return field > np.quantile(field, 1 - share)
