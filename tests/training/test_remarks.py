"""What is unusual about the data of a run stands in its log, before it trains."""

import numpy as np
import pytest
import tifffile

from jax_seg.data import pipeline
from jax_seg.training import run as training
from tests.conftest import tiny_config, write_volumes


class Enough(Exception):
    """The first batch is asked for."""


def test_a_constant_volume_is_in_the_log(tmp_path, monkeypatch):
    root = write_volumes(tmp_path / "data", count=6)
    path = root / "train_images" / "v0.tif"
    tifffile.imwrite(path, np.full((20, 20, 20), 80, np.uint8), photometric="minisblack")

    def batches(*_, **__):
        raise Enough

    monkeypatch.setattr(pipeline, "batches", batches)
    with pytest.raises(Enough):
        training.run(tiny_config(root), tmp_path / "run")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("Warning: v0 is constant") == log.count("Warning: ") == 1
