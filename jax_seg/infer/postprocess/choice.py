"""Results on the volumes of the search: thresholds, calibration, steps and their cost."""

import numpy as np

from jax_seg.infer.postprocess import search
from jax_seg.metrics import threshold


def sweeps(read, names):
    """Thresholds, hysteresis and calibration over all voxels of some volumes, as JSON types."""
    lows = highs = [k / 20 for k in range(1, 20)]
    counts = grid = 0
    for name in names:
        volume = read(name)
        counts = counts + threshold.count(volume.probability, volume.label)
        grid = grid + threshold.hysteresis_counts(volume.probability, volume.label, lows, highs)
    return {
        "thresholds": threshold.sweep(counts),
        "hysteresis": threshold.hysteresis_grid(grid, lows, highs),
        "calibration": threshold.calibration(counts),
    }


def choose(score, names, candidates, force):
    """Reject the candidates that harm labels, then search, all on some volumes.

    Args:
      score: of `scoring.make_scorer`.
      names: of volumes.
      candidates: steps after the first.
      force: include rejected steps in the search.

    Returns:
      dict: 'guard' [{step, cost, refused}], 'firsts' [{step, score}], and 'ablation', the rows
      of `search.search`.
    """
    costs = search.guard(score, names, [*search.FIRSTS, *candidates])
    refused = {step for step, cost in costs.items() if cost > search.GUARD and not force}
    firsts, rest = ([s for s in steps if s not in refused] for steps in (search.FIRSTS, candidates))
    means = search.mean_scores(score(names, [(step,) for step in firsts]))
    return {
        "guard": [
            {"step": step, "cost": cost, "refused": step in refused} for step, cost in costs.items()
        ],
        "firsts": [{"step": step, "score": mean} for (step,), mean in means.items()],
        "ablation": search.search(score, names, firsts, rest),
    }


def worth(score, names, chosen):
    """The cost of the chosen steps on a perfect prediction, and the score without each of them.

    Args:
      score: of `scoring.make_scorer`.
      names: of volumes.
      chosen: tuple of steps.

    Returns:
      dict: 'cost_on_labels', 'without' [{step, score}].
    """
    return {
        "cost_on_labels": 1 - _mean(score(names, [chosen], perfect=True)[chosen]),
        "without": [
            {"step": step, "score": _mean(score(names, [rest])[rest])}
            for step in chosen[1:]
            for rest in [tuple(s for s in chosen if s != step)]
        ],
    }


def _mean(values):
    return float(np.mean(values))
