"""Checks of labels: silent on healthy volumes, and right about what is planted."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from jax_seg.data import synthetic
from jax_seg.diagnosis import labels
from jax_seg.diagnosis.evidence import Example
from jax_seg.diagnosis.finding import Skipped
from jax_seg.diagnosis.label_alignment import alignment, symmetries, turned
from jax_seg.diagnosis.label_completeness import incomplete
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED


@pytest.fixture(scope="module")
def volumes():
    """Six generated volumes of 40³: (image, stored label) each."""
    return [(image, label) for *_, image, label in synthetic.volumes(6, 40, seed=1)]


def evidence(pairs, classes=(BACKGROUND, FOREGROUND, MASKED), quick=False):
    """Fake evidence of (image, stored label) pairs; classes of the stored values 0, 1 and 2."""
    examples, stored = [], {}
    for number, (image, label) in enumerate(pairs):
        part = "training" if number < len(pairs) - 1 else "validation"
        encoded = np.array(classes, np.uint8)[label]
        files = f"image{number}", f"label{number}"
        stored[files[1]] = label
        examples.append(
            Example(f"v{number}", part, "", image, encoded, (0, 0, 0), image.shape, *files)
        )
    cache = SimpleNamespace(
        open=lambda file: SimpleNamespace(read=lambda start, size: stored[file])
    )
    return SimpleNamespace(
        examples=examples,
        part=lambda name: [example for example in examples if example.part == name],
        quick=quick,
        task=SimpleNamespace(train=SimpleNamespace(cache=cache)),
        fields={"data.background": (0,)},
        field=lambda path, default=None: default,
    )


def changed(volumes, which, change):
    return [
        (image, change(label) if number in which else label)
        for number, (image, label) in enumerate(volumes)
    ]


@pytest.mark.parametrize("quick", [True, False])
def test_nothing_is_said_of_healthy_labels(volumes, quick):
    healthy = evidence(volumes, quick=quick)
    assert alignment(healthy) == []
    assert labels.inconsistent(healthy) == []
    assert incomplete(healthy) == []
    with pytest.raises(Skipped, match="single label value"):
        labels.unlabeled_as_foreground(healthy)


def test_the_shift_of_all_labels_is_found(volumes):
    moved = changed(
        volumes, range(6), lambda label: ndimage.shift(label, (0, 3, -2), order=0, mode="nearest")
    )
    (found,) = alignment(evidence(moved))
    assert (found.name, found.severity) == ("labels.misaligned", "error")
    shift = [found.evidence[f"shift_{axis}"] for axis in ("depth", "height", "width")]
    assert shift == [0, 3, -2]
    assert found.evidence["correlation"] < 0.7 * found.evidence["correlation_moved_back"]
    assert "shift by +0, -3, +2 voxels" in found.advice


def test_a_mirrored_label_is_found(volumes):
    (found,) = alignment(evidence(changed(volumes, [2], lambda label: np.flip(label, 1))))
    assert found.name == "labels.misaligned"
    assert "v2 (1 of 6 volumes) is mirrored along height" in found.says
    assert found.field == "label2"


def test_swapped_labels_are_found(volumes):
    swapped = list(volumes)
    swapped[0], swapped[3] = (volumes[0][0], volumes[3][1]), (volumes[3][0], volumes[0][1])
    (found,) = alignment(evidence(swapped))
    assert (found.name, found.evidence["volumes"]) == ("labels.swapped", 2)
    assert "v0 fits the label of v3" in found.says


def test_a_label_of_no_image_is_found(volumes):
    *_, other = next(iter(synthetic.volumes(1, 40, seed=7)))
    (found,) = alignment(evidence(changed(volumes, [1], lambda label: other)))
    assert (found.name, found.severity) == ("labels.swapped", "warning")
    assert abs(found.evidence["correlation"]) < found.evidence["by_chance"]


def test_an_anatomy_that_no_intensity_shows_is_left_alone():
    """Noise with a blob that lies anywhere."""
    generator = np.random.default_rng(0)
    pairs = []
    for _ in range(6):
        label = np.zeros((32, 32, 32), np.uint8)
        start = generator.integers(4, 18, 3)
        label[tuple(slice(s, s + 9) for s in start)] = 1
        image = ndimage.gaussian_filter(generator.standard_normal(label.shape), 3)
        pairs.append((image, label))
    assert alignment(evidence(pairs)) == []
    with pytest.raises(Skipped, match="too weakly"):
        incomplete(evidence(pairs))


def test_every_symmetry_is_tried_once_and_keeps_the_shape():
    label = np.arange(4 * 4 * 4).reshape(4, 4, 4)
    assert len({turned(label, turn).tobytes() for turn in symmetries(label.shape)}) == 47
    assert len(symmetries((3, 5, 5))) == 15
    assert len(symmetries((1, 6, 4))) == 3


@pytest.mark.parametrize("values", [(1, 2), (2, 1)])
def test_unlabeled_voxels_in_the_foreground_are_found(volumes, values):
    mapped = evidence(volumes, classes=(BACKGROUND, FOREGROUND, FOREGROUND))
    (found,) = labels.unlabeled_as_foreground(mapped)
    assert (found.evidence["value"], found.severity) == (2, "error")
    assert found.evidence["correlation"] < 0.5 * found.evidence["correlation_of_the_rest"]
    assert found.advice == "Set data.foreground=(1,) and data.ignore=(2,)."


def test_two_kinds_of_foreground_are_left_alone(volumes):
    """Half of the sheets have a value of their own."""
    halves = []
    for image, label in volumes:
        label = np.where(label == 2, 0, label)
        label[20:] *= 2
        halves.append((image, label))
    assert (
        labels.unlabeled_as_foreground(evidence(halves, (BACKGROUND, FOREGROUND, FOREGROUND))) == []
    )


def test_a_thicker_label_is_found(volumes):
    def thicker(label):
        grown = ndimage.binary_dilation(label == 1)
        return np.where(grown & (label == 0), 1, label)

    (found,) = labels.inconsistent(evidence(changed(volumes, [4], thicker)))
    assert "label of v4 (1 of 6 volumes)" in found.says
    assert found.evidence["thickness"] > 1.5 * found.evidence["thickness_of_the_others"]


def test_the_thickness_of_a_sheet_is_exact():
    label = np.zeros((20, 10, 10), np.uint8)
    label[5:8] = FOREGROUND
    assert labels.thickness(label) == 3
    label[8:] = MASKED
    assert labels.thickness(label) == 6  # one face alone is known


def test_values_are_outliers_only_beyond_the_others():
    assert labels.outliers(np.array([1.0, 1.1, 0.9, 1.0, 3.0])).tolist() == [4]
    assert labels.outliers(np.array([1.0, 1.8, 0.6, 1.0, 3.0])).tolist() == []
    assert labels.outliers(np.array([1.0, 1.0, 3.0, 3.0, 1.0])).tolist() == []


def test_missing_sheets_are_found(volumes):
    def without(label):
        pieces = label.copy()
        pieces[:20][pieces[:20] == 1] = 0
        return pieces

    (found,) = incomplete(evidence(changed(volumes, range(6), without)))
    assert (found.name, found.field) == ("labels.incomplete", "data.labels")
    assert found.evidence["missing_share"] > found.evidence["usual"]


def test_unlabeled_voxels_in_the_background_are_found(volumes):
    (found,) = incomplete(evidence(volumes, classes=(BACKGROUND, FOREGROUND, BACKGROUND)))
    assert (found.severity, found.field) == ("error", "data.background")
    assert found.advice.startswith("Remove 2 from data.background")


def test_a_single_volume_is_skipped(volumes):
    for check in (alignment, incomplete, labels.inconsistent):
        with pytest.raises(Skipped, match="fewer than"):
            check(evidence(volumes[:1]))
