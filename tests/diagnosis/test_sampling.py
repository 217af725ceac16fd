"""Checks of sampling, on fingerprints and labels made by hand."""

import types

import numpy as np
import pytest

from jax_seg.data.fingerprint import measure
from jax_seg.data.labels import label_table
from jax_seg.data.sampling import PatchSampler
from jax_seg.diagnosis import sampling

SIZE = 32


class Cache:
    """Opens arrays in place of files."""

    def open(self, array):
        def read(start, size):
            return array[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]

        return types.SimpleNamespace(shape=array.shape, read=read)


def evidence(labels, *, patch=16, epochs=4, patches=6, fields=None, **changes):
    """Evidence of labels [D, H, W] with the values of files: 0, 1, and 2 for unlabelled."""
    encoded = [np.where(label == 2, 255, label).astype(np.uint8) for label in labels]
    images = [np.full(label.shape, 9, np.uint8) for label in labels]
    sampler = PatchSampler(
        volumes=[
            types.SimpleNamespace(id=f"v{n}", image=image, label=label)
            for n, (image, label) in enumerate(zip(images, labels, strict=True))
        ],
        fingerprints=[measure(i, e) for i, e in zip(images, encoded, strict=True)],
        cache=Cache(),
        table=label_table(),
        patch=(patch,) * 3,
        patches_per_volume=patches,
        dtype=np.dtype(np.uint8),
        seed=0,
        **{"foreground_share": 1 / 3, "balance_target": 0.0} | changes,
    )
    drawn = [sampler[number] for number in range(24)]
    return types.SimpleNamespace(
        task=types.SimpleNamespace(train=sampler, samples="patches", wholes="volumes"),
        samples={name: np.stack([one[name] for one in drawn]) for name in drawn[0]},
        settings=types.SimpleNamespace(batch=2, train={"epochs": epochs}),
        quick=False,
        fields={"data.foreground_share": 0.5},
        field=(fields or {}).get,
    )


def sheets(count=4):
    """Labels with a sheet of two voxels, and a part that is unlabelled."""
    labels = []
    for number in range(count):
        label = np.zeros((SIZE,) * 3, np.uint8)
        label[10 + number : 12 + number] = 1
        label[:, :, :8] = 2
        labels.append(label)
    return labels


def single_voxels(count=4):
    labels = [np.zeros((SIZE,) * 3, np.uint8) for _ in range(count)]
    for number, label in enumerate(labels):
        label[3 * number + 2, 4, 20] = 1
    return labels


@pytest.mark.parametrize("check", sampling.CHECKS, ids=lambda check: check.causes[0])
def test_healthy_patches_are_not_reported(check):
    assert check.find(evidence(sheets())) == []


@pytest.mark.parametrize("check", sampling.CHECKS, ids=lambda check: check.causes[0])
def test_labels_in_every_fourth_slice_are_not_reported(check):
    labels = sheets()
    for label in labels:
        label[np.arange(SIZE) % 4 != 2] = 2
    assert check.find(evidence(labels)) == []


def test_patches_without_foreground():
    assert sampling.no_foreground(evidence(single_voxels(), patch=8)) == []
    (found,) = sampling.no_foreground(evidence(single_voxels(), patch=8, foreground_share=0.0))
    empty = found.evidence["empty_samples"]
    assert empty > 0.9 and found.evidence["empty_batches"] == pytest.approx(empty**2)
    assert found.evidence["volumes_without_foreground"] == 0
    assert found.field == "data.foreground_share"
    fields = {"data.balance_target": 0.0005}
    given = evidence(single_voxels(), patch=8, balance_target=0.0005, fields=fields)
    (found,) = sampling.no_foreground(given)
    assert found.field == "data.balance_target"


def test_volumes_without_foreground_are_no_fault_of_the_sampling():
    labels = sheets(1) + [np.zeros((SIZE,) * 3, np.uint8) for _ in range(9)]
    assert sampling.no_foreground(evidence(labels, foreground_share=1.0)) == []


def test_background_that_is_ignored():
    labels = [np.where(label == 0, 2, label) for label in sheets()]
    (found,) = sampling.mostly_masked(evidence(labels))
    assert found.severity == "error" and found.field == "data.ignore"
    assert found.evidence["masked"] == pytest.approx(1 - 2 * 24 / SIZE**2)
    assert found.evidence["background_of_labelled"] == 0


def test_volumes_that_are_nearly_unlabelled():
    labels = sheets(6)
    for label in labels[:4]:
        kept = label[8:14, 8:14, 8:14].copy()
        label[:] = 2
        label[8:14, 8:14, 8:14] = kept
    (found,) = sampling.mostly_masked(evidence(labels, patches=4))
    assert found.field == "data.root" and found.evidence["volumes"] == 4
    assert found.evidence["labelled"] == pytest.approx(6**3 / SIZE**3)
    assert found.evidence["labelled_elsewhere"] == pytest.approx(0.75)
    assert found.evidence["bare_patches"] == pytest.approx(4 / 6, abs=0.01)


def test_patches_much_larger_than_what_is_labelled():
    labels = []
    for label in sheets():
        island = np.full_like(label, 2)
        island[9:15, 12:18, 12:18] = label[9:15, 12:18, 12:18]
        labels.append(island)
    (found,) = sampling.mostly_masked(evidence(labels, patch=24))
    assert found.field == "data.patch" and "(12, 12, 12)" in found.advice
    assert found.evidence["labelled"] <= 6**3 / 24**3 < found.evidence["labelled_of_half"]


def test_voxels_that_no_patch_reaches():
    given = evidence(sheets(), patch=8, epochs=1, patches=2)
    (found,) = sampling.coverage(given)
    assert found.field == "data.patches_per_volume"
    assert found.evidence["missed"] >= 1 - 2 * 8**3 / (SIZE**2 * 24) - 0.02
    (found,) = sampling.coverage(evidence(single_voxels(), patch=10, epochs=20, foreground_share=1))
    assert found.field == "data.foreground_share"
    assert found.evidence["missed"] > 0.5 > 0.2 > found.evidence["missed_evenly"]


def test_coverage_of_long_runs_is_extrapolated(monkeypatch):
    given = evidence(sheets(2), patch=12, epochs=10)
    exact = sampling._missed(given.task.train, 0, 60, quick=False)
    monkeypatch.setattr(sampling, "DRAWS", {False: 30})
    assert sampling._missed(given.task.train, 0, 60, quick=False) == pytest.approx(exact, abs=0.08)


def test_patches_larger_than_the_volumes():
    (found,) = sampling.padding(evidence(sheets(), patch=44))
    assert found.evidence["padded"] == pytest.approx(1 - 32**3 / 44**3)
    assert found.evidence["volume_depth"] == 32 and "(32, 32, 32)" in found.advice
    assert sampling.padding(evidence(sheets(), patch=36)) == []


def test_images_without_objects():
    label = np.zeros((12, 8, 8, 1), np.uint8)
    given = types.SimpleNamespace(
        fields={},
        samples={"label": label},
        settings=types.SimpleNamespace(batch=2),
        task=types.SimpleNamespace(samples="images", wholes="images", train=None),
        part=lambda _: [types.SimpleNamespace(label=np.ones((1, 8, 8)))] * 3,
        field=lambda _: None,
    )
    (found,) = sampling.no_foreground(given)
    assert found.field == "data.kind" and found.evidence["empty_samples"] == 1
    label[::2, 0] = 1
    assert sampling.no_foreground(given) == []
