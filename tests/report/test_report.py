import json

import matplotlib.image
import numpy as np
import pytest

from jax_seg.ops.classes import MASKED
from jax_seg.report import plots
from jax_seg.report.colours import of_classes
from jax_seg.system.files import replacing, write_json
from jax_seg.training import console


def test_replacing_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "scores.json"
    write_json(path, {"dice": 0.5})
    with pytest.raises(RuntimeError), replacing(path) as beside:
        beside.write_text("{")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"dice": 0.5}
    assert list(tmp_path.iterdir()) == [path]


def test_slices_paint_found_missed_and_wrong(tmp_path):
    image = np.full((6, 8, 10), 100, np.uint8)
    image[0] = 0
    label = np.zeros(image.shape, np.uint8)
    label[:, 2], label[:, 3], label[:, :, 9] = 1, 1, MASKED
    prediction = np.zeros(image.shape, np.uint8)
    prediction[:, 3], prediction[:, 5] = 1, 1
    path = tmp_path / "pictures" / "volume.png"
    plots.slices(image, label, prediction, path, title="volume")
    picture = matplotlib.image.imread(path)[..., :3]

    assert all(shows(picture, colour) for colour in (plots.FOUND, plots.MISSED, plots.WRONG))
    masked = 0.45 * 1 + 0.55 * 0.6  # grey over white: a column of one slice, in two pictures of it
    assert np.mean(np.abs(picture - masked).max(-1) < 0.01) > 0.005


def shows(picture, colour):
    """Whether a picture has an overlay, which is three quarters colour, on any grey."""
    direction = np.array(colour) - np.mean(colour)
    found = picture - picture.mean(-1, keepdims=True)
    return (np.abs(found - 0.75 * direction).max(-1) < 0.03).any()


def test_classes_that_share_a_colour_are_all_painted(tmp_path):
    image = np.full((6, 8, 10), 100, np.uint8)
    number = np.zeros(image.shape, np.uint8)
    number[:, 2] = 1  # and none of the eleventh class, which has the first one's colour
    path = tmp_path / "volume.png"
    plots.slices(image, number, number, path, classes=tuple("abcdefghijk"))
    picture = matplotlib.image.imread(path)[..., :3]
    picture = picture[: -picture.shape[0] // 4]  # without the legend
    assert shows(picture, np.divide(of_classes("a")[0], 255))


def test_slices_give_each_class_its_colour(tmp_path):
    image = np.arange(480, dtype=np.uint16).reshape(6, 8, 10)
    label, prediction = np.zeros((2, *image.shape), np.uint8)
    label[:, 2], prediction[:, 2], prediction[:, 5] = 1, 1, 2
    path = tmp_path / "volume.png"
    plots.slices(image, label, prediction, path, "volume", ("sheet", "ink"))
    picture = matplotlib.image.imread(path)[..., :3]
    colours = [np.divide(colour, 255) for colour in of_classes("abc")]
    third = picture.shape[1] // 3
    assert [shows(picture, colour) for colour in colours] == [True, True, False]
    columns = [picture[: -picture.shape[0] // 8, n * third : (n + 1) * third] for n in range(3)]
    assert [[shows(one, c) for c in colours[:2]] for one in columns] == [
        [False, False],
        [True, False],
        [True, True],
    ]


def test_learning_curve_of_a_run_without_events(tmp_path):
    plots.learning_curve([], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 0


def test_learning_curve_marks_what_was_decided(tmp_path, monkeypatch):
    marks = []
    monkeypatch.setattr(
        plots.plt.Axes, "axvline", lambda self, x, **style: marks.append((x, style))
    )
    events = [
        {"kind": "decision", "epoch": epoch, "decision": {"kind": kind}}
        for epoch, kind in ((2, "new_best"), (4, "rollback"), (5, "intervention"), (7, "rollback"))
    ]
    plots.learning_curve(events, tmp_path / "curve.png")
    first = [(x, style["label"]) for x, style in marks[:3]]
    assert first == [(4, "rollback"), (5, "intervention"), (7, "")]  # named once, per picture


@pytest.mark.parametrize(
    ("volumes", "part"), [("training", "Training"), ("held out", "Validation")]
)
def test_learning_curve_says_which_part_it_shows(tmp_path, monkeypatch, volumes, part):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    event = {"kind": "validation", "epoch": 0, "loss": 0.5, "volumes": volumes}
    plots.learning_curve([event], tmp_path / "curve.png")
    losses, scores, _ = figures[0].axes
    assert scores.get_title() == f"{part} part, whole"
    (label,) = (line.get_label() for line in losses.lines)
    assert label == ("validation, training data" if volumes == "training" else "validation")
    plots.plt.close(figures[0])


def test_sentence_tells_every_number():
    decision = {"kind": "early_stop", "epoch": 3, "best_epoch": 1, "margin": 0.0123456}
    assert console.sentence(decision) == "Early stop - best_epoch: 1, margin: 0.01235"


def test_memory_is_known():
    gibibytes, name = console.memory()
    assert 0 < gibibytes < 1000 and "memory" in name
