"""Every end of a command is an exit status and one sentence."""

import pytest

from jax_seg.system.commands import exit_status


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


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 / 0)
