"""The log of a run on a full disk."""

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
