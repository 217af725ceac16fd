"""Search for post-processing steps on labelled volumes."""

import numpy as np

from jax_seg.infer import postprocess

SMALLEST_GAIN = 0.001  # of the metric; the least gain for which a step is worth its time
TRIED_AGAIN = 10  # first steps, the best alone, once the others are chosen
GUARD = 0.01  # of the metric; the most that a step may cost a perfect prediction

FIRSTS = tuple(
    f"threshold:value={value:g}" for value in (*(k / 20 for k in range(2, 20)), 0.97, 0.99)
) + tuple(
    f"hysteresis:low={low:g},high={high:g}"
    for low in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    for high in (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
    if low < high
)
CANDIDATES = (
    *(f"remove_small:voxels={n}" for n in (10, 30, 100, 300, 1000, 3000, 10000, 20000)),
    *(f"remove_small:voxels={n},connectivity=6" for n in (30, 300, 3000)),
    *(f"keep_largest:components={n}" for n in (1, 5)),
    "fill_holes",
    *(f"fill_holes_per_slice:axis={a},voxels={n}" for a in (0, 1, 2) for n in (4, 32)),
    "plug_holes",
    *(f"patch_sheets:area={n}" for n in (16, 64, 256)),
    *(f"split_sheets:seed={p}" for p in (0.7, 0.8, 0.9, 0.95)),
    "close",
    "close:depth=0",
    "close:depth=2,height=1,width=1",
    "close:depth=1,height=2,width=2",
    "close:depth=2,height=2,width=2",
    "close:depth=3,height=3,width=3",
    "open",
    "open:depth=0",
    *(f"smooth:sigma={s}" for s in (0.5, 1, 2)),
    "mask_empty",
)


def guard(score, names, steps):
    """The cost of each step alone, in the mean score of perfect predictions.

    Args:
      score: of `scoring.make_scorer`.
      names: of volumes.
      steps: list of steps.

    Returns:
      {step: cost}.
    """
    alone = {s: (s,) if postprocess.parse(s)[0] in postprocess.FIRST else _after(s) for s in steps}
    default = (postprocess.DEFAULT,)
    means = mean_scores(score(names, dict.fromkeys([default, *alone.values()]), perfect=True))
    return {step: means[default] - means[setting] for step, setting in alone.items()}


def search(score, names, firsts, candidates):
    """Choose the best first step, add the best step while one gains, choose the first step again.

    Steps are ranked by `sure_gain`. A step that did not gain by `SMALLEST_GAIN` when it was tried
    is not tried again: gains of steps shrink as others are added, far more often than they grow.

    Args:
      score: of `scoring.make_scorer`.
      names: of the volumes to search on.
      firsts: steps that make a mask of probabilities.
      candidates: the other steps; each name is used once.

    Returns:
      List of {'steps': tuple, 'step': the one added, 'scores': of each volume, 'score': their mean,
      'gain': over the row before}: the threshold of 0.5, the best first step, each step added and a
      better first step for them. The last row is the choice.
    """
    default = (postprocess.DEFAULT,)
    # Of equal settings the first in this order is chosen; a set would make it arbitrary.
    alone = score(names, dict.fromkeys([default, *((first,) for first in firsts)]))
    rows = [_row(default, default[0], alone[default], 0.0)]

    def gains_of(found):
        return {s: sure_gain(rows[-1]["scores"], column) for s, column in found.items()}

    def add(found, gains, place):
        best = max(gains, key=gains.get, default=default)
        if gains.get(best, 0) >= SMALLEST_GAIN:
            mean = _mean(found[best])
            rows.append(_row(best, best[place], found[best], mean - rows[-1]["score"]))

    gains_alone = gains_of(alone)
    add(alone, gains_alone, 0)
    while candidates:
        steps = rows[-1]["steps"]
        found = score(names, [(*steps, step) for step in candidates])
        gains = gains_of(found)
        add(found, gains, -1)
        used = {postprocess.parse(step)[0] for step in rows[-1]["steps"]}
        candidates = [
            step
            for step in candidates
            if gains[*steps, step] >= SMALLEST_GAIN and postprocess.parse(step)[0] not in used
        ]
    if steps := rows[-1]["steps"][1:]:
        best = sorted(gains_alone, key=gains_alone.get, reverse=True)[:TRIED_AGAIN]
        found = score(names, [(*first, *steps) for first in best])
        add(found, gains_of(found), 0)
    return rows


def sure_gain(before, after):
    """Mean of the volumes' gains less its standard error; of one volume its gain.

    With two volumes it is the smaller of their gains, so nothing is chosen for the good of one of
    them; with many it nears the mean. (One standard error as in Breiman et al. 1984,
    "Classification and regression trees", 3.4.3.)
    """
    gains = np.subtract(after, before)
    error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return float(gains.mean() - error)


def mean_scores(scores):
    """{setting: mean over the volumes}."""
    return {setting: _mean(column) for setting, column in scores.items()}


def _row(steps, step, scores, gain):
    return {"steps": steps, "step": step, "scores": scores, "score": _mean(scores), "gain": gain}


def _mean(values):
    return float(np.mean(values))


def _after(step):
    return (postprocess.DEFAULT, step)
