"""A plain PyTorch U-Net on membranes, to compare equal training time with ours.

    python -m benchmarks.membrane_peer --root FOLDER --minutes 8

16 filters, 3 poolings, patch 16×96×96, batch 2, SGD with Nesterov momentum 0.99, learning rate 1e-2
falling polynomially over the time, Dice + cross entropy with unlabelled voxels masked, flips and
quarter turns: nnU-Net's recipe on the network that a CPU can train. It reads the volumes, holds out
the fold and scores whole volumes as `launch.py --config configs/membrane.py` does.
"""

import argparse
import functools
import time

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.torch_unet import UNet
from jax_seg.data import folds, labels
from jax_seg.data.folder import find_volumes
from jax_seg.data.readers import open_volume
from jax_seg.infer.sliding_window import gaussian_profile, window_starts
from jax_seg.metrics import segmentation

PATCH = (16, 96, 96)


def dice_and_cross_entropy(logits, label, mask):
    """The loss of a batch [B, 1, D, H, W]; voxels with mask 0 do not count."""
    probability = torch.sigmoid(logits) * mask
    axes = (2, 3, 4)
    overlap = (probability * label).sum(axes)
    dice = (2 * overlap + 1e-5) / (probability.sum(axes) + (label * mask).sum(axes) + 1e-5)
    pixel = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
    return 1 - dice.mean() + (pixel * mask).sum() / mask.sum().clamp(min=1)


def random_patch(volumes, generator):
    """[image, label] of shape `PATCH`, flipped and turned; one in three contains foreground."""
    image, label = volumes[generator.integers(len(volumes))]
    places = np.flatnonzero(label == 1) if generator.random() < 1 / 3 else None
    voxel = generator.integers(0, image.shape)
    if places is not None and len(places):
        voxel = np.unravel_index(generator.choice(places), label.shape)
    room = np.subtract(image.shape, PATCH)
    start = np.clip(np.asarray(voxel) - generator.integers(0, PATCH), 0, room)
    window = tuple(slice(a, a + n) for a, n in zip(start, PATCH, strict=True))
    image, label = image[window], label[window]
    flips = tuple(axis for axis in range(3) if generator.random() < 0.5)
    turns = int(generator.integers(4))
    return [np.rot90(np.flip(x, flips), turns, (1, 2)).copy() for x in (image, label)]


@torch.no_grad()
def predict(model, image):
    """The mask [D, H, W] bool of a volume, by windows that overlap by half."""
    starts = [window_starts(s, p, 0.5) for s, p in zip(image.shape, PATCH, strict=True)]
    weight = functools.reduce(np.multiply.outer, [gaussian_profile(p) for p in PATCH])
    total, weights = np.zeros(image.shape, np.float32), np.zeros(image.shape, np.float32)
    for d in starts[0]:
        for h in starts[1]:
            for w in starts[2]:
                window = tuple(slice(a, a + n) for a, n in zip((d, h, w), PATCH, strict=True))
                logits = model(torch.from_numpy(image[window].copy())[None, None])
                total[window] += weight * logits[0, 0].numpy()
                weights[window] += weight
    return total / weights > 0


def read(volume, table):
    """A volume's image [D, H, W] float32 and its encoded label [D, H, W]."""
    image, label = open_volume(volume.image), open_volume(volume.label)
    zero = (0, 0, 0)
    return (
        image.read(zero, image.shape).astype(np.float32),
        labels.encode(label.read(zero, label.shape), table, volume.label),
    )


def train(model, volumes, minutes, generator):
    """Train on random patches of (image, label) pairs; returns the number of steps."""
    optimizer = torch.optim.SGD(
        model.parameters(), 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5
    )
    started, losses, budget = time.monotonic(), [], 60 * minutes
    while (elapsed := time.monotonic() - started) < budget:
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - elapsed / budget) ** 0.9
        batch = [random_patch(volumes, generator) for _ in range(2)]
        image = torch.from_numpy(np.stack([image for image, _ in batch]))[:, None]
        encoded = torch.from_numpy(np.stack([label for _, label in batch]))[:, None]
        mask = (encoded != labels.MASKED).float()
        loss = dice_and_cross_entropy(model(image), (encoded == 1).float(), mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 12.0)
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            mean = np.mean(losses[-50:])
            print(f"step {len(losses)}  {elapsed:.0f} s  loss {mean:.4f}", flush=True)
    return len(losses)


def main(argv=None):
    """Train, and print the scores of the held-out volumes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    generator = np.random.default_rng(arguments.seed)

    found = {v.id: v for v in find_volumes(arguments.root)}
    scrolls = [v.scroll_id for v in found.values()]
    train_ids, held_out = folds.split(
        list(found), scrolls, fold=arguments.fold, folds=arguments.folds
    )
    table = labels.label_table()
    volumes = [read(found[name], table) for name in train_ids]
    pooled = np.concatenate([image.reshape(-1) for image, _ in volumes])
    mean, std = pooled.mean(), pooled.std()

    model = UNet(16, 3).to(memory_format=torch.channels_last_3d)
    normalised = [((image - mean) / std, label) for image, label in volumes]
    steps = train(model, normalised, arguments.minutes, generator)
    counts = segmentation.Confusion()
    for name in held_out:
        image, label = read(found[name], table)
        counts += segmentation.confusion(predict(model, (image - mean) / std), label)
    print(f"PyTorch {torch.__version__}, {steps} steps in {arguments.minutes:g} minutes:")
    print(segmentation.in_words(segmentation.scores(counts)))


if __name__ == "__main__":
    main()
