"""Which steps of post-processing and which threshold predict applies."""

import json

import jax
import numpy as np
import pytest
import tifffile

from jax_seg.infer import postprocess
from tests.predicting import logits_of, run
from tests.workdirs import write_run


@pytest.fixture
def tuned(volumes_folder, tmp_path):
    """A run with post-processing in its configuration, and another list that was tuned."""

    def steps(config):
        config.postprocess.steps = ("remove_small:voxels=9",)

    workdir = write_run(tmp_path / "tuned", volumes_folder, change=steps)
    (workdir / "postprocess.json").write_text(
        json.dumps({"steps": ["threshold:value=0.4", "remove_small:voxels=30"]})
    )
    return workdir


def test_post_processing_is_the_tuned_one_by_default(tuned, image, tmp_path, capsys):
    probability = np.asarray(jax.nn.sigmoid(logits_of(image, tuned)))
    for number, (flags, steps) in enumerate(
        [
            ([], ["threshold:value=0.4", "remove_small:voxels=30"]),
            (["--threshold", "0.6"], ["threshold:value=0.6", "remove_small:voxels=30"]),
            (["--postprocess", "keep_largest"], ["threshold:value=0.5", "keep_largest"]),
            (
                ["--postprocess", "keep_largest", "--threshold", "0.6"],
                ["threshold:value=0.6", "keep_largest"],
            ),
            (
                ["--postprocess", "hysteresis:low=0.4,high=0.5", "fill_holes"],
                ["hysteresis:low=0.4,high=0.5", "fill_holes"],
            ),
        ]
    ):
        _, mask, _, facts = run(image, tmp_path / str(number), "--workdir", tuned, *flags)
        assert facts["postprocess"] == steps
        assert ("threshold" in facts) == steps[0].startswith("threshold")
        expected = postprocess.apply(probability, tifffile.imread(image), steps)
        np.testing.assert_array_equal(mask, expected)
    printed = capsys.readouterr().out
    assert printed.count("replaces the step") == 1
    assert "--threshold 0.6 replaces the step threshold:value=0.4" in printed


def test_post_processing_of_the_configuration_and_none(tuned, image, tmp_path):
    facts = run(image, tmp_path / "none", "--workdir", tuned, "--postprocess", "none")[3]
    assert facts["threshold"] == 0.5 and "postprocess" not in facts
    (tuned / "postprocess.json").unlink()
    facts = run(image, tmp_path / "own", "--workdir", tuned)[3]
    assert facts["postprocess"] == ["threshold:value=0.5", "remove_small:voxels=9"]


def test_members_must_agree(tuned, runs, image, volumes_folder, tmp_path, capsys):
    assert run(image, tmp_path / "out", "--workdir", tuned, runs[0])[0] == 1
    assert "differ in their post-processing" in capsys.readouterr().err
    flags = ["--workdir", tuned, runs[0], "--postprocess", "fill_holes"]
    assert run(image, tmp_path / "out", *flags)[0] == 0

    lower = write_run(
        tmp_path / "lower", volumes_folder, change=lambda c: c.validate.update(threshold=0.3)
    )
    assert run(image, tmp_path / "two", "--workdir", lower, runs[0])[0] == 1
    assert "differ in their threshold (0.3, 0.5): choose with --th" in capsys.readouterr().err
    flags = ["--workdir", lower, runs[0], "--threshold", "0.4"]
    assert run(image, tmp_path / "two", *flags)[3]["threshold"] == 0.4


@pytest.mark.parametrize(("part", "said"), [("training", True), ("held out", False)])
def test_steps_that_were_tuned_on_training_volumes_are_said_so(
    image, volumes_folder, tmp_path, capsys, part, said
):
    workdir = write_run(tmp_path / "run", volumes_folder)
    on = {"volumes": part, "chose": []}
    content = {"steps": ["threshold:value=0.4"], "judged_on": on}
    (workdir / "postprocess.json").write_text(json.dumps(content))
    assert run(image, tmp_path / "out", "--workdir", workdir)[0] == 0
    printed = capsys.readouterr().out
    assert ("postprocess.json were chosen on training volumes" in printed) == said
