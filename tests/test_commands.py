"""jax-seg COMMAND: the commands by name, without importing those that do not run."""

import subprocess
import sys

import pytest

from jax_seg import __main__ as commands
from jax_seg.system.program import program
from tests.conftest import ROOT

STARTED = {
    "/usr/bin/jax-seg": "jax-seg predict",
    "/site-packages/jax_seg/__main__.py": "python -m jax_seg predict",
    "/site-packages/jax_seg/predict.py": "python -m jax_seg.predict",
    "/site-packages/jax_seg/report/__main__.py": "python -m jax_seg.predict",
    "/usr/bin/pytest": "python -m jax_seg.predict",
}


@pytest.mark.parametrize("started", STARTED)
def test_a_command_is_named_as_it_was_started(started, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started, "predict"])
    assert program("predict") == STARTED[started]
    assert program() == STARTED[started].replace(".predict", "").removesuffix(" predict")


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_describes_its_arguments(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/jax-seg"])
    with pytest.raises(SystemExit) as ended:
        commands.main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: jax-seg {name} ")


def test_help_lists_every_command_on_a_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/jax-seg"])
    assert commands.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("usage: jax-seg COMMAND ")
    for name, line in commands.COMMANDS.items():
        assert sum(row.split() == [name, *line.split()] for row in listed.splitlines()) == 1
    assert max(map(len, listed.splitlines())) <= 80

    assert commands.main([]) == 2
    assert capsys.readouterr() == ("", listed)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pedict", "no command 'pedict'; did you mean 'predict'?"),
        ("fit-ensemble", "no command 'fit-ensemble'; did you mean 'fit_ensemble'?"),
        ("xyz", "no command 'xyz'; python -m jax_seg --help lists them."),
        ("--workdir", "no command '--workdir'; "),
    ],
)
def test_an_unknown_command_is_one_sentence(name, message, capsys):
    assert commands.main([name, "runs/a"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_status_of_a_command_is_passed_on(tmp_path, capsys):
    assert commands.main(["report", str(tmp_path / "nothing")]) == 1
    assert "nothing is not the folder of a run" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        commands.main(["predict", "--no_such_flag"])
    assert ended.value.code == 2


def test_a_list_of_commands_imports_nothing_heavy():
    check = (
        "import sys; from jax_seg.__main__ import main; main(['--help']); main(['nothing']); "
        "sys.exit(str({'jax', 'numpy', 'scipy', 'tensorstore'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1] == "set()"
