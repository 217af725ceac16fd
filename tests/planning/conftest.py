"""Folders that are planned for, and the machine that plans."""

import numpy as np
import pytest
import tifffile

from configs import base
from jax_seg.planning import plan as planning
from jax_seg.planning.machine import Machine

LAPTOP = Machine("2 CPU cores", 16 * 2**30, {8: 1e9, 16: 1e9, 24: 1e9, 32: 1e9})


@pytest.fixture(autouse=True)
def laptop(monkeypatch):
    """Plans that do not depend on how fast this machine is at the moment."""
    monkeypatch.setattr(planning, "machine", lambda device: LAPTOP)


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """Four volumes of bright planes; value 2 is a thick unlabelled block."""
    root, generator = tmp_path_factory.mktemp("sheets"), np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / name).mkdir()
    for number in range(4):
        image, label = generator.normal(80, 8, (24, 40, 40)), np.zeros((24, 40, 40), np.uint8)
        for depth in (4, 11, 18):
            image[depth : depth + 2] += 90
            label[depth : depth + 2] = 1
        label[:, :, 28:] = 2
        image = np.clip(image, 1, 255).astype(np.uint8)
        tifffile.imwrite(root / "images" / f"v{number}.tif", image)
        tifffile.imwrite(root / "labels" / f"v{number}.tif", label)
    return root


def config_of(root):
    config = base.get_config()
    config.data.update(root=str(root), threads=1)
    return config


def relabelled(sheets, root, change):
    """A copy of the folder whose labels are `change` of them."""
    (root / "images").symlink_to(sheets / "images")
    (root / "labels").mkdir()
    for file in (sheets / "labels").iterdir():
        tifffile.imwrite(
            root / "labels" / file.name, change(tifffile.imread(file).astype(np.int16))
        )
    return config_of(root)
