"""Whether two models differ on the same volumes, or only by chance."""

from typing import NamedTuple

import numpy as np

from jax_seg.metrics.segmentation import counted

EXACT = 16  # volumes up to which all 2^n signs are tried
RESAMPLES = 10_000
SIGNIFICANT = 0.05


class Comparison(NamedTuple):
    """How a second model's scores differ from a first one's on the same volumes.

    Attributes:
      volumes: their number.
      difference: mean over volumes of second - first.
      low, high: 95 % interval of it.
      p_value: of the sign-flip test, two-sided.
      smallest_p: that this number of volumes allows.
    """

    volumes: int
    difference: float
    low: float
    high: float
    p_value: float
    smallest_p: float


def interval(values, seed=0):
    """95 % interval of a mean over volumes, by the percentile bootstrap.

    Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13. Of very few volumes
    it is too narrow, because no resample goes beyond their range.

    Args:
      values: [volumes] scores.
      seed: of the resamples.

    Returns:
      (low, high).
    """
    from scipy import stats  # not before: it takes half a second to start

    values = np.asarray(values, np.float64)
    if len(values) == 1:  # which SciPy refuses: every resample is the value itself
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1000,  # resamples of 786 volumes are 6 MB
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def compare(first, second, seed=0):
    """Compare two models on the same volumes.

    The interval is the paired bootstrap of the mean difference. The p-value is that of the
    sign-flip permutation test (Good 2005, "Permutation, parametric and bootstrap tests", 3.2.1):
    were the models equal, each volume's difference could equally have the other sign. It is exact
    up to EXACT volumes, beyond which RESAMPLES random sign vectors are drawn.

    Args:
      first, second: [volumes] scores, in the same order.
      seed: of both.

    Returns:
      Comparison.
    """
    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    count = len(differences)
    low, high = interval(differences, seed)
    rounding = 1e-12 * abs(differences).sum()  # sums of the same numbers are the same
    observed = abs(differences.sum()) - rounding
    if count <= EXACT:
        signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
        p_value = np.mean(abs(signs @ differences) >= observed)
        smallest = 2 / 2**count
    else:
        signs = np.random.default_rng(seed).choice((-1, 1), (RESAMPLES, count))
        extreme = np.count_nonzero(abs(signs @ differences) >= observed)
        p_value = (extreme + 1) / (RESAMPLES + 1)  # the observed signs are one of them
        smallest = 1 / (RESAMPLES + 1)
    return Comparison(count, float(differences.mean()), low, high, float(p_value), smallest)


def adjusted(p_values):
    """Holm's adjustment (1979): with many pairs, one of them looks different by chance."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    result = np.empty(len(p_values))
    result[order] = np.minimum(np.maximum.accumulate(np.sort(p_values) * factors), 1)
    return result.tolist()


def verdict(first, second, found, p_value, *, higher_is_better=True, pairs=1, noun="volume"):
    """State in one sentence which of two models is better.

    The sign-flip test decides, since it is right for any number of volumes, at a p-value of
    SIGNIFICANT; if the interval contains 0 nevertheless, no difference is claimed.

    Args:
      first, second: names.
      found: Comparison.
      p_value: adjusted for the number of pairs.
      higher_is_better: of the metric.
      pairs: that were compared.
      noun: what was scored.
    """
    if p_value <= SIGNIFICANT and (found.low > 0 or found.high < 0):
        if (found.difference > 0) == higher_is_better:
            first, second = second, first
        low, high = sorted(abs(bound) for bound in (found.low, found.high))
        return (
            f"{first} is better than {second} by {number(abs(found.difference))} (95 %: "
            f"{number(low)} to {number(high)})"
        )
    reason, reachable = f", p = {number(p_value)}", min(pairs * found.smallest_p, 1)
    if pairs > 1:
        reason += f" as one of {pairs} pairs"
    if reachable > SIGNIFICANT:
        needed = int(np.ceil(1 - np.log2(SIGNIFICANT / pairs)))
        reason += (
            f"; with {counted(found.volumes, noun)} no p-value can be below {number(reachable)}: "
            f"score at least {needed} to distinguish the models"
        )
    return (
        f"{first} and {second} are not distinguishable on {counted(found.volumes, noun)}: {second} "
        f"differs by {number(found.difference)} (95 %: {number(found.low)} to "
        f"{number(found.high)}){reason}"
    )


def number(value):
    """'.013', '-.250', '1.250'."""
    sign = "-" if round(value, 3) < 0 else ""
    return sign + f"{abs(value):.3f}".removeprefix("0")
