"""Wall times of several calls, interleaved, so that a busy machine affects all alike."""

import statistics
import time


def alternate(calls, repeats):
    """Median seconds of each call in a steady state.

    Args:
      calls: name -> function without arguments that returns when its work is done.
      repeats: number of turns of each.

    Returns:
      name -> median of `repeats` wall times. Every turn begins with a call that is not counted:
      it compiles, or reclaims its caches and memory from the others.
    """
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}
