"""What is unusual about the data of a run stands in its log, before it trains."""

import warnings

import numpy as np
import pytest
import tifffile

from jax_seg.data import pipeline
from jax_seg.training import console
from jax_seg.training import run as training
from tests.conftest import tiny_config, write_volumes


class Enough(Exception):
    """The first batch is asked for."""


def log_before_training(root, workdir, monkeypatch):
    """What a run has logged when it asks for its first batch."""

    def batches(*_, **__):
        raise Enough

    monkeypatch.setattr(pipeline, "batches", batches)
    with pytest.raises(Enough):
        training.run(tiny_config(root), workdir)
    return (workdir / "log.txt").read_text()


def test_a_constant_volume_is_in_the_log(tmp_path, monkeypatch):
    root = write_volumes(tmp_path / "data", count=6)
    path = root / "train_images" / "v0.tif"
    tifffile.imwrite(path, np.full((20, 20, 20), 80, np.uint8), photometric="minisblack")
    log = log_before_training(root, tmp_path / "run", monkeypatch)
    assert log.count("Warning: v0 is constant") == log.count("Warning: ") == 1


def test_what_is_not_read_is_in_the_log(tmp_path, monkeypatch, capsys):
    root = write_volumes(tmp_path / "data", count=6)
    (root / "train_images" / "v9.zip").touch()
    log = log_before_training(root, tmp_path / "run", monkeypatch)
    assert log.count("v9.zip") == log.count("Warning: ") == 1
    assert capsys.readouterr().err == ""


def test_warnings_are_shown_where_the_run_cannot_start(capsys):
    with pytest.raises(ValueError, match="broken"), console.collected_warnings():
        warnings.warn("a file is skipped", stacklevel=1)
        raise ValueError("broken")
    assert "a file is skipped" in capsys.readouterr().err
