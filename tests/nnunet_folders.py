"""Small folders of nnU-Net, and copies of them with entries changed."""

import json
import shutil

from jax_seg.weights import nnunet
from tests.conftest import GOLDEN

FOLDERS = GOLDEN / "nnunet"


def fold_of(folder):
    ((_, path),) = nnunet.find_folds(folder).items()
    return nnunet.read_fold(path)


def edited(folder, tmp_path, *, plans=None, dataset=None, architecture=None, configuration=None):
    """A copy of a model folder with entries of its files changed."""
    copy = tmp_path / "model"
    shutil.copytree(FOLDERS / folder, copy)
    for name, change in (("plans", plans), ("dataset", dataset)):
        content = json.loads((copy / f"{name}.json").read_text())
        content |= change or {}
        if name == "plans" and (architecture or configuration):
            (stored,) = content["configurations"].values()
            stored["architecture"] |= architecture or {}
            stored |= configuration or {}
        (copy / f"{name}.json").write_text(json.dumps(content))
    return copy
