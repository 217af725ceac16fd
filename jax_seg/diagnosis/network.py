"""Checks on the network: do its answers follow from its input, and is there room to learn?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from scipy.special import expit, logit

from jax_seg.diagnosis import depth, first_answer, fitting, reach
from jax_seg.diagnosis.evidence import finest, has_both, once
from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.diagnosis.first_answer import GONE, loss_gradient
from jax_seg.metrics.segmentation import counted
from jax_seg.ops.classes import FOREGROUND, MASKED
from jax_seg.training.step import normalised

LOOKED_AT = 8  # training samples whose answers are compared
MOST = 2**19  # voxels of those samples, which are two at least
STEEP = 5.0  # factor by which logits are too large; overfitted networks need less (Guo et al. 2017)
FEWEST = 100  # wrong voxels that a mean is taken over
PART = 0.25  # of a layer's channels, or of the voxels, that is more than an accident
TWICE = (0.5, float(expit(1)))  # what a sigmoid makes of probabilities


class Answers(NamedTuple):
    """What trained and first weights make of the same training samples.

    Attributes:
      batch: 'image', 'label' and 'mask' of N samples, normalised.
      logits, first: [N, *spatial] of the trained and of the first weights.
      spread, first_spread: {layer: [C] standard deviation of its results, over all else}.
    """

    batch: dict
    logits: np.ndarray
    first: np.ndarray
    spread: dict
    first_spread: dict


def answers(evidence):
    """`Answers` of the best checkpoint."""
    variables = evidence.best.variables
    count = max(2, min(LOOKED_AT, MOST // int(np.prod(evidence.task.shape[:-1]))))
    drawn = {name: values[:count] for name, values in evidence.samples.items()}
    batch = jax.device_get(normalised(drawn, evidence.preprocessing))
    if not batch["image"].std(axis=0).any():
        raise Skipped("all samples are equal once they are normalised")

    @once
    def look(variables, image):
        output, kept = evidence.model.apply(
            variables, image, mutable=["intermediates"], capture_intermediates=True
        )
        results = traverse_util.flatten_dict(kept["intermediates"])
        return finest(output)[..., 0].astype(jnp.float32), {
            "/".join(path[:-1]): leaf.std(axis=range(leaf.ndim - 1))
            for path, (leaf,) in results.items()
            if isinstance(leaf, jax.Array) and leaf.ndim == image.ndim and len(path) > 1
        }

    both = variables, evidence.fresh.variables
    found = [jax.device_get(look(one, batch["image"])) for one in both]
    if not np.isfinite(found[0][0]).all():
        raise Skipped("the best checkpoint gives logits that are not finite")
    return Answers(batch, found[0][0], found[1][0], found[0][1], found[1][1])


def find_in_answers(evidence):
    """Whether the answers follow from the input, have room for a gradient, and use all channels.

    A network that ignores its input has silent layers, too, and any of these causes changes how
    gradients reach the layers, so one cause comes alone.
    """
    found = answers(evidence)
    if causes := ignores_input(found) or [*saturated(found, evidence), *dead(found)]:
        return causes
    return depth.find(evidence)


def ignores_input(found):
    """Differences between the answers to different inputs, against those of random weights."""

    def between(logits):
        return float(np.sqrt(logits.var(axis=0, ddof=1).mean()))

    own, first, total = between(found.logits), between(found.first), float(found.logits.std())
    if own >= GONE * max(first, total):
        return []
    silent = [name for name, _, _ in _silent(found)]
    where = f"; '{silent[0]}' is the first layer that does not respond" if silent else ""
    return [
        Finding(
            "model.ignores_input",
            "error",
            f"The logits for {len(found.logits)} different patches differ by {own:.2g}, and those "
            f"of the first, random weights by {first:.2g}{where}.",
            {
                "between_inputs": own,
                "between_inputs_of_first_weights": first,
                "over_voxels": total,
            },
            "checkpoints",
            "Train again from the first weights, or from an earlier checkpoint.",
        )
    ]


def dead(found):
    """Channels whose results have become constant, in layers where they were not at first."""
    silent = [(name, count, of) for name, count, of in _silent(found) if count >= PART * of]
    if not silent:
        return []
    name, count, of = silent[0]
    whole = [one for one in silent if one[1] == one[2]]
    return [
        Finding(
            "model.dead",
            "error" if whole else "warning",
            f"{count} of {of} channels of '{name}' are the same at every voxel of "
            f"{len(found.logits)} patches, and were not with the first weights; "
            f"{counted(len(silent), 'layer')} of {len(found.spread)} have lost channels.",
            {
                "channels": int(count),
                "of": int(of),
                "layers": len(silent),
                "whole_layers": len(whole),
                "spread_at_first": float(np.median(found.first_spread[name])),
            },
            "checkpoints",
            "Train again from the first weights, with a lower schedule.learning_rate.",
        )
    ]


def _silent(found):
    """[(layer, silent channels, channels)] of the layers with any, in the order of computation."""
    rows = []
    for name, spread in found.spread.items():
        first = found.first_spread[name]
        usual = np.median(first)
        silent = (spread < GONE * usual) & (first >= GONE * usual) & (usual > 0)
        if silent.any():
            rows.append((name, int(silent.sum()), len(spread)))
    return rows


def saturated(found, evidence):
    """The gradient at wrong voxels against that of the same logits, scaled to fit the labels.

    The scale and offset are those of Platt 1999, a logistic regression of the label on the logit.
    What a sigmoid lets through is p (1 - p).
    """
    labelled = found.batch["mask"][..., 0] > 0
    label, logits = found.batch["label"][..., 0][labelled], found.logits[labelled]
    wrong = (logits > 0) != (label > 0)
    if np.count_nonzero(wrong) < FEWEST:
        return []
    scale, offset = platt(logits, label)
    own = float(np.median(_slope(logits[wrong])))
    fitted = float(np.median(_slope(scale * logits[wrong] + offset)))
    if scale * STEEP > 1 or own >= GONE * fitted:
        return []
    left = _share_left(evidence, found, scale, offset)
    return [
        Finding(
            "model.saturated",
            "error" if left < GONE else "warning",
            f"The logits are {1 / max(scale, 1e-6):.0f} times as large as those that fit the "
            f"labels, and the sigmoid passes {100 * own / fitted:.2g} % of their gradient at wrong "
            "voxels.",
            {
                "median_size_of_logits": float(np.median(np.abs(logits))),
                "scale_that_fits": scale,
                "slope_at_wrong_voxels": own,
                "slope_if_scaled": fitted,
                "share_of_loss_gradient": left,
            },
            "checkpoints",
            "Train again from an earlier checkpoint, with a lower schedule.learning_rate.",
        )
    ]


def _slope(logits):
    return expit(logits.astype(np.float64)) * expit(-logits.astype(np.float64))


def platt(logits, label, steps=30):
    """(scale, offset) with which sigmoid(scale · logit + offset) fits labels best, by Newton."""
    size = max(float(np.abs(logits).mean()), 1e-12)
    x = np.stack([logits.astype(np.float64) / size, np.ones(len(logits))], axis=1)
    weights = np.zeros(2)
    for _ in range(steps):
        p = expit(np.clip(x @ weights, -30, 30))
        slope = x.T @ ((p * (1 - p))[:, None] * x) + 1e-6 * np.eye(2)
        weights -= np.clip(np.linalg.solve(slope, x.T @ (p - label)), -2, 2)
    return float(weights[0] / size), float(weights[1])


def _share_left(evidence, found, scale, offset):
    """The loss's gradient at wrong voxels, as a share of that with scaled logits."""
    wrong = ((found.logits > 0) != (found.batch["label"][..., 0] > 0)) & (
        found.batch["mask"][..., 0] > 0
    )
    sizes = [
        loss_gradient(evidence, logits, found.batch, wrong)
        for logits in (found.logits, scale * found.logits + offset)
    ]
    return sizes[0] / sizes[1] if all(sizes) else 1.0


def find_twice(evidence):
    """Stored probabilities that lie where a sigmoid sends probabilities, and nowhere else.

    Without it they have to tell more than the share of foreground: answers that are all alike may
    lie there by chance.
    """
    if not evidence.run.probabilities:
        raise Skipped("the run has stored no probabilities")
    pairs = [
        (p[label != MASKED], label[label != MASKED]) for _, p, label, _ in evidence.predictions
    ]
    p, label = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    low, high = TWICE
    slack = 1e-3  # of float16 and of 8 bits
    inside = np.mean((p >= low - 4 * slack) & (p <= high + 4 * slack))
    if inside < 1 or not has_both(label):
        return []
    foreground, once_only = label == FOREGROUND, np.clip(logit(p), 1e-3, 1 - 1e-3)
    losses = [_cross_entropy(q, foreground) for q in (p, once_only)]
    if losses[1] >= min(losses[0], _cross_entropy(foreground.mean(), foreground)):
        return []
    return [
        Finding(
            "model.saturated",
            "error",
            f"All {len(p)} probabilities lie from {p.min():.2f} to {p.max():.2f}, as after a "
            f"second sigmoid; without it their cross entropy is {losses[1]:.3f} instead of "
            f"{losses[0]:.3f}.",
            {
                "lowest": float(p.min()),
                "highest": float(p.max()),
                "cross_entropy": losses[0],
                "cross_entropy_without": losses[1],
            },
            "validation/probabilities",
            "Apply the sigmoid once: the network returns logits.",
        )
    ]


def _cross_entropy(p, label):
    return float(-np.log(np.where(label, p, 1 - p)).mean())


CHECKS = (
    Check(("model.ignores_input", "model.saturated", "model.dead"), find_in_answers, needs="run"),
    Check(("model.saturated",), find_twice, needs="run", quick=True),
    *first_answer.CHECKS,
    *fitting.CHECKS,
    *reach.CHECKS,
)
