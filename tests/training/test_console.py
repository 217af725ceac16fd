"""The log of a run on a full disk."""

import jax
import pytest

from jax_seg.training import console
from tests.small_disk import files_of_at_most


def test_a_full_disk_ends_the_run_in_a_sentence(tmp_path, capsys):
    """By default logging prints a traceback for every line, and the run goes on."""
    log = console.open_log(tmp_path)
    message = r"log\.txt could not be written \(File too large\): raise the limit"
    with files_of_at_most(200):
        log.info("short")
        with pytest.raises(OSError, match=message):
            log.info("x" * 200)
        with pytest.raises(OSError, match=message):  # what could not be written yet
            console.close_log(log)
    assert capsys.readouterr().err == ""
    assert (tmp_path / "log.txt").read_text().splitlines()[0].endswith(" short")


def test_a_log_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(OSError, match=r"log\.txt could not be written \(Is a directory\)"):
        console.open_log(tmp_path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory\nwhile trying", "memory ran out while looking for it;"),
        ("INTERNAL: no such kernel\nat 0x1", "looking for it failed (INTERNAL: no such kernel);"),
    ],
)
def test_why_the_layer_that_diverged_is_unknown(error, reason):
    layers, at = jax.errors.JaxRuntimeError(error), {"epoch": 1, "batch": 2, "workdir": "runs/a"}
    sentence = console.divergence({"loss": float("nan")}, {}, layers, ["v0"], **at)
    assert f"of v0; the layer is unknown, since {reason}" in sentence and "\n" not in sentence
