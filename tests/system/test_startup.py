"""What every command does first."""

import warnings

from jax_seg.system import startup


def test_a_warning_of_the_project_is_one_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    startup.prepare()
    ours = warnings.formatwarning("8.safetensors is damaged; skipped.", UserWarning, "a.py", 3)
    assert ours == "Warning: 8.safetensors is damaged; skipped.\n"
    others = warnings.formatwarning("overflow", RuntimeWarning, "a.py", 3)
    assert "a.py:3: RuntimeWarning: overflow" in others
