"""A workdir as it is read for the report: its name, and counts that follow from scores."""

import numpy as np

from jax_seg.metrics.segmentation import ByClass, Confusion, as_json, scores
from jax_seg.runs import run as opened
from tests.report_runs import make_run, run_with


def test_names_are_the_shortest_ends_that_differ(tmp_path, data):
    for name in ("x/run", "y/run"):
        make_run(tmp_path / name, data)
    found = opened.read_runs([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert [run.name for run in found] == ["x/run", "y/run"]
    assert [run.name for run in opened.read_runs([tmp_path / "x" / "run"])] == ["run"]


def test_counts_follow_from_the_scores():
    generator = np.random.default_rng(0)
    given = {str(n): Confusion(*generator.integers(0, 10**7, 4).tolist()) for n in range(50)}
    given |= {"nothing": Confusion(0, 0, 0, 7), "all": Confusion(7, 0, 0, 0)}
    volumes = {name: scores(c) | {"labelled": c.labelled} for name, c in given.items()}
    assert opened.confusions(run_with(volumes=volumes)) == given


def test_counts_of_several_classes_together_are_stored():
    """Whose scores are means over classes, from which they do not follow."""
    a, b = Confusion(100, 0, 800, 9100), Confusion(100, 0, 0, 9900)
    both = Confusion(200, 0, 800, 9000)
    volumes = {"v": scores(ByClass({"a": a, "b": b}, both)) | {"labelled": 10_000}}
    run = run_with(volumes=volumes, validation={"together": {"v": as_json(both)}})
    assert opened.confusions(run) == {"v": both}
