"""Time and memory of the competition's score of one volume.

python benchmarks/competition.py                  64³, 160³ and 320³, about two minutes
python benchmarks/competition.py --sizes 160 --repeats 5

sheets: a generated scroll against itself with holes, dropped and added voxels; noise: the same
scroll against voxels that are foreground at random, 30 in 100, the shape of an untrained network's
prediction; both noise: two such predictions.
"""

import argparse
import resource
import statistics
import timeit
from functools import partial

import numpy as np

from jax_seg.data.scroll import scroll_volume, smooth_noise
from jax_seg.metrics.competition import competition_score


def cases(size, seed=0):
    """name -> (prediction, label), uint8 [size, size, size]; the label is complete."""
    generator = np.random.default_rng(seed)
    sheets = scroll_volume(seed, size)[1] == 1
    torn = sheets & (smooth_noise(generator, sheets.shape, 8) > -1.3)
    torn = (torn & (generator.random(sheets.shape) > 0.05)) | (
        generator.random(sheets.shape) < 0.003
    )
    noise, other = (generator.random(sheets.shape) < 0.3 for _ in range(2))
    pairs = {"sheets": (torn, sheets), "noise": (noise, sheets), "both noise": (noise, other)}
    return {name: [m.astype(np.uint8) for m in pair] for name, pair in pairs.items()}


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 160, 320])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--small",
        action="store_true",
        help="smoke test: takes seconds, its timings are meaningless",
    )
    arguments = parser.parse_args(argv)
    if arguments.small:
        arguments.sizes, arguments.repeats = [32], 1

    for pair in cases(32).values():  # compiles
        competition_score(*pair)
    print(f"median of {arguments.repeats} runs; memory is the largest of the process so far\n")
    print(f"| {'volume':>6} | {'case':10} | {'seconds':>8} | {'GB':>5} |")
    print(f"|{'-' * 8}|{'-' * 12}|{'-' * 10}|{'-' * 7}|")
    for size in arguments.sizes:
        for name, pair in cases(size).items():
            call = partial(competition_score, *pair)
            taken = statistics.median(timeit.repeat(call, number=1, repeat=arguments.repeats))
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print(f"| {f'{size}³':>6} | {name:10} | {taken:8.2f} | {memory:5.2f} |", flush=True)


if __name__ == "__main__":
    main()
