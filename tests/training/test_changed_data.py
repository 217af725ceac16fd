"""Labels and images that are corrected under a run: said, and scored anew."""

import json

import numpy as np
import pytest
import tifffile

from jax_seg.runs import members, together
from jax_seg.runs.run import open_run
from jax_seg.system.files import write_json
from jax_seg.training import resuming
from jax_seg.training import run as training
from tests.conftest import tiny_config, write_volumes
from tests.workdirs import write_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, whose validation labels are inverted afterwards, and its configuration."""
    folder = tmp_path_factory.mktemp("changed")
    config = tiny_config(write_volumes(folder / "data"))
    config.train.epochs = 1
    training.run(config, folder / "run")
    run = open_run(folder / "run")
    before = run.scores["raw"], run.checkpoints.found()[run.checkpoints.latest_step()].loop
    for name in run.volumes:
        path = folder / "data" / "train_labels" / f"{name}.tif"
        label = tifffile.imread(path)
        tifffile.imwrite(path, np.where(label == 2, 2, 1 - label).astype(np.uint8))
    return config, folder / "run", before


def test_scores_of_other_labels_are_not_repeated(finished, capsys):
    config, workdir, (before, _) = finished
    after = training.run(config, workdir)
    log = capsys.readouterr().out
    assert after["foreground_label"] == pytest.approx(1 - before["foreground_label"])
    assert "The label of v" in log and "changed since the last checkpoint" in log
    assert "scores are computed again" in log and "Already scored" not in log
    training.run(config, workdir)  # now nothing has changed since the scores
    assert "Already scored" in capsys.readouterr().out


def test_a_checkpoint_keeps_the_checksums_of_every_volume(finished):
    config, workdir, (_, stored) = finished
    training.run(config, workdir)
    assert stored["data"].keys() == {*stored["split"]["training"], *stored["split"]["validation"]}
    scored = json.loads((workdir / "validation" / "scores.json").read_text())["data"]
    assert scored.keys() == set(stored["split"]["validation"])
    assert all(scored[name][0] == stored["data"][name][0] for name in scored)  # images stay
    assert all(scored[name][1] != stored["data"][name][1] for name in scored)


class Data:
    checksums = {"a": [1, 2], "b": [3, 4], "new": [5, 6]}  # noqa: RUF012
    validation_ids = ("b",)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ({"a": [1, 2], "b": [3, 4]}, ""),
        ({}, ""),  # of an older version
        ({"a": [1, 9], "b": [3, 4]}, "The label of a changed since the last checkpoint: training "),
        ({"a": [8, 9], "b": [3, 4]}, "The image and label of a changed"),
        ({"a": [1, 9], "b": [9, 4]}, "The label of a and 1 more changed"),
    ],
)
def test_what_has_changed_is_named(before, words):
    sentence = resuming.changed_data({"data": before}, Data)
    assert sentence.startswith(words) and bool(sentence) == bool(words)
    assert ("do not compare" in sentence) == (before.get("b") == [9, 4])


def test_an_ensemble_of_weights_that_were_trained_again_is_refused(tmp_path):
    run = str(write_run(tmp_path / "run", write_volumes(tmp_path / "data")))
    network = members.load(members.parse(run))
    path, content = tmp_path / "ensemble.json", {"members": [run], "weights": [1.0]}
    write_json(path, content | {"digests": [network.facts["digest"]]})
    together.require_fitted(path, [network])
    write_json(path, content | {"digests": ["another"]})
    with pytest.raises(ValueError, match=r"fitted to other weights of .*fit the ensemble again"):
        together.require_fitted(path, [network])
