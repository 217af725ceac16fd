"""Weights of members, fitted to volumes that all of them held out."""

import json

import numpy as np
import pytest

from jax_seg import fit_ensemble
from tests.predicting import run
from tests.workdirs import write_run


def test_fitted_weights_are_read_by_predict(runs, image, tmp_path, capsys):
    a, b = runs
    file = tmp_path / "ensemble.json"
    assert fit_ensemble.main([a, f"{a}@2", f"{b}@swa", "--output", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "nats per voxel on volumes held out of the fit: fitted" in printed
    fitted = json.loads(file.read_text())
    assert fitted["members"] == [f"{a}@1@raw", f"{a}@2@raw", f"{b}@1@swa"]
    assert sum(fitted["weights"]) == pytest.approx(1) and len(fitted["fitted_to"]) == 2
    chose = ["checkpoint", "kind of weights"]
    assert fitted["judged_on"] == {"volumes": "held out", "chose": chose}
    found = run(image, tmp_path / "file", "--ensemble", file)[2]
    flags = ["--workdir", a, f"{a}@2", f"{b}@swa", "--member_weights", *fitted["weights"]]
    np.testing.assert_array_equal(run(image, tmp_path / "flags", *flags)[2], found)


def test_held_out_by_nobody(runs, volumes_folder, tmp_path, capsys):
    """Folds hold out different volumes; a run on all volumes holds out none."""
    other = write_run(tmp_path / "f1", volumes_folder, change=lambda c: c.data.update(fold="1"))
    command = [runs[0], str(other), "--output", str(tmp_path / "e.json")]
    assert fit_ensemble.main(command) == 1
    assert "No volume was held out by all members" in capsys.readouterr().err
    everything = write_run(
        tmp_path / "none", volumes_folder, change=lambda c: c.data.update(fold="none")
    )
    assert fit_ensemble.main([runs[0], str(everything), *command[2:]]) == 1
    assert "holds out no volume (data.fold=none)" in capsys.readouterr().err
    chosen = ["--images", str(volumes_folder / "train_images")]
    chosen += ["--labels", str(volumes_folder / "train_labels")]
    assert fit_ensemble.main([*command, *chosen]) == 0
    written = json.loads((tmp_path / "e.json").read_text())
    assert len(written["fitted_to"]) == 6
    # Between them the folds were trained on all six.
    assert written["judged_on"]["volumes"] == "training"
    printed = capsys.readouterr().out
    assert "nats per voxel on training volumes held out of the fit: fitted" in printed
    assert "A member was trained on v0, v1, v2, v3, v4, v5: the fit favours it" in printed


def test_members_that_encode_labels_differently_are_refused(runs, volumes_folder, tmp_path, capsys):
    change = {"foreground": (1, 2), "ignore": ()}
    other = write_run(tmp_path / "b", volumes_folder, change=lambda c: c.data.update(change))
    assert fit_ensemble.main([runs[0], str(other), "--output", str(tmp_path / "e.json")]) == 1
    assert (
        "differ in their meaning of label values ({0: background, 1: foreground, 2: unlabelled}, "
        "{0: background, 1: foreground, 2: foreground}): name members"
    ) in capsys.readouterr().err
