"""Every end of a command is an exit status and one sentence."""

import pytest

from jax_seg.system.commands import exit_status, report_errors


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (ValueError("a.tif is empty."), 1, "Error: a.tif is empty.\n"),
        (FileNotFoundError("b does not exist."), 1, "Error: b does not exist.\n"),
        (KeyboardInterrupt(), 130, "Interrupted: c stays.\n"),
    ],
)
def test_one_sentence(capsys, error, status, printed):
    def run():
        raise error

    assert exit_status(run, "c stays") == status
    assert capsys.readouterr().err == printed


def test_the_status_of_the_command_itself():
    assert [exit_status(lambda: 0), exit_status(lambda: 1)] == [0, 1]


def test_a_command_may_have_a_status_of_its_own_for_errors():
    assert exit_status(lambda: int("one"), failed=2) == 2


def test_errors_of_single_files(capsys):
    assert report_errors(["a.tif is empty.", "b.tif is a text."], 5, "volumes") == 1
    printed = "Error: a.tif is empty.\nError: b.tif is a text.\n2 of 5 volumes failed.\n"
    assert capsys.readouterr().err == printed
    assert report_errors([], 5, "volumes") == 0
    assert capsys.readouterr().err == ""


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 / 0)
