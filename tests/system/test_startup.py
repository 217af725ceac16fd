"""What every command does first."""

import importlib.util
import os
import warnings

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
