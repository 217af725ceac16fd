"""The data folders of a run that its configuration names."""

from pathlib import Path

from jax_seg.data.folder import LAYOUTS

IMAGE_LAYOUTS = tuple(
    f"{part}/{name}" for part in ("Train", "Test") for name in ("Image", "GT_Object")
)
OWN = ("cache", "checkpoints", "data", "validation")
"""Folders in a workdir that the run itself reads."""


def data_folders(fields, workdir=None):
    """Existing folders of images and labels, and those in the workdir that the run reads.

    Args:
      fields: every field of a configuration by its dotted path, of `configuration.flat`.
      workdir: folder of the run, or None.

    Returns:
      List of Path.
    """
    folders = [Path(workdir) / name for name in OWN] if workdir else []
    if root := fields.get("data.root"):
        named = [fields.get(name) for name in ("data.images", "data.labels")]
        pairs = (name for pair in LAYOUTS for name in pair)
        folders += [Path(root) / name for name in (*filter(None, named), *pairs, *IMAGE_LAYOUTS)]
    return [folder for folder in folders if folder.is_dir()]
