"""Wall times of several calls, interleaved, so that a busy machine affects all alike."""

import statistics
import time

ALONE = 3  # turns of a contestant by itself


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


def those_that_run(builders, release, alone=False):
    """{name: contestant} of those that can be built and called; a line says why another cannot.

    Any may lack memory, and a peer a driver or a compiler, which must not cost the others' figures.
    Each is called before the next is built, so that it has its memory.

    Args:
      builders: {name: function without arguments -> (training call, inference call, …)}.
      release: called after a failure, to give memory back.
      alone: time each by itself, too, in a line that is printed before the next is built and so
        kept if that one ends the process.
    """
    found = {}
    for name, build in builders.items():
        contestant, call, reason = None, None, ""
        try:
            contestant = build()
            for call in contestant[:2]:
                call()
            if alone:
                _print_alone(name, contestant)
            found[name] = contestant
        except Exception as error:
            reason = in_a_line(error)
        if reason:  # the error, which held on to what was built, is gone
            contestant = call = None
            release()
            print(f"{name} is left out ({reason})")
    return found


def _print_alone(name, contestant):
    seconds = alternate(dict(zip(("train", "infer"), contestant, strict=False)), ALONE)
    timed = ", ".join(f"{call} {taken:.3f} s" for call, taken in seconds.items())
    print(f"{name} alone: {timed}", flush=True)


def in_a_line(error):
    """Kind and first line of an exception."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
