"""Intensities of volumes: which voxels are scan, and which volumes are on another scale.

A masked scan is exactly zero outside the object. A volume saved on another scale (16 bits among
8, say) is clipped to one value by the range fitted to the others, or distorts that range.
"""

import numpy as np

SAMPLE = 100_000  # voxels: percentiles are then exact to about 0.05 %
MASKED_SHARE = 0.5  # a larger share of zeros indicates a masked scan
SPAN = (0.5, 99.5)  # percentiles that stand for a volume's range, in percent
CLIPPED = 0.25  # a larger share of clipped voxels is unusual: of an ordinary volume it is about 1 %
FILLED = 0.1  # and so is a volume that fills less of the range
SHOWN = 5  # volumes named individually


def sample(image, count=SAMPLE, seed=0):
    """Intensities of `count` voxels of an image of one channel, drawn with replacement, float32."""
    voxels = np.asarray(image).reshape(-1)
    # Not every n-th: where rows are as long as n, that is a single column of the volume.
    drawn = np.random.default_rng(seed).integers(0, voxels.size, count)
    return voxels[np.sort(drawn)].astype(np.float32)


def zero_share(values):
    """Share of voxels that are exactly zero."""
    return 1 - np.count_nonzero(values) / np.size(values)


def scan(values):
    """The intensities of a masked scan without the zeros outside of it.

    Where no more than MASKED_SHARE of them are zero, or the others are all of one value, they are
    returned as they are: there, zero is an intensity like others.
    """
    values = np.asarray(values)
    if zero_share(values) <= MASKED_SHARE:
        return values
    inside = values[values != 0]
    return inside if inside.size and inside.min() < inside.max() else values


def span(values):
    """(low, high): percentiles SPAN of the scan."""
    return tuple(float(value) for value in np.percentile(scan(values), SPAN))


def clipping(values, low, high):
    """The effect of clipping a volume to [low, high], as the end of a sentence.

    Args:
      values: sample of its intensities.
      low, high: of a `Preprocessing`.

    Returns:
      '98 % of its voxels are clipped to one value', 'it fills 0.4 % of that range', or '' where
      nothing is unusual.
    """
    inside = scan(values)
    below, above = np.mean(inside < low), np.mean(inside > high)
    if below + above > CLIPPED:
        to = "one value" if min(below, above) < 0.01 else "the two ends"
        return f"{100 * (below + above):.0f} % of its voxels are clipped to {to}"
    filled = _filled(span(values), low, high)
    return f"it fills {100 * filled:.2g} % of that range" if filled < FILLED else ""


def compare(name, values, low, high):
    """Compare one volume with the range that a run clips to.

    Args:
      name: of the volume.
      values: sample of its intensities.
      low, high: of the run's `Preprocessing`.

    Returns:
      A sentence that names the volume, its range, the run's and the effect; '' where the volume
      is on the run's scale.
    """
    if constant := _constant(name, values):
        return constant
    if not (effect := clipping(values, low, high)):
        return ""
    return (
        f"{name} has intensities from {_words(span(values))}, but the run clips to "
        f"{_words((low, high))}, where {effect}: convert it to the scale of the training volumes."
    )


def blended(image):
    """float32 [D, H, W]: the mean over the channels of an image [D, H, W, C], of one it is itself.

    Each channel is first divided by the 99.5th percentile of its absolute values, so that none
    outweighs the others; zero in all channels stays zero.
    """
    if image.ndim == 3:
        return image
    scales = [
        max(float(np.percentile(np.abs(sample(one)), SPAN[1])), 1e-12)
        for one in np.moveaxis(image, -1, 0)
    ]
    return np.mean(image / np.array(scales, np.float32), -1, dtype=np.float32)


def named(name, channel):
    """'v0', or 'v0 (channel 1)' of one of several channels; `channel` is None of the only one."""
    return name if channel is None else f"{name} (channel {channel})"


def remarks(training, validation, low, high, channel=None):
    """Sentences on unusual intensities of a run's volumes.

    Each volume is compared with the typical one, whose range is the median of the training volumes'
    ranges: the run's own range is fitted to all of them together, so a volume on another scale may
    have set it.

    Args:
      training, validation: {id: sample of intensities}; at least one training volume.
      low, high: of the run's `Preprocessing`.
      channel: number of the one that these are of; None of images of one channel.

    Returns:
      List of sentences, at most SHOWN + 2.
    """
    typical = tuple(np.median([span(values) for values in training.values()], axis=0))
    if typical[0] == typical[1]:  # most of them are constant
        typical = low, high
    found = [
        sentence
        for id, values in (training | validation).items()
        for name in [named(id, channel)]
        if (sentence := _constant(name, values) or _differing(name, values, typical, (low, high)))
    ]
    if len(found) > SHOWN:
        more = named(f"{len(found) - SHOWN} more volumes", channel)
        found[SHOWN:] = [f"{more} differ from the others in this way."]
    everything = np.concatenate([np.ravel(v) for v in training.values()])
    if masked := masked_sentence(everything, named("the training volumes' voxels", channel)):
        found.append(masked)
    return found


def masked_sentence(values, of="the training volumes' voxels"):
    """A sentence on the zeros of masked scans; '' where a sample has few of them, see `scan`."""
    if len(scan(values)) == np.size(values):
        return ""
    return (
        f"{100 * zero_share(values):.1f} % of {of} are exactly zero, as in "
        "masked scans: percentiles are computed without them, and a window of zeros is predicted "
        "as background."
    )


def _constant(name, values):
    lowest, highest = span(values)
    if lowest < highest:
        return ""
    return f"{name} is constant (99 % of its voxels are {lowest:g}): check the file."


def _differing(name, values, typical, run):
    """A sentence on a volume that is not on the scale of the typical one, or ''."""
    if not clipping(values, *typical):
        return ""
    if (filled := _filled(typical, *run)) < FILLED:
        effect = f"the typical volume fills {100 * filled:.2g} %"
    else:
        effect = clipping(values, *run)
    return (
        f"{name} has intensities from {_words(span(values))}, the typical training volume from "
        f"{_words(typical)}; the run clips to {_words(run)}"
        + (f", where {effect}" if effect else "")
        + f": convert {name} to the scale of the others, or remove it."
    )


def _filled(range_, low, high):
    """Share of [low, high] that a range fills."""
    lowest, highest = np.clip(range_, low, high)
    return (highest - lowest) / (high - low)


def _words(range_):
    return f"{range_[0]:g} to {range_[1]:g}"
