"""A data set that is ready to train on: what is said of its volumes, what it takes on the disk."""

import json

import numpy as np
import pytest
import tifffile

from jax_seg.data import dataset, dataset_json, readers, spacing
from jax_seg.data.preprocess import Preprocessing, measure
from tests.conftest import write_volumes

RULE = {"name": "percentile", "low_percentile": 0.5, "high_percentile": 99.5}


def prepare(root, cache, cache_gb=1.0, fold_count=3, rule=RULE, **options):
    return dataset.prepare(
        root,
        images="",
        labels_folder="",
        background=(0,),
        foreground=(1,),
        ignore=(2,),
        fold=0,
        fold_count=fold_count,
        group="scroll_id",
        seed=0,
        cache_directory=cache,
        cache_gb=cache_gb,
        threads=1,
        preprocess=rule,
        **{"at": spacing.Rule()} | options,
    )


def change(root, name, function):
    path = root / "train_images" / f"{name}.tif"
    tifffile.imwrite(path, function(tifffile.imread(path)), photometric="minisblack")


def test_ordinary_volumes_leave_nothing_to_remark(tmp_path):
    assert prepare(write_volumes(tmp_path / "data"), tmp_path).remarks == []


def test_a_class_that_is_masked_by_default_is_named(tmp_path):
    root = write_volumes(tmp_path / "data")
    said = {"background": 0, "anterior": 1, "posterior": 2}
    (root / "dataset.json").write_text(json.dumps({"labels": said}))
    (remark,) = prepare(root, tmp_path).remarks
    assert "masks the label value 2, which" in remark and "names 'posterior'" in remark
    (root / "dataset.json").write_text(json.dumps({"labels": said | {"posterior": 3, "ignore": 2}}))
    assert prepare(root, tmp_path).remarks == []


@pytest.mark.parametrize(
    "text", ["not JSON", "[1]", '{"labels": ["a"]}', '{"labels": {"background": 0, "a": 2.5}}']
)
def test_a_file_of_that_name_that_is_not_nnunets_says_nothing(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    assert dataset_json.label_values(tmp_path) == {}
    assert dataset_json.channel_names(tmp_path) == []
    (tmp_path / "dataset.json").write_text('{"channel_names": ["CT"]}')
    assert dataset_json.channel_names(tmp_path) == []


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_volume_on_another_scale_is_named(tmp_path, part):
    root = write_volumes(tmp_path / "data")
    name = getattr(prepare(root, tmp_path), part)[0].id
    change(root, name, lambda voxels: voxels.astype(np.uint16) * 256)
    found = prepare(root, tmp_path)
    (remark,) = found.remarks
    assert remark.startswith(f"{name} has intensities from 1") and f"convert {name}" in remark
    low, high = found.preprocessing.low, found.preprocessing.high
    assert f"the run clips to {low:g} to {high:g}" in remark
    if part == "train":  # the percentiles are those of all training volumes, as they were
        assert high > 10_000 and "where the typical volume fills 0." in remark
    else:
        assert high < 256 and "100 % of its voxels are clipped to one value" in remark


def test_a_constant_volume_is_named_and_leaves_the_others_their_range(tmp_path):
    root = write_volumes(tmp_path / "data")
    ordinary = prepare(root, tmp_path)
    name = ordinary.train[0].id
    change(root, name, lambda voxels: np.full_like(voxels, 80))
    found = prepare(root, tmp_path)
    assert found.remarks == [f"{name} is constant (99 % of its voxels are 80): check the file."]
    assert found.preprocessing.high == pytest.approx(ordinary.preprocessing.high, abs=9)


def test_masked_scans_are_fitted_to_their_scan(tmp_path):
    """20³ voxels of scan in a volume of zeros, 99.6 % of it, used to be "constant"."""
    root = write_volumes(tmp_path / "data", count=6)
    alone = prepare(root, tmp_path)
    for part in ("train_images", "train_labels"):
        for path in (root / part).iterdir():
            voxels = np.zeros((20, 20, 5600), np.uint8)
            voxels[..., :20] = tifffile.imread(path)
            tifffile.imwrite(path, voxels, photometric="minisblack")
    found = prepare(root, tmp_path)
    (remark,) = found.remarks
    assert remark.startswith("99.6 % of the training volumes' voxels are exactly zero")
    assert found.preprocessing.low == pytest.approx(alone.preprocessing.low, abs=9)
    assert found.preprocessing.high == pytest.approx(alone.preprocessing.high, abs=9)
    assert all(facts.labelled[:, 2].max() < 20 for facts in found.train_facts)


def test_resampled_volumes_count_towards_the_limit_of_the_cache(tmp_path):
    """Image and label of v2 take 2 · 4000 bytes resampled; each file of the others 8128 decoded."""
    root, cache = write_volumes(tmp_path / "data"), tmp_path / "cache"
    for number in range(6):
        stated = [1.0 if number == 2 else 2.0, 1.0, 1.0]
        (root / "train_images" / f"v{number}.json").write_text(json.dumps({"spacing": stated}))

    def bytes_in(part):
        return sorted(file.stat().st_size for file in (cache / part).iterdir())

    prepare(root, cache, at=spacing.Rule((2.0, 1.0, 1.0), (), "never"))
    assert bytes_in("volumes") == [8128] * 12
    prepare(root, cache, (2 * 4000 + 2 * 8128) / 2**30)
    assert bytes_in("volumes") == [8128] * 2 and len(bytes_in("resampled")) == 2
    with pytest.raises(ValueError, match=r"take 7\.45e-06 GiB resampled, besides 0 GiB"):
        prepare(root, cache, 7999 / 2**30)
    # Those of another run are counted, and kept: it may be reading them.
    others = prepare(root, cache, 16_000 / 2**30, at=spacing.Rule((2.0, 1.0, 1.0))).cache
    with pytest.raises(ValueError, match=r"7\.57e-06 GiB decoded, more than the [4-7].*e-06 GiB"):
        others.open(root / "train_images" / "v2.tif")
    for number in range(6):
        stated = [1.0 if number == 3 else 2.0, 1.0, 1.0]
        (root / "train_images" / f"v{number}.json").write_text(json.dumps({"spacing": stated}))
    with pytest.raises(
        ValueError, match=r"besides 1\.0.*e-05 GiB of other runs or versions in .*resampled"
    ):
        prepare(root, cache, 15_999 / 2**30)
    assert len(bytes_in("resampled")) == 2


def test_the_header_of_a_file_is_read_once_as_long_as_it_does_not_change(tmp_path, monkeypatch):
    root, opened, real = write_volumes(tmp_path / "data", count=4), [], readers._opened
    monkeypatch.setattr(readers, "_opened", lambda path: opened.append(path.name) or real(path))
    prepare(root, tmp_path / "cache", fold_count=2)
    assert sorted(opened) == sorted(f"v{n}.tif" for n in range(4) for _ in range(2))
    opened.clear()
    change(root, "v1", lambda voxels: np.concatenate([voxels, voxels]))
    with pytest.raises(ValueError, match=r"v1\.tif has shape \(20, 20, 20\) but its image"):
        prepare(root, tmp_path / "cache", fold_count=2)
    assert opened == ["v1.tif"]


def test_a_volume_is_measured_once_for_its_own_normalisation(tmp_path, monkeypatch):
    root = write_volumes(tmp_path / "data")
    rule = {"name": "zscore", "low_percentile": 0.5, "high_percentile": 99.5}
    first = prepare(root, tmp_path / "cache", rule=rule | {"per_volume": True})
    assert all(isinstance(one, Preprocessing) for one in first.numbers.values())
    change(root, "v1", lambda image: image // 2)
    measured = []

    def counted(volume, rule):
        measured.append(volume)
        return measure(volume, rule)

    monkeypatch.setattr(dataset, "measure", counted)
    again = prepare(root, tmp_path / "cache", rule=rule | {"per_volume": True})
    assert len(measured) == 1
    differing = [id for id in first.numbers if first.numbers[id] != again.numbers[id]]
    assert differing == ["v1"]
    prepare(root, tmp_path / "cache", rule=rule | {"per_volume": True, "region": "box"})
    assert len(measured) == 1 + len(first.numbers)
