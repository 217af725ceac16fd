"""What every command does first."""

import importlib.util
import os
import warnings
from types import SimpleNamespace

import pytest

from jax_seg.system import startup


def test_a_warning_of_the_project_is_one_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    startup.prepare()
    ours = warnings.formatwarning("8.safetensors is damaged; skipped.", UserWarning, "a.py", 3)
    assert ours == "Warning: 8.safetensors is damaged; skipped.\n"
    others = warnings.formatwarning("overflow", RuntimeWarning, "a.py", 3)
    assert "a.py:3: RuntimeWarning: overflow" in others


@pytest.mark.parametrize(
    ("plugin", "before", "after"),
    [
        (True, None, "--xla_gpu_force_conv_nhwc=true"),
        (True, "--a=1", "--a=1 --xla_gpu_force_conv_nhwc=true"),
        (True, "--xla_gpu_force_conv_nhwc=false", "--xla_gpu_force_conv_nhwc=false"),
        (False, None, None),
    ],
)
def test_a_gpu_convolves_channels_last(plugin, before, after, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: plugin or None)
    monkeypatch.setenv("XLA_FLAGS", before or "")
    if before is None:
        monkeypatch.delenv("XLA_FLAGS")
    startup.convolve_channels_last()
    assert os.environ.get("XLA_FLAGS") == after


@pytest.mark.parametrize(
    ("plugin", "device", "chosen", "after"),
    [
        (True, False, None, "cpu"),
        (True, False, "cuda", "cuda"),  # as the user says
        (True, True, None, None),
        (False, False, None, None),
    ],
)
def test_no_card_is_looked_for_where_there_is_none(
    plugin, device, chosen, after, monkeypatch, tmp_path
):
    config = SimpleNamespace(jax_platforms=chosen, update=lambda name, v: setattr(config, name, v))
    monkeypatch.setattr(startup, "jax", SimpleNamespace(config=config))
    monkeypatch.setattr(
        startup, "DEVICES", (str(tmp_path / "no"), str(tmp_path / ("" if device else "no")))
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: plugin or None)
    startup._look_for_no_absent_card()
    assert config.jax_platforms == after
