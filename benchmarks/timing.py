"""Wall times of several calls, taken in turns, so that a busy machine is unfair to none."""

import statistics
import time


def alternate(calls, repeats):
    """Median seconds of each call.

    Args:
      calls: name -> function without arguments that returns when its work is done.
      repeats: rounds after the first, which compiles and is not counted.

    Returns:
      name -> median of `repeats` wall times.
    """
    times = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}
