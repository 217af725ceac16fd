"""Patches of volumes, drawn by number: patch i is the same in every process and at any time."""

import dataclasses

import numpy as np

from jax_seg.data import labels
from jax_seg.ops.classes import BACKGROUND, MASKED

AXES = ("depth", "height", "width")  # of volumes and patches


@dataclasses.dataclass(frozen=True)
class PatchSampler:
    """A random-access source of training patches.

    Patch `i` belongs to epoch `i // len(self)`. An epoch visits every volume `patches_per_volume`
    times in an order of its own. Each patch holds at least one labelled voxel, and one that is not
    zero, where the volume has any; a share of them is placed to hold foreground (nnU-Net's
    oversampling), where the volume has any.

    Attributes:
      volumes: list of labelled `Volume`.
      fingerprints: list of `Fingerprint`, one per volume.
      cache: opens the files of the volumes.
      table: of `labels.label_table`.
      patch: (depth, height, width) in voxels.
      patches_per_volume: patches drawn from each volume in an epoch.
      foreground_share: probability that a patch is placed to hold a foreground voxel.
      balance_target: share of foreground among the labelled voxels that a patch should have:
        of four places drawn, the closest is kept. 0 keeps the first.
      dtype: of the returned images.
      seed: of every draw.
      numbers: list of `Preprocessing`, one per volume, where each is normalised by its own.

    Raises:
      ValueError: a value out of range, naming the field.
    """

    volumes: list
    fingerprints: list
    cache: object
    table: labels.LabelTable
    patch: tuple
    patches_per_volume: int
    foreground_share: float
    balance_target: float
    dtype: np.dtype
    seed: int
    numbers: list | None = None

    def __post_init__(self):
        check_patch(self.patch)
        if self.patches_per_volume < 1:
            raise ValueError(
                "data.patches_per_volume or validate.patches_per_volume is "
                f"{self.patches_per_volume}; set it to 1 or more."
            )
        for name in ("foreground_share", "balance_target"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name} is {getattr(self, name)}; set it from 0 to 1.")

    def __len__(self):
        return len(self.volumes) * self.patches_per_volume

    def __getitem__(self, index):
        """Patch `index` >= 0: {'image': [*patch, C], 'label': uint8 [*patch, 1], 'volume': int32}.

        Labels are encoded as in `ops.classes`; voxels outside of the volume are MASKED. With
        `numbers`, those of its volume are added: 'own', float32 [4], or [4, C] of several channels.
        """
        number, corner = self.place(index)
        reader = self.cache.open(self.volumes[number].image)
        image = read_patch(reader, corner, self.patch, outside="edge")
        sample = {
            "image": with_channels(image.astype(self.dtype, copy=False)),
            "label": self._label(number, corner)[..., None],
            "volume": np.int32(number),
        }
        if self.numbers:
            sample["own"] = np.array(self.numbers[number], np.float32)
        return sample

    def volume_of(self, index):
        """The number of the volume that patch `index` is of; nothing is read."""
        epoch, position = divmod(int(index), len(self))
        order = self._generator(1, epoch).permutation(len(self))
        return int(order[position] % len(self.volumes))

    def place(self, index):
        """(number of its volume, [3] first corner) of patch `index`."""
        number = self.volume_of(index)
        return number, self.draw_place(number, self._generator(0, index))

    def draw_place(self, number, generator):
        """The [3] first corner of a patch of a volume, by a numpy generator."""
        if not self.balance_target:
            return self._draw_corner(number, generator)

        def distance(corner):
            return abs(foreground_share(self._label(number, corner)) - self.balance_target)

        return min((self._draw_corner(number, generator) for _ in range(4)), key=distance)

    def _generator(self, purpose, number):
        key = np.array([2 * self.seed + purpose, number], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _draw_corner(self, number, generator):
        """The patch's first corner: a drawn voxel lies anywhere in it that the volume allows."""
        facts = self.fingerprints[number]
        wanted = generator.random() < self.foreground_share and len(facts.foreground)
        places = _of_a_code(facts, generator) if wanted else facts.labelled
        voxel = places[generator.integers(len(places))]
        patch = np.array(self.patch)
        room = facts.shape - patch
        corner = np.clip(voxel - generator.integers(0, patch), 0, np.maximum(room, 0))
        return np.where(room < 0, room // 2, corner)

    def _label(self, number, place):
        volume = self.volumes[number]
        reader = self.cache.open(volume.label)
        stored = read_patch(reader, place, self.patch, outside=None)
        inside = labels.encode(stored, self.table, volume.label)
        return pad_patch(inside, reader.shape, place, self.patch, outside=MASKED)


def _of_a_code(facts, generator):
    """The coordinates of foreground; of several codes those of one: the rare are drawn as often."""
    parts = [part for part in np.split(facts.foreground, facts.ends[:-1]) if len(part)]
    return parts[generator.integers(len(parts))] if len(parts) > 1 else parts[0]


def with_channels(image):
    """An image as read, [D, H, W] or [D, H, W, C], as [D, H, W, C]."""
    return image[..., None] if image.ndim == 3 else image


def check_patch(patch):
    """`patch` as a tuple; ValueError where it is not three numbers of voxels."""
    if len(patch) != 3 or min(patch) < 1:
        raise ValueError(
            f"data.patch is {tuple(patch)}; give depth, height and width, each 1 voxel or more."
        )
    return tuple(patch)


def read_patch(reader, start, size, outside):
    """Read a patch that may extend beyond the volume's borders.

    Args:
      reader: with `shape` and `read(start, size)`.
      start: [3] first voxel, may be negative.
      size: [3] voxels.
      outside: value of the voxels outside of the volume, 'edge' to repeat its border, or None to
        return only the part inside.

    Returns:
      Array of `size`, or of the part inside; of several channels, with their axis.
    """
    low = np.maximum(start, 0)
    high = np.minimum(np.add(start, size), reader.shape)
    inside = reader.read(tuple(int(v) for v in low), tuple(int(v) for v in high - low))
    return inside if outside is None else pad_patch(inside, reader.shape, start, size, outside)


def pad_patch(inside, shape, start, size, outside):
    """Extend the part of a patch that lies inside a volume of `shape` to the whole patch."""
    before = np.maximum(-np.asarray(start), 0)
    after = np.maximum(np.add(start, size) - shape, 0)
    if not before.any() and not after.any():
        return inside
    widths = list(zip(before.tolist(), after.tolist(), strict=True))
    widths += [(0, 0)] * (inside.ndim - 3)  # of channels
    if outside == "edge":
        return np.pad(inside, widths, mode="edge")
    return np.pad(inside, widths, constant_values=outside)


def foreground_share(label):
    """Share of foreground among the labelled voxels of an encoded label."""
    labelled = np.count_nonzero(label != MASKED)
    return (labelled - np.count_nonzero(label == BACKGROUND)) / max(labelled, 1)
