"""Memory is asked before it is taken."""

import numpy as np
import psutil
import pytest
import tifffile

from jax_seg.data.readers import read_volume
from jax_seg.system import memory


def test_a_file_beyond_memory_is_named_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 3 * 2**30)
    memory.require(3 * 2**30, "a.zarr", "read it")
    with pytest.raises(ValueError, match=r"a\.zarr needs 1,536\.5 GiB of memory to read it, but 3"):
        memory.require(1536.5 * 2**30, "a.zarr", "read it")


def test_a_container_has_less_than_its_machine(monkeypatch, tmp_path):
    machine = memory.available()
    own, limit = psutil.Process().memory_info().rss, tmp_path / "memory.max"
    monkeypatch.setattr(memory, "LIMITS", (str(tmp_path / "absent"), str(limit)))
    limit.write_text("max\n")
    assert memory.available() > machine / 2
    limit.write_text(f"{own + 2**20}\n")
    assert memory.available() < 2**25  # the process may have grown or shrunk meanwhile


def test_a_whole_volume_is_read_only_where_it_fits(monkeypatch, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 8, 8), np.uint16), photometric="minisblack")
    monkeypatch.setattr(memory, "available", lambda: 512)
    assert read_volume(tmp_path / "a.tif").sum() == 256
    monkeypatch.setattr(memory, "available", lambda: 511)
    with pytest.raises(ValueError, match=r"a\.tif needs .* of memory to read it"):
        read_volume(tmp_path / "a.tif")
