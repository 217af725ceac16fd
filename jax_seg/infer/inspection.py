"""Check a volume against the networks that segment it: windows and intensities."""

from jax_seg.data import intensities
from jax_seg.data.readers import open_image, spacing
from jax_seg.infer.sliding_window import count_empty


def inspect(name, image, *, grids, ranges):
    """Count the windows without input, and compare the intensities with those of the runs.

    Args:
      name: of the volume, in sentences.
      image: [D, H, W] as stored, or [D, H, W, C].
      grids: {(patch, overlap)} of the networks.
      ranges: {(channel, low, high)} of their preprocessing; channel is None of the only one.

    Returns:
      dict of JSON types: 'windows' and those of zeros alone as 'empty_windows', each over all
      grids, and 'warnings', a list of sentences.
    """
    counts = [count_empty(image, patch=patch, overlap=overlap) for patch, overlap in grids]
    return {
        "windows": sum(total for _, total in counts),
        "empty_windows": sum(empty for empty, _ in counts),
        "warnings": unlike(name, image, ranges),
    }


def unlike(name, image, ranges):
    """Sentences on intensities that differ from those of the runs.

    Args:
      name: of the volume, in sentences.
      image: voxels as stored, channels last where there are several.
      ranges: of `inspect`.
    """
    values = {
        channel: intensities.sample(image if channel is None else image[..., channel])
        for channel in {channel for channel, _, _ in ranges}
    }
    sentences = {
        intensities.compare(intensities.named(name, channel), values[channel], *bounds)
        for channel, *bounds in ranges
    }
    return sorted(sentences - {""})


def spacing_as_nnunet(path):
    """The spacing (z, y, x) of a volume as nnU-Net reads it, see `spacing.as_nnunet`."""
    return spacing.as_nnunet(path, open_image(path).spacing)


def other_spacing(path, trained):
    """A sentence where a volume is not of the spacing that an imported network was trained on.

    Args:
      path: of the volume.
      trained: (z, y, x) that nnU-Net resampled its training volumes to; None where it did not.

    Returns:
      The sentence; '' where the spacings agree, or one of them is not known.
    """
    found = trained and spacing_as_nnunet(path)
    if not found or not spacing.differ(found, trained):
        return ""
    here, there = (" × ".join(f"{number:.3g}" for number in three) for three in (found, trained))
    return (
        f"{path} has a voxel spacing of {here} (z, y, x) and is resampled to {there}, on which the "
        "network was trained."
    )
