"""Which answers does a loss ask for, where the label is known and where it is uncertain?"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from jax_seg.diagnosis.finding import Check, Finding
from jax_seg.diagnosis.loss_terms import BLIND, Ground, Terms, ground_of, terms_of

GRID = np.linspace(-6, 6, 25)  # logits that are tried: probabilities from 0.0025 to 0.9975
CONFIDENT = 12.0  # logit of a known voxel: 10,000 of them make less than one in a sum
SHARES = (0.1, 0.2, 1 / 3, 0.5, 2 / 3, 0.8, 0.9)  # of the time that a voxel is foreground
FLOOR = {"error": 0.5, "warning": 0.25, "note": 0.05}
"""Share of the best constant's loss that no prediction avoids. A quarter moves whatever a run
decides by in percent of its loss; beyond a half, most of the loss is no longer about the label."""
ODDS = {"error": (0.1, 0.9), "warning": (1 / 3, 2 / 3)}
"""Answers that turn against odds of 9 and of 2. The best decision by Dice turns at half of the Dice
that is reached (Lipton et al. 2014), that by accuracy at a half: from 0.35 to 0.5."""
FOR_RECALL = ("skeleton_recall",)  # terms that favour foreground by intention: half as grave
HARM = 0.05  # Dice by which freely optimised logits differ clearly
SPREAD = 0.5  # standard deviation of the logits that the optimisation starts from


def prefers(evidence):
    """The answers that a loss asks for, for all labelled voxels and for uncertain ones."""
    terms, ground = terms_of(evidence), ground_of(evidence)
    return _floor(evidence, terms, ground) + _biased(evidence, terms, ground)


class Least(NamedTuple):
    """The lowest loss of answers of one kind.

    Attributes:
      loss: of all terms, weighted.
      terms: float64 [T] weighted values.
      probability: of foreground; for a perfect answer, in the foreground.
      without: float64 [T] the lowest loss without each term.
    """

    loss: float
    terms: np.ndarray
    probability: float
    without: np.ndarray


def perfect(terms, ground):
    """`Least` of answers that are right everywhere, over how certain they are."""
    levels = np.linspace(0.5, CONFIDENT, len(GRID))
    return _least(terms, ground, np.stack([-levels, levels], 1))


def constant(terms, ground):
    """`Least` of answers that are the same everywhere."""
    return _least(terms, ground, np.stack([GRID, GRID], 1))


def _least(terms, ground, levels):
    # A third group without voxels: one program then serves `preferred` too.
    levels = np.concatenate([levels, levels[:, :1]], 1)
    values = terms.values(levels, ground.label.astype(np.int32), ground)
    total = values.sum(1)
    best = int(total.argmin())
    without = (total[:, None] - values).min(0)
    return Least(float(total[best]), values[best], float(expit(levels[best, 1])), without)


def _floor(evidence, terms, ground):
    right, same = perfect(terms, ground), constant(terms, ground)
    share = right.loss / same.loss if same.loss > 0 else 0.0
    severity = next((name for name, limit in FLOOR.items() if share > limit), None)
    if not severity:
        return []
    blamed = int(right.without.argmin())
    name, rest = terms.names[blamed], float(right.without[blamed])
    found = {"floor": right.loss, "best_constant": same.loss, "share": share}
    found |= {"floor_without": rest, "probability": right.probability}
    found |= {f"floor_of_{n}": float(v) for n, v in zip(terms.names, right.terms, strict=True)}
    says = (
        f"A perfect prediction still pays {right.loss:.3f} and the best constant {same.loss:.3f}, "
        f"so {100 * share:.0f} % of the loss cannot be learned away; the perfect one is cheapest "
        f"with probability {right.probability:.2f} in the foreground, and without '{name}' (weight "
        f"{terms.weights[blamed]:g}) it would pay {rest:.3f}"
    )
    if (reached := _best_loss(evidence)) is not None:
        found["best_validation_loss"] = reached
        says += f"; the run's best validation loss is {reached:.3f}"
    advice = f"Set loss.weights.{name} to 0."
    return [Finding("loss.floor", severity, f"{says}.", found, f"loss.weights.{name}", advice)]


def _best_loss(evidence):
    """The lowest validation loss of a run; None before it."""
    if not evidence.workdir:
        return None
    losses = [one["validation"]["loss"] for one in evidence.epochs if "validation" in one]
    return min(losses, default=None)


def preferred(terms, ground):
    """The answer that each term and their sum prefer for voxels that are uncertain.

    A quarter of the rarer class of each sample, and as many voxels of the other, form the uncertain
    group: in it a share q is foreground, wherever it lies, so a network can do no better than one
    answer for all of it. All others are known and answered rightly.

    Args:
      terms: Terms.
      ground: Ground.

    Returns:
      (probability, values): float64 [Q, S + 1], the best answer at each of SHARES, of the sum last;
      float64 [Q, K, S], weighted values at the answers of GRID. S counts the terms that look at
      the label: what the others do to uncertain voxels is a consequence of their floor.
    """
    groups, uncertain = _uncertain(ground)
    levels = np.stack([np.full(GRID.shape, s * CONFIDENT) for s in (-1, 1)] + [GRID], 1)
    values = []
    for share in SHARES:
        label = ground.label.copy()
        for sample, places in zip(label, uncertain, strict=True):
            sample.flat[places] = np.arange(len(places)) < round(share * len(places))
        values.append(terms.values(levels, groups, Ground(label, ground.mask)))
    seeing = [name not in BLIND for name in terms.names]
    values = np.stack(values)[..., seeing]
    columns = np.concatenate([values, values.sum(-1, keepdims=True)], -1)
    return expit(np.apply_along_axis(_lowest, 1, columns)), values


def _lowest(values):
    """The logit of the lowest of [K] values at GRID, between its points by a parabola."""
    best = int(values.argmin())
    if best in (0, len(GRID) - 1):
        return GRID[best]
    before, here, after = values[best - 1 : best + 2]
    curvature = before - 2 * here + after
    offset = (before - after) / (2 * curvature) if curvature > 0 else 0.0
    return GRID[best] + offset * (GRID[1] - GRID[0])


def _uncertain(ground):
    """(groups, places): 0 known background, 1 known foreground, 2 uncertain; places by sample.

    Groups are int32 [B, *spatial, 1]; places index the voxels of a sample, in any order.
    """
    generator = np.random.default_rng(0)
    groups, found = ground.label.astype(np.int32), []
    for sample, label, mask in zip(groups, ground.label, ground.mask, strict=True):
        classes = [np.flatnonzero((label == c) & (mask > 0)) for c in (0, 1)]
        count = max(min(map(len, classes)) // 4, 1)
        places = [generator.choice(one, count, replace=False) for one in classes]
        found.append(generator.permutation(np.concatenate(places)))
        sample.flat[found[-1]] = 2
    return groups, found


def _biased(evidence, terms, ground):
    seeing = terms.without(BLIND)
    if not seeing.names:
        return []
    answers, values = preferred(terms, ground)
    threshold = evidence.field("validate.threshold")
    for severity, lower in (("error", "warning"), ("warning", "note")):
        low, high = ODDS[severity]
        for share, towards in ((low, "foreground"), (high, "background")):
            if _turned(answers[:, -1], share, towards, threshold):
                culprit = _culprit(seeing, values, share)
                severity = lower if culprit in FOR_RECALL else severity
                return [_bias(severity, seeing, ground, answers[:, -1], share, towards, culprit)]
    return _wrong_way(seeing, ground, answers)


def _turned(answers, share, towards, threshold):
    """Whether a voxel that is foreground a share of the time is decided as `towards`.

    By the run's threshold and by a half: a run may make up for the bias of its loss.
    """
    answer = answers[SHARES.index(share)]
    if towards == "foreground":
        return answer > max(threshold, 0.5)
    return answer < min(threshold, 0.5)


def _culprit(terms, values, share):
    """The term that gains most by the preferred answer, against the share itself."""
    at = values[SHARES.index(share)]
    honest = int(np.abs(expit(GRID) - share).argmin())
    return terms.names[int((at[at.sum(1).argmin()] - at[honest]).argmin())]


def _bias(severity, terms, ground, answers, share, towards, culprit):
    half = float(answers[SHARES.index(0.5)])
    says = (
        f"For a voxel that is foreground {100 * share:.0f} % of the time this loss is lowest at "
        f"{answers[SHARES.index(share)]:.2f}, and for one that is foreground half of the time at "
        f"{half:.2f}: uncertain voxels become {towards}, mostly because of '{culprit}'."
    )
    found = {"share": share, "preferred": float(answers[SHARES.index(share)]), "at_half": half}
    found |= {"foreground_share": ground.share} | _class_weights(terms)
    field, advice = _remedy(culprit)
    picture = {
        "kind": "answer",
        "probability": list(SHARES),
        "preferred": [float(a) for a in answers],
    }
    return Finding("loss.biased", severity, says, found, field, advice, picture)


def _remedy(term):
    if term == "focal":
        return "loss.focal_alpha", (
            "Set loss.focal_alpha to 0.5, loss.foreground_weight and loss.background_weight to 1."
        )
    return f"loss.weights.{term}", f"Lower loss.weights.{term}."


def _class_weights(terms):
    """The weights of the classes in the focal term: {} without it."""
    if "focal" not in terms.names:
        return {}
    given = dict(terms.options[terms.names.index("focal")])
    return {
        "weight_of_foreground": given["alpha"] * given.get("foreground_weight", 1.0),
        "weight_of_background": (1 - given["alpha"]) * given.get("background_weight", 1.0),
    }


def _wrong_way(terms, ground, answers):
    """The focal term turns against the rarer class, and the other terms make up for it."""
    if "focal" not in terms.names:
        return []
    own = answers[:, terms.names.index("focal")]
    (low, high), rare = ODDS["warning"], ground.share < 0.5
    if not _turned(own, high if rare else low, "background" if rare else "foreground", 0.5):
        return []
    weights = _class_weights(terms)
    foreground, background = weights.values()
    says = (
        f"The focal term counts a voxel of foreground {foreground:.2f} and one of background "
        f"{background:.2f}, although {'foreground' if rare else 'background'} is the rarer class "
        f"({100 * min(ground.share, 1 - ground.share):.0f} %); the other terms make up for it."
    )
    found = weights | {"foreground_share": ground.share, "at_half": float(own[SHARES.index(0.5)])}
    return [Finding("loss.biased", "note", says, found, *_remedy("focal"))]


def prefers_wrong(evidence):
    """Logits without a network, optimised under the loss: do they end at the label?

    The reference is cross entropy, from the same start in as many steps.
    """
    terms, ground = terms_of(evidence), ground_of(evidence)
    prior = evidence.field("model.foreground_prior", 0.5)
    start = logit(prior) + SPREAD * np.random.default_rng(0).normal(size=ground.label.shape)
    plain = Terms(("cross_entropy",), np.ones(1, np.float32), ((),))
    reached, reference = (_agreement(one.optimise(start, ground), ground) for one in (terms, plain))
    if reached["dice"] > reference["dice"] - HARM:
        return []
    more = "more" if reached["share"] > ground.share else "less"
    says = (
        f"Logits that are free to take any value reach a Dice of {reached['dice']:.2f} under this "
        f"loss, and {reference['dice']:.2f} under cross entropy in as many steps: they mark "
        f"{100 * reached['share']:.0f} % as foreground, {more} than the {100 * ground.share:.0f} % "
        "of the label."
    )
    found = {"dice": reached["dice"], "dice_of_cross_entropy": reference["dice"]}
    found |= {"share": reached["share"], "foreground_share": ground.share}
    severity = "error" if reached["dice"] < 1 - 4 * HARM else "warning"
    advice = "Add a term that compares every voxel with its label: loss.weights.cross_entropy."
    return [Finding("loss.prefers_wrong", severity, says, found, "loss.weights", advice)]


def _agreement(logits, ground):
    """{'dice', 'share' of foreground} of logits, among labelled voxels."""
    predicted = (logits > 0) * ground.mask
    both, total = (predicted * ground.label).sum(), predicted.sum() + ground.label.sum()
    return {"dice": float(2 * both / total), "share": float(predicted.sum() / ground.mask.sum())}


CHECKS = (
    Check(("loss.floor", "loss.biased"), prefers, quick=True),
    Check(("loss.prefers_wrong",), prefers_wrong),
)
