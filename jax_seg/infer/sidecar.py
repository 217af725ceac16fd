"""The JSON file beside a prediction: how it was made, and how its files looked when written.

A prediction is finished when sidecar and files agree. It is identified by its weights and
settings, not by the run's location: a run may move.
"""

import hashlib
from pathlib import Path

from jax_seg.system.files import read_json, stamp, write_json
from jax_seg.system.outputs import marked

PART = 2**20  # bytes that are read at once
MEMBER = {
    "digest": "checkpoint",
    "preprocessing": "preprocessing",
    "patch": "window size",
    "overlap": "overlap",
    "weight": "member weight",
}
"""The settings that determine each network's output, with their names in messages."""
TOGETHER = {
    "flips": "flips",
    "rotations": "rotations",
    "threshold": "threshold",
    "postprocess": "post-processing",
    "classes": "values of classes",
}
"""The settings that determine the output of all together."""


def path_of(output, name):
    """The sidecar of a prediction in a folder."""
    return Path(output) / f"{name}.json"


def files_of(name, suffix, maps=()):
    """Names of a prediction's files, the mask first; `maps` of `files.map_folders`."""
    return [name + suffix, *(f"{folder}/{name}.tif" for folder in maps)]


def write(output, name, files, facts):
    """Write the sidecar of files that lie in `output`; returns its content.

    Args:
      output: folder.
      name: of the prediction.
      files: names in that folder.
      facts: dict of JSON types.
    """
    content = marked(facts, "predict") | {"files": {f: _record(Path(output) / f) for f in files}}
    write_json(path_of(output, name), content)
    return content


def changes(made, settings):
    """The settings in which two predictions differ and which change their content.

    Args:
      made: content of a sidecar.
      settings: those of the other.

    Returns:
      List of words, empty where both are the same.
    """
    before, now = (facts.get("members", [facts]) for facts in (made, settings))
    if len(before) != len(now):
        return ["number of members"]
    changed = [
        word
        for key, word in MEMBER.items()
        if any(a.get(key) != b.get(key) for a, b in zip(before, now, strict=True))
    ]
    return changed + [word for key, word in TOGETHER.items() if made.get(key) != settings.get(key)]


def unfinished(found, output, suffix, settings, maps, resampled=lambda volume: {}):
    """Which images still have to be predicted.

    Args:
      found: what has an 'id' and the path 'image'.
      output: folder of the predictions; existing ones come from this command (`is_own`).
      suffix: path of an image -> suffix of its mask or map.
      settings: those of a new prediction.
      maps: of `files.map_folders`, what is wanted besides the masks.
      resampled: one of `found` -> `inspection.resampled` of it now.

    Returns:
      (the images to predict, {id: error}): an error where a prediction has other settings, or
      has changed since it was written.
    """
    to_do, errors = [], {}
    for volume in found:
        if not (made := _read(path_of(output, volume.id))):
            to_do.append(volume)
            continue
        wanted = files_of(volume.id, suffix(volume.image), maps)
        changed = changes(made, settings)
        if made.get("image_stamp") != stamp(volume.image):
            changed.append("image")
        now = resampled(volume)
        if any(made.get(name) != now.get(name) for name in ("resampled_from", "resampled_to")):
            changed.append("voxel spacing")
        damaged = [f for f in wanted if _is_damaged(Path(output) / f, made["files"].get(f))]
        if changed:
            errors[volume.id] = ValueError(
                f"{Path(output) / wanted[0]} was made with a different {', '.join(changed)}: pass "
                "--overwrite to predict it again, or choose another --output."
            )
        elif damaged:
            errors[volume.id] = ValueError(
                f"{Path(output) / damaged[0]} has changed since it was written: move it away, "
                "or pass --overwrite to predict it again."
            )
        elif not all(f in made["files"] and (Path(output) / f).exists() for f in wanted):
            to_do.append(volume)
    return to_do, errors


def _read(path):
    """The content of a sidecar; {} where there is none, or it is no longer whole."""
    try:
        made = read_json(path) if path.is_file() else {}
    except ValueError:
        return {}
    return made if isinstance(made.get("files"), dict) else {}


def _record(path):
    """The bytes of a file and their digest; of a folder those of all its files, and their names."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    digest = hashlib.blake2b(digest_size=16)
    for one in files:
        if one != path:
            digest.update(f"{one.relative_to(path)}\n".encode())
        with one.open("rb") as file:
            while part := file.read(PART):
                digest.update(part)
    return {"bytes": sum(one.stat().st_size for one in files), "blake2b": digest.hexdigest()}


def _is_damaged(path, recorded):
    if recorded is None or not path.exists():
        return False
    if path.is_file() and path.stat().st_size != recorded["bytes"]:
        return True
    return _record(path) != recorded
