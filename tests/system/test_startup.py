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


@pytest.mark.parametrize(
    ("plugin", "driver", "before", "after"),
    [
        (True, "no_such_driver.so.1", None, "1"),
        (True, "no_such_driver.so.1", "0", "0"),  # as the user says
        (True, None, None, None),  # which loads the program itself
        (False, "no_such_driver.so.1", None, None),
    ],
)
def test_no_card_is_expected_without_a_driver(plugin, driver, before, after, monkeypatch):
    name = "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"
    monkeypatch.setenv(name, before or "")
    if before is None:
        monkeypatch.delenv(name)
    monkeypatch.setattr(startup, "DRIVER", driver)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: plugin or None)
    startup._expect_no_card_without_a_driver()
    assert os.environ.get(name) == after
