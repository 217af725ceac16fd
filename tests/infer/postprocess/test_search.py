"""The search by hand, what it computes once, and which scores it remembers."""

import shutil

import numpy as np
import pytest

from jax_seg.infer import postprocess
from jax_seg.infer.postprocess import scoring, search
from tests.tuning import blobs


@pytest.mark.parametrize(
    "file", ["infer/postprocess/components.py", "metrics/competition.py", "ops/components.py"]
)
def test_other_programs_have_another_fingerprint(tmp_path, file):
    for folder in scoring.PROGRAMS:
        shutil.copytree(
            scoring.PACKAGE / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    before = scoring.code_fingerprint(tmp_path)
    assert before == scoring.code_fingerprint(scoring.PACKAGE)
    (tmp_path / "infer" / "notes.txt").write_text("no program")
    assert scoring.code_fingerprint(tmp_path) == before
    with (tmp_path / file).open("a") as program:
        program.write("\n# changed\n")
    assert scoring.code_fingerprint(tmp_path) != before


def test_what_counts_as_a_gain_by_hand():
    assert search.sure_gain([0.5], [0.75]) == 0.25
    assert search.sure_gain([0.5, 0.5], [0.7, 0.6]) == pytest.approx(0.1)  # the smaller of two
    assert search.sure_gain([0.5, 0.5], [0.9, 0.4]) == pytest.approx(-0.1)
    # Gains 1, 2, 3: mean 2, standard deviation 1.
    assert search.sure_gain([0, 0, 0], [1, 2, 3]) == pytest.approx(2 - 1 / np.sqrt(3))


def test_a_search_by_hand():
    """Each step adds its two numbers to the scores of two volumes."""
    adds = {
        "threshold:value=0.5": (0, 0),
        "threshold:value=0.4": (0.1, 0.05),
        "hysteresis": (0.1, 0.05),  # as good, but later
        "close": (0.4, -0.01),  # the best mean, but it harms the second volume
        "open": (0.05, 0.0005),  # less than the smallest gain
        "fill_holes:voxels=4": (0.01, 0.02),
        "fill_holes:voxels=9": (0.02, 0.02),
        "plug_holes": (0.01, 0.01),
    }
    asked = []

    def score(names, settings):
        assert names == ["a", "b"]
        asked.extend(settings)
        return {s: list(0.5 + np.sum([adds[step] for step in s], axis=0)) for s in settings}

    first, *rest = [*adds][1], *[*adds][3:]
    rows = search.search(score, ["a", "b"], [*adds][:3], rest)
    steps = [("threshold:value=0.5",)] + [
        (first, *added) for added in [(), rest[3:4], (rest[3], "plug_holes")]
    ]
    assert [row["steps"] for row in rows] == steps
    assert [row["score"] for row in rows] == pytest.approx([0.5, 0.575, 0.595, 0.605])
    assert [row["gain"] for row in rows] == pytest.approx([0, 0.075, 0.02, 0.01])
    assert rows[-1]["scores"] == pytest.approx([0.63, 0.58])
    # What did not gain is not tried again, nor another setting of a step that is in use.
    tried = [s for s in asked if s[:2] == (first, rest[3])]
    assert set(tried) == {(first, rest[3]), (first, rest[3], "plug_holes")}


def test_settings_that_begin_alike_are_computed_once(monkeypatch):
    calls, original = [], postprocess.apply_step

    def counted(mask, name, *rest):
        calls.append(name)
        return original(mask, name, *rest)

    monkeypatch.setattr(postprocess, "apply_step", counted)
    probability, label, image = blobs(0)
    volume = scoring.Arrays(probability.astype(np.float32), label, image)
    first = "threshold:value=0.3"
    settings = [(first,), (first, "close"), (first, "fill_holes"), (first, "close", "plug_holes")]
    masks = scoring.Masks(volume)
    found = {setting: masks.of(setting) for setting in sorted(settings)}
    assert sorted(calls) == ["close", "fill_holes", "plug_holes", "threshold"]
    for setting in settings:
        np.testing.assert_array_equal(
            found[setting], postprocess.apply(probability, image, setting)
        )
