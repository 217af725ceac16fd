"""Checks of volumes: silent on healthy volumes, and right about what is planted."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from jax_seg.data import synthetic
from jax_seg.data.preprocess import PerVolume
from jax_seg.diagnosis import corruption, volumes
from jax_seg.diagnosis.corruption import corrupt
from jax_seg.diagnosis.evidence import Example
from jax_seg.diagnosis.finding import Skipped
from jax_seg.diagnosis.leakage import leakage
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED


@pytest.fixture(scope="module")
def healthy():
    """Six examples of generated volumes of 40³, two scrolls, the last two for validation."""
    found = []
    for number, (_, _, image, label) in enumerate(synthetic.volumes(6, 40, seed=3)):
        part = "training" if number < 4 else "validation"
        label = np.array([BACKGROUND, FOREGROUND, MASKED], np.uint8)[label]
        files = f"image{number}", f"label{number}"
        found.append(
            Example(f"v{number}", part, part, image, label, (0, 0, 0), image.shape, *files)
        )
    return found


def evidence(examples, quick=False, holds_out=True, preprocessing=None, **fields):
    fields = {"data.group": "scroll_id", "data.patch": (32, 32, 32), **fields}
    return SimpleNamespace(
        examples=examples,
        part=lambda name: [example for example in examples if example.part == name],
        quick=quick,
        holds_out=holds_out,
        task=SimpleNamespace(preprocessing=preprocessing),
        field=lambda path, default=None: fields.get(path, default),
    )


def changed(examples, which, change):
    return [
        example._replace(image=change(example.image)) if number in which else example
        for number, example in enumerate(examples)
    ]


@pytest.mark.parametrize("check", [leakage, corrupt, volumes.shift, volumes.spacing])
def test_nothing_is_said_of_healthy_volumes(healthy, check):
    assert check(evidence(healthy)) == []


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: image,
        lambda image: np.flip(image, (0, 2)),
        lambda image: np.concatenate([image[:20], image[5:25]]),
        lambda image: image[3:35, 4:, 2:38],
    ],
    ids=["whole", "mirrored", "overlapping", "cut"],
)
def test_copies_in_the_validation_part_are_found(healthy, copy):
    leaking = [*healthy[:-1], healthy[-1]._replace(image=copy(healthy[1].image))]
    (found,) = leakage(evidence(leaking))
    assert (found.severity, found.evidence["volumes"]) == ("error", 1)
    assert "v5 and v1" in found.says and found.evidence["equal_rows"] > 0.4


def test_a_noisy_copy_in_the_validation_part_is_found(healthy):
    noise = np.random.default_rng(0).normal(0, 5, healthy[1].image.shape)
    leaking = [*healthy[:-1], healthy[-1]._replace(image=healthy[1].image + noise)]
    (found,) = leakage(evidence(leaking))
    assert found.evidence["correlation"] > 0.9 and found.evidence["equal_rows"] == 0


def test_a_scroll_on_both_sides_is_found(healthy):
    both = [example._replace(group="scroll0") for example in healthy]
    (found,) = leakage(evidence(both, **{"data.group": ""}))
    assert found.field == "data.group" and "scroll0" in found.says
    with pytest.raises(Skipped, match="held out"):
        leakage(evidence(both, holds_out=False))


def _noise(image):
    image = image.copy()
    image[7] = np.random.default_rng(0).permutation(image[7].ravel()).reshape(image[7].shape)
    return image


def _moved(image):
    image = image.copy()
    image[7] = np.roll(image[7], (5, 4), (0, 1))
    return image


def _repeated(image):
    image = image.copy()
    image[7] = image[6]
    return image


def _constant(image):
    image = image.copy()
    image[7] = 30
    return image


@pytest.mark.parametrize(
    "kind, change",
    [("noise", _noise), ("shifted", _moved), ("repeated", _repeated), ("constant", _constant)],
)
@pytest.mark.parametrize("axis", [0, 2])
def test_a_broken_slice_is_found(healthy, kind, change, axis):
    def along(image):
        return np.moveaxis(change(np.moveaxis(image, axis, 0)), 0, axis)

    (found,) = corrupt(evidence(changed(healthy, [2], along)))
    assert found.evidence[kind] == found.evidence["slices"] == 1
    assert f"v2 has 1 of 40 along {('depth', 'height', 'width')[axis]} ({kind}: 7)" in found.says
    assert found.severity == "warning" and found.field == "image2"


def test_slices_outside_of_the_object_are_left_alone(healthy):
    def cut(image):
        image = image.copy()
        image[:6], image[34:] = 0, 0
        return image

    assert corrupt(evidence(changed(healthy, [2], cut))) == []


def test_clipped_values_are_found(healthy):
    def clip(image):
        return np.minimum(image, np.quantile(image, 0.85)).astype(np.uint8)

    (found,) = corrupt(evidence(changed(healthy, range(6), clip)))
    assert found.evidence["clipped"] == pytest.approx(0.15, abs=0.03)
    assert found.evidence["volumes"] == 6


def test_an_inverted_volume_is_found(healthy):
    (found,) = volumes.shift(evidence(changed(healthy, [5], lambda image: 255 - image)))
    assert (found.severity, found.field) == ("error", "image5")
    assert found.evidence["contrast"] * found.evidence["contrast_of_the_others"] < 0


def test_a_volume_on_another_scale_is_found(healthy):
    (found,) = volumes.shift(evidence(changed(healthy, [0], lambda image: 20.0 * image)))
    assert "In v0 (1 of 6 volumes)" in found.says
    assert found.evidence["distance"] > 2 * found.evidence["distance_of_the_others"]
    by_itself = PerVolume("zscore", 0.0, 100.0, "all")
    with pytest.raises(Skipped, match="normalised by its own"):
        volumes.shift(evidence(changed(healthy, [0], lambda i: 20.0 * i), preprocessing=by_itself))


def test_thick_slices_are_found_where_the_network_ignores_them(healthy):
    noise = np.random.default_rng(0).standard_normal((160, 64, 64))
    image = ndimage.gaussian_filter(noise, 4)
    sampled = [healthy[0]._replace(image=image[::step]) for step in (1, 4)]
    assert volumes.spacing(evidence(sampled[:1])) == []
    (found,) = volumes.spacing(evidence(sampled[1:]))
    assert found.evidence["steps_in_plane"] == pytest.approx(4, abs=0.7)
    assert found.evidence["planar_levels_that_fit"] == 2
    assert "model.planar_levels=2" in found.advice and "(16, 32, 32)" in found.advice
    assert volumes.spacing(evidence(sampled[1:], **{"model.planar_levels": 2})) == []


def test_one_slice_repeated_to_a_depth_is_repeated_slices():
    slice_ = np.random.default_rng(0).normal(100, 20, (16, 16))
    found = corruption.slice_kinds(np.repeat(slice_[None], 10, 0))
    assert found["repeated"] == [*range(1, 10)] and not found["noise"] and not found["shifted"]
