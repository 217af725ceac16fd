"""Check a volume against the networks that segment it: windows, intensities, spacing."""

from typing import NamedTuple

from jax_seg.data import intensities
from jax_seg.data.preprocess import box_with_input
from jax_seg.data.readers import open_image, spacing
from jax_seg.data.readers.remote import is_address
from jax_seg.data.resample import nearest
from jax_seg.infer.sliding_window import count_empty
from jax_seg.system.files import channel_files


class View(NamedTuple):
    """What a network sees of a volume.

    Attributes:
      patch, overlap: of its windows.
      spacings: (z, y, x) of the volume and (z, y, x) to which it is resampled; None where it is
        taken as it is.
      boxed: 'before' or 'after' resampling, where what lies outside of the smallest box with input
        is left out; else ''.
    """

    patch: tuple
    overlap: float
    spacings: tuple | None = None
    boxed: str = ""


def inspect(name, image, *, views, ranges):
    """Count the windows without input, and compare the intensities with those of the runs.

    Args:
      name: of the volume, in sentences.
      image: [D, H, W] as stored, or [D, H, W, C].
      views: set of the networks' `View`s.
      ranges: {(channel, low, high)} of their preprocessing; channel is None of the only one.

    Returns:
      dict of JSON types: 'windows' and those of zeros alone as 'empty_windows', each over all
      views, and 'warnings', a list of sentences. Where a network sees the volume resampled, also
      'resampled_from', its spacing, and 'resampled_to', a list of the spacings of the networks.
    """
    counts = [
        count_empty(_seen(image, view), patch=view.patch, overlap=view.overlap) for view in views
    ]
    found = {
        "windows": sum(total for _, total in counts),
        "empty_windows": sum(empty for empty, _ in counts),
        "warnings": unlike(name, image, ranges),
    }
    return found | resampled(view.spacings for view in views)


def resampled(pairs):
    """What a sidecar says of the spacings of a volume and of its networks.

    Args:
      pairs: ((z, y, x) of the volume, (z, y, x) to which it is resampled) or None of each network.

    Returns:
      {} where none resamples it.
    """
    if not (pairs := sorted({pair for pair in pairs if pair})):
        return {}
    return {
        "resampled_from": list(pairs[0][0]),
        "resampled_to": [list(after) for _, after in pairs],
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


def _seen(image, view):
    """What a network sees, as far as windows and their zeros go.

    Each voxel is the nearest instead of an interpolated one, which is zero where that is, but for
    specks that interpolation rounds to zero.
    """
    if view.boxed == "before":
        image = image[box_with_input(image)]
    if view.spacings:
        image = nearest(image, *view.spacings)
    return image[box_with_input(image)] if view.boxed == "after" else image


def spacing_as_nnunet(path):
    """The spacing (z, y, x) of a volume as nnU-Net reads it, see `spacing.as_nnunet`.

    None of an address, which nnU-Net does not read.
    """
    if is_address(path):
        return None
    return spacing.as_nnunet(path, open_image(channel_files(path)[0]))


def resampled_as_nnunet(path, found, trained):
    """The sentence on a volume that is resampled for an imported network.

    Args:
      path: of the volume.
      found, trained: (z, y, x) of the volume, and of those that nnU-Net trained the network on.
    """
    here, there = (" × ".join(f"{number:.3g}" for number in three) for three in (found, trained))
    return (
        f"{path} has a voxel spacing of {here} (z, y, x) and is resampled to {there}, on which the "
        "network was trained."
    )
