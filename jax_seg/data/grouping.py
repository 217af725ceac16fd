"""Images whose channels have files of their own, in nnU-Net's names: NAME_0000, NAME_0001, …"""

import re
from collections import Counter

from jax_seg.data.names import EXTENSION
from jax_seg.system.files import channels_path, container

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def base_of(name):
    """NAME of a name NAME_0001; others, as NAME_{0000..0001}, as they are."""
    found = _CHANNEL.fullmatch(name)
    return found[1] if found else name


def grouped(paths, is_channel):
    """Paths of images, in order, where the channels of one become one, of `channels_path`.

    Where no image has more than one, nothing is changed.

    Args:
        paths: of files or folders of volumes.
        is_channel: path -> whether NAME_0001.EXT is a channel of an image NAME.

    Raises:
        ValueError: an image lacks a channel that others have, or its channels differ in format.
    """
    groups, rest = {}, []
    for path in paths:
        stem = _stem(path)
        if container(path)[1] or base_of(stem) == stem or not is_channel(path):
            rest.append(path)
            continue
        number = int(stem[-4:])
        group = groups.setdefault((path.parent, base_of(stem)), {})
        _require_one_format([*group.values(), path], number in group)
        group[number] = path
    if all(len(group) == 1 for group in groups.values()):
        return list(paths)
    _require_same_channels(groups)
    joined = {group[0]: channels_path(group[0], len(group)) for group in groups.values()}
    kept = {*rest, *joined}
    return [joined.get(path, path) for path in paths if path in kept]


def _require_one_format(paths, repeated):
    """Raise a ValueError where the last of some files has another extension, or a number twice."""
    first, last = paths[0], paths[-1]
    if repeated or first.name.removeprefix(_stem(first)) != last.name.removeprefix(_stem(last)):
        raise ValueError(
            f"{first} and {last.name} are channels of one image in two formats: save them in one."
        )


def _require_same_channels(groups):
    """Raise a ValueError naming an image that has not the channels of the others."""
    counts = Counter(max(group) + 1 for group in groups.values())
    usual = max(counts, key=lambda count: (counts[count], count))
    for (folder, name), group in groups.items():
        some = next(iter(group.values()))
        extension = some.name.removeprefix(_stem(some))
        missing = sorted({*range(max(usual, max(group) + 1))} - group.keys())
        if max(group) >= usual and (not missing or min(missing) >= usual):
            raise ValueError(
                f"{folder} has {name}_{max(group):04}{extension}, but most images there have "
                f"{usual} channels, 0000 to {usual - 1:04}: add this channel to all, or move the "
                "file elsewhere."
            )
        if missing:
            raise ValueError(
                f"{folder} lacks {name}_{missing[0]:04}{extension}, a channel of {name}: every "
                f"image must have the same, here 0000 to {usual - 1:04}, so add this one."
            )


def _stem(path):
    return EXTENSION.sub("", path.name)
