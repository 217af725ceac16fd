"""Check a volume against the networks that segment it: windows and intensities."""

from jax_seg.data import intensities
from jax_seg.infer.sliding_window import count_empty


def inspect(name, image, *, grids, ranges):
    """Count the windows without input, and compare the intensities with those of the runs.

    Args:
      name: of the volume, in sentences.
      image: [D, H, W] as stored.
      grids: {(patch, overlap)} of the networks.
      ranges: {(low, high)} of their preprocessing.

    Returns:
      dict of JSON types: 'windows' and those of zeros alone as 'empty_windows', each over all
      grids, and 'warnings', a list of sentences.
    """
    counts = [count_empty(image, patch=patch, overlap=overlap) for patch, overlap in grids]
    values = intensities.sample(image)
    sentences = {intensities.compare(name, values, *bounds) for bounds in ranges}
    return {
        "windows": sum(total for _, total in counts),
        "empty_windows": sum(empty for empty, _ in counts),
        "warnings": sorted(sentences - {""}),
    }
