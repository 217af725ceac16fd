"""Memory is asked before it is taken."""

import psutil
import pytest

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
