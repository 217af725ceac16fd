"""Slices and values that no scanner made."""

from typing import NamedTuple

import numpy as np
from scipy import fft

from jax_seg.data import intensities
from jax_seg.data.sampling import AXES
from jax_seg.diagnosis.finding import Finding

FEWEST = 8  # slices, to judge one by its neighbours
UNUSUAL = 8.0  # standard deviations of the correlation of neighbours
RELATED = 0.5  # correlation of neighbours, below which they say little about each other
LOST = 0.5  # share of that correlation which a broken slice has lost
RESTORED = 0.8  # share of it that a shifted slice gets back when moved
SPIKE = 10.0  # times as many voxels at the largest value as at the values below it
CLIPPED = 0.03  # share of the voxels
SPOILED = 0.1  # share of all slices from which on it is an error


class Broken(NamedTuple):
    """Broken slices of a volume.

    Attributes:
      id: of the volume.
      image_file: path.
      kind: 'constant', 'repeated', 'shifted' or 'noise'.
      axis: along which they are counted.
      slices: their numbers.
      of: number of slices.
    """

    id: str
    image_file: object
    kind: str
    axis: int
    slices: list
    of: int


def corrupt(evidence):
    """Findings of constant, repeated, shifted and noise slices, and of clipped values."""
    examples = list({example.id: example for example in evidence.examples}.values())
    broken = [one for example in examples for one in broken_slices(example)]
    found = [_finding(broken, examples)] if broken else []
    clipped = [(example, clipped_share(example.image)) for example in examples]
    if shares := [(example, share) for example, share in clipped if share > CLIPPED]:
        found.append(_clipped(shares, examples))
    return found


def broken_slices(example):
    """List of `Broken` of an `Example`, along the axis that has most, first kind first."""
    along = []
    for axis in range(3):
        slices = np.moveaxis(example.image, axis, 0).astype(np.float32)
        if len(slices) < FEWEST:
            continue
        kinds = slice_kinds(slices)
        along.append(
            [
                Broken(
                    example.id,
                    example.image_file,
                    kind,
                    axis,
                    [number + example.start[axis] for number in numbers],
                    len(slices),
                )
                for kind, numbers in kinds.items()
                if numbers
            ]
        )
    return max(along, key=lambda found: sum(len(one.slices) for one in found), default=[])


def slice_kinds(slices):
    """{'constant', 'repeated', 'shifted', 'noise': numbers of such slices} of [N, H, W] float32."""
    flat = slices.reshape(len(slices), -1)
    spread = flat.std(1)
    varied = np.flatnonzero(spread > 0)
    if len(varied) < FEWEST:
        return {}
    # Slices of one value at the ends are what a masked or padded volume has.
    inner = np.arange(varied[0], varied[-1] + 1)
    constant = [int(n) for n in inner if spread[n] == 0]
    repeated = [
        int(n) for n in varied[1:] if spread[n - 1] > 0 and np.array_equal(flat[n], flat[n - 1])
    ]
    kept = np.array([n for n in varied if n not in repeated])
    strange = strange_slices(flat[kept])
    usual = _usual(_neighbours(flat[kept], 1))[0] if strange else 0.0
    shifted, noise = [], []
    for place in strange:
        neighbour = kept[place - 1] if place else kept[place + 1]
        aligned = _best_correlation(slices[kept[place]], slices[neighbour])
        (shifted if aligned > RESTORED * usual else noise).append(int(kept[place]))
    return {"constant": constant, "repeated": repeated, "noise": noise, "shifted": shifted}


def strange_slices(flat):
    """Numbers of the rows of [N, M] that are unlike both neighbours, which are like each other."""
    if len(flat) < FEWEST:
        return []
    near, over = _neighbours(flat, 1), _neighbours(flat, 2)
    usual, spread = _usual(near)
    usual_over, spread_over = _usual(over)
    if usual < RELATED:
        return []
    low = near < usual - np.maximum(UNUSUAL * spread, LOST * usual)
    fine = over > usual_over - np.maximum(UNUSUAL * spread_over, LOST * usual_over)
    return [n for n in range(1, len(flat) - 1) if low[n - 1] and low[n] and fine[n - 1]]


def clipped_share(image):
    """Share of the voxels that have the largest value, where that is a spike; else 0."""
    values = intensities.scan(intensities.sample(image))
    highest = values.max()
    below = values[values < highest]
    if not below.size:
        return 0.0
    share = float(np.mean(values == highest))
    # The values that as many voxels again would have, if nothing were clipped.
    width = max((highest - values.min()) / 255, 1e-12)
    beside = np.mean(below >= highest - 5.5 * width) / 5
    return share if share > SPIKE * beside else 0.0


def _neighbours(flat, lag):
    """[N - lag] correlations of rows that are `lag` apart."""
    centred = flat - flat.mean(1, keepdims=True)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return np.sum(centred[:-lag] * centred[lag:], 1)


def _usual(correlations):
    """(usual value, standard deviation) of correlations up to half of which are lower."""
    usual = np.quantile(correlations, 0.75)
    above = correlations[correlations >= np.median(correlations)]
    return usual, 1.4826 * np.median(np.abs(above - usual)) + 1e-6


def _best_correlation(image, other):
    """Highest correlation of two images [H, W] over circular shifts, each of at most a quarter."""
    a, b = (one - one.mean() for one in (image, other))
    product = fft.irfft2(fft.rfft2(a) * np.conj(fft.rfft2(b)), s=a.shape)
    quarter = [np.arange(-(n // 4), n // 4 + 1) for n in a.shape]
    return float(
        product[np.ix_(*quarter)].max() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)
    )


def _finding(broken, examples):
    count, total = sum(len(one.slices) for one in broken), len(examples) * broken[0].of
    kinds = list(dict.fromkeys(one.kind for one in broken))
    first = max(broken, key=lambda one: len(one.slices))
    shown = ", ".join(map(str, first.slices[:6])) + (" …" if len(first.slices) > 6 else "")
    volumes = len({one.id for one in broken})
    return Finding(
        "data.corrupt",
        "error" if count > SPOILED * total else "warning",
        f"{count} slices in {volumes} of {len(examples)} volumes are {' or '.join(kinds)}, unlike "
        f"their neighbours: {first.id} has {len(first.slices)} of {first.of} along "
        f"{AXES[first.axis]} ({first.kind}: {shown}).",
        {
            "slices": count,
            "volumes": volumes,
            "examined": len(examples),
            "share_of_slices": round(count / total, 4),
        }
        | {kind: sum(len(o.slices) for o in broken if o.kind == kind) for kind in kinds},
        str(first.image_file) if volumes == 1 else "data.images",
        "Copy the files again from their source; where that has the fault, mask these slices in "
        "the label.",
    )


def _clipped(shares, examples):
    example, share = max(shares, key=lambda pair: pair[1])
    return Finding(
        "data.corrupt",
        "warning",
        f"{100 * share:.0f} % of the voxels of {example.id} have its largest value, "
        f"{example.image.max():g}, more than {SPIKE:.0f} times as many as the values below it "
        f"({len(shares)} of {len(examples)} volumes): they were clipped when the file was made.",
        {
            "volumes": len(shares),
            "examined": len(examples),
            "clipped": round(share, 4),
            "times_the_values_below": SPIKE,
        },
        str(example.image_file) if len(shares) == 1 else "data.images",
        "Convert the volume again with a range that holds its values.",
    )
