"""Does the network see as much of a volume as its labels need?"""

import numpy as np
from scipy import ndimage

from jax_seg.diagnosis import plain_fit
from jax_seg.diagnosis.evidence import finest, has_both, once
from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED

SCALES = (1, 2, 4, 8)  # voxels: standard deviations of Gaussians
FELT = 0.01  # of the largest response; an instance norm passes about 1 / voxels everywhere
VOXELS = 2000  # of a volume that answers are fitted to
VOLUMES = 4  # that they are fitted to and compared on, at most
WORTH = 0.05  # Dice that a wider view has to add


def find_bottom(evidence):
    """Whether the bottom level of a U-Net is a single voxel wide along an axis that it pools."""
    if not hasattr(evidence.model, "smallest_input"):
        raise Skipped("the network is no U-Net")
    patch, divisors = evidence.task.shape[:-1], evidence.model.smallest_input()
    bottom = [size // by for size, by in zip(patch, divisors, strict=True)]
    narrow = [size == 1 and by > 1 for size, by in zip(bottom, divisors, strict=True)]
    if not any(narrow):
        return []
    poolings = evidence.field("model.poolings")
    alone = np.prod(bottom) == 1
    effect = "is a single voxel, which its norm turns into zero" if alone else "is one voxel wide"
    said = "×".join(map(str, patch))
    return [
        Finding(
            "model.receptive_field",
            "warning",
            f"After {poolings} poolings the bottom level of a patch of {said} {effect} "
            f"({'×'.join(map(str, bottom))}), so it cannot distinguish positions.",
            {"poolings": poolings, "bottom_voxels": int(np.prod(bottom)), "patch": max(patch)},
            "model.poolings",
            f"Set model.poolings to {max(poolings - 1, 0)}, or enlarge the patch.",
        )
    ]


def find_context(evidence):
    """What voxels beyond the network's sight tell of the label.

    Two answers are fitted to the same voxels, one from features within sight, one from wider ones
    too, and compared on volumes that neither has seen.
    """
    radius = sight(evidence)
    within = [scale for scale in SCALES if 2 * scale <= radius] or [SCALES[0]]
    most = max(evidence.task.shape[:-1]) // 4
    wider = within + [scale for scale in SCALES if within[-1] < scale <= most]
    if len(wider) - len(within) < 1:
        return []
    examples = [e for e in evidence.part("training") if has_both(e.label)][:VOLUMES]
    if len(examples) < 2:
        raise Skipped("fewer than two volumes have foreground and background")
    scores = _scores(examples, len(within), wider)
    gains = scores[1] - scores[0]
    if gains.mean() < WORTH or np.sort(gains)[len(gains) // 4] <= 0:
        return []
    return [_too_small(evidence, radius, scores, wider, examples)]


def sight(evidence):
    """Radius in voxels of the logits that a voxel in the middle of a patch changes, at first.

    Where the response is at least FELT of the largest; the effective receptive field of Luo et al.
    2016, the other way round, which is the same for a network that treats all places alike.
    """
    image = np.array(evidence.batch()["image"][:1])
    middle = tuple(size // 2 for size in image.shape[1:-1])
    changed = image.copy()
    changed[(0, *middle)] += max(float(image.std()), 1e-3)
    model, first = evidence.model, evidence.fresh.variables
    answer = once(lambda image: finest(model.apply(first, image)))
    logits = [np.asarray(answer(one), np.float32)[0, ..., 0] for one in (image, changed)]
    response = np.abs(logits[1] - logits[0])
    felt = np.argwhere(response >= FELT * response.max())
    return int(np.abs(felt - middle).max())


def _scores(examples, count, wider):
    """[2, N] Dice on each volume, fitted to the others: features within sight, and all."""
    generator = np.random.default_rng(0)
    drawn = [_drawn(e, wider, generator) for e in examples]
    # A feature of the image itself, and three per scale; those within sight come first.
    views = [slice(0, 1 + 3 * count), slice(None)]
    numbers = range(len(drawn))
    return np.array([[_held_out(drawn, number, view) for number in numbers] for view in views])


def _drawn(example, scales, generator):
    """(features [n, F], foreground [n]) of labelled voxels of a volume, standardised within it."""
    image = example.image.astype(np.float32)
    image = (image - image.mean()) / max(float(image.std()), 1e-6)
    places = np.flatnonzero(example.label != MASKED)
    places = generator.choice(places, min(VOXELS, len(places)), replace=False)
    found = plain_fit.features(image, scales)[places]
    return found, example.label.ravel()[places] == FOREGROUND


def _held_out(drawn, number, view):
    """Dice on one volume of a fit to the others."""
    others = [one for index, one in enumerate(drawn) if index != number]
    x = np.concatenate([features[:, view] for features, _ in others])
    answer = plain_fit.fit(x, np.concatenate([label for _, label in others]))
    features, label = drawn[number]
    return plain_fit.dice(answer(features[:, view]), label)


def _too_small(evidence, radius, scores, wider, examples):
    depth = np.concatenate([_depths(e.label) for e in examples])
    near, far = scores.mean(axis=1)
    return Finding(
        "model.receptive_field",
        "warning",
        f"A logit depends on voxels at most {radius} away; a simple classifier limited to them "
        f"reaches a Dice of {near:.2f} on other volumes, one that sees {2 * wider[-1]} voxels "
        f"reaches {far:.2f}. {100 * np.mean(depth > radius):.0f} % of the foreground lie deeper "
        "inside it than the network sees.",
        {
            "radius": radius,
            "dice_within": float(near),
            "dice_wider": float(far),
            "wider": 2 * wider[-1],
            "share_deeper": float(np.mean(depth > radius)),
            "volumes": len(examples),
        },
        "model.poolings",
        f"Set model.poolings to {evidence.field('model.poolings', 0) + 2} or more.",
    )


def _depths(label):
    """Distance of each foreground voxel from the nearest background, in voxels."""
    return ndimage.distance_transform_edt(label != BACKGROUND)[label == FOREGROUND]


CHECKS = (
    Check(("model.receptive_field",), find_bottom, quick=True),
    Check(
        ("model.receptive_field",),
        find_context,
        not_for={"image": "detectors of images see the whole image"},
    ),
)
