"""The folders that a run's data lie in, as far as its configuration names them."""

from pathlib import Path

from jax_seg.data.folder import LAYOUTS

IMAGE_LAYOUTS = tuple(
    f"{part}/{name}" for part in ("Train", "Test") for name in ("Image", "GT_Object")
)
OWN = ("cache", "checkpoints", "data", "validation")
"""Folders in a workdir that hold what the run itself reads again."""


def data_folders(fields, workdir=None):
    """Folders of images and labels, and what a run reads of its workdir; those that exist.

    Args:
      fields: every field of a configuration by its dotted path, of `config.flat`.
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
