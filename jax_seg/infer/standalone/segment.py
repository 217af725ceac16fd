"""Segments volumes with the networks of this folder. It needs numpy, jax and flatbuffers alone:

    pip install jax flatbuffers
    python segment.py VOLUME.npy PROBABILITIES.npy

In Python, `predict(volume)` gives the probabilities of a volume in memory.
The file was written by jax_seg.export.
"""

import itertools
import json
import math
import runpy
import sys
from pathlib import Path

import jax
import numpy as np

FOLDER = Path(__file__).resolve().parent
BACKGROUND = -20.0  # the logit of a window without input, that is of zeros alone


def predict(volume):
    """Probabilities of the foreground, float32 [D, H, W], of a volume [D, H, W] as stored.

    Of several channels a volume is [D, H, W, channels], of several classes the result
    [D, H, W, classes], in the order of model.json.
    """
    model = json.loads((FOLDER / "model.json").read_text())
    channels, classes = model["channels"], len(model["classes"])
    image = volume[..., None] if channels == 1 else volume
    if image.ndim != 4 or image.shape[3] != channels:
        wanted = "three axes: D, H and W" if channels == 1 else f"[D, H, W, {channels}]"
        raise ValueError(f"The volume has shape {volume.shape}; give {wanted}.")
    load = runpy.run_path(str(FOLDER / "load.py"))["load"]
    total = np.zeros((*image.shape[:3], classes), np.float32)
    for number, member in enumerate(model["members"]):
        network, box, own = load(number), ..., ()
        if member["per_volume"]:
            rules = runpy.run_path(str(FOLDER / "measure_volume.py"))
            numbers, box = rules["measure"](volume, rules["PerVolume"](**member["per_volume"]))
            own = np.array(numbers, np.float32)
            own = (own if channels == 1 else own[None],)
        logits = np.full(total.shape, BACKGROUND, np.float32)
        logits[box] = _blend(network, own, image[box], classes, member)
        total += member["weight"] * _probabilities(logits, model["exclusive"])
    return total[..., 0] if classes == 1 else total


def _probabilities(logits, exclusive):
    """Of each class; of classes that exclude each other, the background has the logit 0."""
    if not exclusive:
        return np.asarray(jax.nn.sigmoid(logits))
    background = np.zeros_like(logits[..., :1])
    return np.asarray(jax.nn.softmax(np.concatenate([background, logits], -1)))[..., 1:]


def _blend(network, own, image, classes, member):
    """Logits of an image: those of its windows, weighted by a Gaussian that adds up to one."""
    window, shape = member["window"], image.shape[:3]
    room = [max(size - length, 0) for size, length in zip(window, shape, strict=True)]
    around = [(n // 2, n - n // 2) for n in room]
    extended = np.pad(image, [*around, (0, 0)], mode="edge")
    total = np.zeros((*extended.shape[:3], classes), np.float32)
    lengths = zip(extended.shape[:3], window, strict=True)
    axes = [_axis(*each, member["overlap"]) for each in lengths]
    for (d, by_d), (h, by_h), (w, by_w) in itertools.product(*axes):
        here = tuple(slice(a, a + n) for a, n in zip((d, h, w), window, strict=True))
        logits = BACKGROUND
        if extended[here].any():
            logits = np.asarray(network(extended[here][None], *own)[1])[0]
        total[here] += logits * (by_d[:, None, None] * by_h[:, None] * by_w)[..., None]
    inside = zip(around, shape, strict=True)
    return total[tuple(slice(first, first + length) for (first, _), length in inside)]


def _axis(length, window, overlap):
    """[(first voxel, weights)] of the windows along an axis, from border to border."""
    step = max(int(window * (1 - overlap)), 1)
    count = math.ceil((length - window) / step) + 1
    starts = [round(i * (length - window) / max(count - 1, 1)) for i in range(count)]
    distances = (np.arange(window) - (window - 1) / 2) / (window / 8)
    profile = np.maximum(np.exp(-0.5 * distances**2), 1e-3).astype(np.float32)
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + window] += profile
    return [(start, profile / total[start : start + window]) for start in starts]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python segment.py VOLUME.npy PROBABILITIES.npy")
    np.save(sys.argv[2], predict(np.load(sys.argv[1])))
