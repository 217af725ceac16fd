"""Whether the validation part holds what the run trains on."""

import itertools

import numpy as np

from jax_seg.diagnosis.finding import Finding, Skipped, listed

WINDOW = 16  # voxels in a row: in images with noise no two rows are equal by chance
KEPT = 32  # one of so many windows is compared, chosen by its content
SHARE = 0.01  # of the windows; without overlap it is 0
VARIED = 8  # different values in a window that tells something
ALIKE = 0.9  # correlation of whole images: hippocampi of different people reach 0.7
SAMPLED = 20_000  # voxels of a volume that are correlated


def leakage(evidence):
    """Findings of equal data, overlapping volumes, or one scroll on both sides of the fold."""
    if not evidence.holds_out:
        raise Skipped("nothing is held out")
    training, validation = evidence.part("training"), evidence.part("validation")
    if not training or not validation:
        raise Skipped("one side of the fold is empty")
    copied = copies(training, validation)
    if copied:
        return [_copied(copied, validation)]
    if evidence.field("data.group") == "":
        return _scrolls(training, validation)
    return []


def copies(training, validation):
    """[(validation id, training id, share of equal rows, correlation)] of examples that overlap.

    Volumes that are cut from one another at any offset, or mirrored, have equal rows of voxels
    (chosen as in Schleimer et al. 2003, winnowing); rescaled or noisy copies correlate.
    """
    rows = [row_hashes(example.image) for example in training]
    samples = [sampled(example.image)[0] for example in training]
    found = []
    for example in validation:
        own, mirrored = row_hashes(example.image), sampled(example.image, mirrored=True)
        for other, theirs, values in zip(training, rows, samples, strict=True):
            share = float(np.isin(own, theirs).mean()) if own.size else 0.0
            same_shape = example.image.shape == other.image.shape
            alike = float(np.abs(mirrored @ values).max()) / values.size if same_shape else 0.0
            if share > SHARE or alike > ALIKE:
                found.append((example.id, other.id, share, alike))
                break
    return found


def row_hashes(image):
    """uint64 [N] hashes of rows of WINDOW voxels along the last axis, the same when mirrored."""
    if image.shape[-1] < WINDOW:
        return np.zeros(0, np.uint64)
    image = np.ascontiguousarray(image, np.float32)
    exact = image.view(np.uint32).astype(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, WINDOW, dtype=np.uint64) | np.uint64(1)
    length = image.shape[-1] - WINDOW + 1
    ways = []
    for order in (factors, factors[::-1]):
        total = np.zeros((*image.shape[:-1], length), np.uint64)
        for place, factor in enumerate(order):
            total += exact[..., place : place + length] * factor
        ways.append(total ^ (total >> np.uint64(29)))
    hashes = np.minimum(*ways)
    chosen = (hashes >> np.uint64(7)) % np.uint64(KEPT) == 0
    # Rows of one value or two, as in air, are equal everywhere.
    rows = np.sort(np.lib.stride_tricks.sliding_window_view(image, WINDOW, -1)[chosen], -1)
    varied = np.count_nonzero(np.diff(rows), -1) + 1 >= VARIED
    return np.unique(hashes[chosen][varied])


def sampled(image, mirrored=False):
    """float32 [1 or 8, N] standardised voxels of an image, also of its mirrored forms."""
    chosen = np.arange(image.size)
    if chosen.size > SAMPLED:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, SAMPLED, replace=False))
    places = np.unravel_index(chosen, image.shape)
    found = []
    for flips in itertools.product((False, True), repeat=3) if mirrored else [(False,) * 3]:
        at = [n - 1 - p if f else p for p, n, f in zip(places, image.shape, flips, strict=True)]
        values = image[tuple(at)].astype(np.float32)
        found.append((values - values.mean()) / max(values.std(), 1e-12))
    return np.stack(found)


def _copied(found, validation):
    shown = ", ".join(f"{own} and {other}" for own, other, *_ in found[:3])
    share = max(row[2] for row in found)
    alike = max(row[3] for row in found)
    how = (
        f"{100 * share:.0f} % of the rows are equal"
        if share > SHARE
        else f"correlation {alike:.2f}"
    )
    return Finding(
        "data.leakage",
        "error",
        f"{len(found)} of {len(validation)} validation volumes are also in the training part, "
        f"whole or in part ({shown}: {how}).",
        {
            "volumes": len(found),
            "examined": len(validation),
            "equal_rows": round(share, 4),
            "equal_rows_by_chance": 0.0,
            "correlation": round(alike, 4),
        },
        "data.root",
        "Remove the copies, or give them the scroll_id of their original in train.csv.",
    )


def _scrolls(training, validation):
    groups = [
        {e.group for e in part if e.group not in ("", e.id)} for part in (training, validation)
    ]
    both = sorted(groups[0] & groups[1])
    if not both:
        return []
    affected = sum(example.group in both for example in validation)
    return [
        Finding(
            "data.leakage",
            "error",
            f"{affected} of {len(validation)} validation volumes belong to scrolls that are also "
            f"in the training part ({listed(both)}): the score says little about new "
            "scrolls.",
            {"volumes": affected, "examined": len(validation), "scrolls_in_both": len(both)},
            "data.group",
            "Set data.group='scroll_id'.",
        )
    ]
