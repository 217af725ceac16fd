"""Commands on a run write nothing into its folders of images and labels."""

import pytest

from jax_seg import compare, doctor, fit_ensemble
from jax_seg.report import __main__ as report
from tests.workdirs import write_run


@pytest.mark.parametrize("part", ["train_images", "train_labels", "run/checkpoints"])
@pytest.mark.parametrize(
    ("main", "command", "name"),
    [
        (report.main, ["run", "--output"], "page.html"),
        (doctor.main, ["--workdir", "run", "--json"], "found.json"),
        (compare.main, ["run@latest", "run@swa", "--output"], "compared.json"),
        (fit_ensemble.main, ["run", "run@swa", "--output"], "ensemble.json"),
    ],
)
def test_outputs_among_the_data_of_a_run_are_refused(
    volumes_folder, tmp_path, monkeypatch, capsys, main, command, name, part
):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", volumes_folder)
    folder = tmp_path / part if part.startswith("run") else volumes_folder / part
    before = list(folder.rglob("*"))
    assert main([*command, str(folder / "new" / name)]) in (1, 2)
    error = capsys.readouterr().err
    assert "which holds inputs: choose a place outside" in error and error.count("\n") == 1
    assert list(folder.rglob("*")) == before
    # An ensemble's members count too.
    if main is compare.main:
        (tmp_path / "e.json").write_text('{"members": ["run@1@raw", "run@1@swa"], "weights": []}')
        assert main(["e.json", "run", "--output", str(folder / name)]) == 1
        assert "which holds inputs" in capsys.readouterr().err


def test_the_diagnosis_of_others_stays(volumes_folder, tmp_path, capsys):
    workdir = write_run(tmp_path / "run", volumes_folder)
    (workdir / "doctor.json").write_text("mine")
    assert doctor.main(["--workdir", str(workdir), "--quick"]) == doctor.CANNOT
    assert "doctor.json was not written by jax_seg.doctor" in capsys.readouterr().err
    assert (workdir / "doctor.json").read_text() == "mine"
