"""Facts of small folders by hand, and what label values are taken to mean."""

import json

import numpy as np
import pytest
import tifffile

from jax_seg.data.labels import label_table
from jax_seg.planning import facts, rules, written
from jax_seg.system import memory
from tests.conftest import write_volumes
from tests.planning.conftest import config_of, relabelled


def test_facts_by_hand(sheets):
    found = facts.gather(config_of(sheets))
    assert found.shapes.tolist() == [[24, 40, 40]] * 4 and found.groups == 4
    assert found.dtype == "uint8" and found.spacing is None
    assert found.values == pytest.approx({0: 0.7 * 0.75, 1: 0.7 * 0.25, 2: 0.3})
    assert found.labels[:3] == ((0,), (1,), (2,)) and "unlabelled" in found.labels.reason
    assert found.foreground == pytest.approx(0.25) and found.unlabelled == pytest.approx(0.3)
    assert found.thickness == pytest.approx(2.0)
    assert found.pieces == 3 and found.largest == pytest.approx(1 / 3)  # equal planes
    assert found.range_ratio < 1.2 and found.zeros == 0


def test_a_plan_needs_no_memory_for_volumes_that_it_does_not_score(sheets, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    assert facts.gather(config_of(sheets)).groups == 4


def test_a_value_of_a_single_voxel_is_found(tmp_path):
    root = write_volumes(tmp_path / "many", count=26, size=16)
    rare = root / "train_labels" / "v13.tif"
    label = tifffile.imread(rare)
    label[0, 0, 15] = 3
    tifffile.imwrite(rare, label.astype(np.int16), compression="lzw")
    assert facts.gather(config_of(root)).values[3] == pytest.approx(1 / (26 * 16**3))


def test_values_that_the_user_names_are_not_guessed(sheets):
    config = config_of(sheets)
    config.data.update(foreground=(1, 2), ignore=())
    found = facts.gather(config, {"data.foreground": (1, 2), "data.ignore": ()})
    assert found.labels == facts.Labels((0,), (1, 2), (), "as given")


def test_a_value_that_the_user_names_has_no_other_meaning_by_default(sheets):
    config = config_of(sheets)
    config.data.foreground = (1, 2)
    found = facts.gather(config, {"data.foreground": (1, 2)})
    assert found.labels == facts.Labels((0,), (1, 2), (), "as given")


@pytest.mark.parametrize("named", [{"classes": ("a=1", "b=2")}, {"foreground": (1, 2)}])
def test_negative_values_are_unlabelled_beside_what_the_user_names(tmp_path, named):
    root = write_volumes(tmp_path / "data")
    for file in (root / "train_labels").iterdir():
        label = tifffile.imread(file).astype(np.int8)
        label[:2], label[-2:] = -1, 2
        tifffile.imwrite(file, label, compression="lzw")
    config = config_of(root)
    config.data.update(named)
    found = facts.gather(config, {f"data.{name}": value for name, value in named.items()}).labels
    assert found.ignore == (-1,) and found.foreground == (1, 2)
    assert found.reason == "as given; -1, negative, means unlabelled"
    for already in ({"ignore": (-1,)}, {"background": (0, -1)}, {"background": ("rest",)}):
        other = config_of(root)
        other.data.update(named | already)
        given = {f"data.{name}": value for name, value in (named | already).items()}
        for known in (given, {name: v for name, v in given.items() if name != "data.background"}):
            found = facts.gather(other, known).labels
            assert "negative" not in found.reason
            label_table(found.foreground, found.ignore, found.background, found.classes)


def test_dataset_json_names_the_values(sheets, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).symlink_to(sheets / name)
    says = {"labels": {"background": 0, "sheet": 1, "ignore": 2}, "channel_names": {"0": "CT"}}
    (tmp_path / "dataset.json").write_text(json.dumps(says))
    found = facts.gather(config_of(tmp_path))
    assert found.labels[:3] == ((0,), (1,), (2,)) and found.channels == ("CT",)
    says["labels"].pop("ignore")
    (tmp_path / "dataset.json").write_text(json.dumps(says))
    with pytest.raises(ValueError, match="the value 2, which dataset"):
        facts.gather(config_of(tmp_path))


@pytest.mark.parametrize(
    ("labels", "classes", "foreground"),
    [
        ({"sheet": 1, "sand": 2}, ("sheet=1", "sand=2"), (1, 2)),
        ({"all": [1, 2], "a=b": 2}, ("all=1,2", "a b=2"), (1, 2)),
    ],
)
def test_several_names_of_dataset_json_are_classes(labels, classes, foreground, sheets, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).symlink_to(sheets / name)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0} | labels}))
    found = facts.gather(config_of(tmp_path))
    assert found.labels[:3] == ((0,), foreground, ()) and found.labels.classes == classes
    assert found.foreground == pytest.approx(0.475)  # of both together
    fields = rules.labels(found).fields
    assert fields["data.classes"] == classes and fields["model.out_channels"] == 2
    assert "data.foreground" not in fields
    config = config_of(tmp_path)
    config.data.update(classes=("one=1",), ignore=(2,))
    given = facts.gather(config, {"data.classes": ("one=1",)})
    reason = "as given; 2 means unlabelled by default, see data.ignore"
    assert given.labels == facts.Labels((0,), (1,), (2,), reason, ("one=1",))
    config.data.classes = ("one=1", "two=2")  # which takes 2 from data.ignore
    given = facts.gather(config, {"data.classes": ("one=1", "two=2")})
    assert given.labels == facts.Labels((0,), (1, 2), (), "as given", ("one=1", "two=2"))
    assert given.unlabelled == 0


def test_negative_values_beside_0_mean_unlabelled(sheets, tmp_path):
    config = relabelled(sheets, tmp_path, lambda label: np.where(label == 2, -1, label))
    found = facts.gather(config).labels
    assert found[:3] == ((0,), (1,), (-1,)) and "negative values, here -1, mean" in found.reason


def test_values_that_can_only_be_background_are_refused(sheets, tmp_path):
    config = relabelled(sheets, tmp_path, lambda label: -(label == 1).astype(np.int16))
    with pytest.raises(ValueError, match="hold -1 and 0 alone, none of which seems to be foreg"):
        facts.gather(config)


def test_background_that_the_user_names_is_not_foreground(sheets):
    config = config_of(sheets)
    config.data.background = (0, 2)
    found = facts.gather(config, {"data.background": (0, 2)}).labels
    assert found[:3] == ((0, 2), (1,), ())


def test_regions_begin_with_the_value_that_is_written(sheets, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).symlink_to(sheets / name)
    says = {"labels": {"background": 0, "all": [2, 1], "core": 2}, "regions_class_order": [1, 2]}
    (tmp_path / "dataset.json").write_text(json.dumps(says))
    assert facts.gather(config_of(tmp_path)).labels.classes == ("all=1,2", "core=2")
    (tmp_path / "dataset.json").write_text(json.dumps(says | {"regions_class_order": [2, 2]}))
    with pytest.raises(ValueError, match="begins two classes with one label value"):
        facts.gather(config_of(tmp_path))
    (tmp_path / "dataset.json").write_text(json.dumps(says | {"regions_class_order": [3, 2]}))
    with pytest.raises(ValueError, match=r"regions_class_order is \[3, 2\]"):
        facts.gather(config_of(tmp_path))


def test_labels_of_one_value_are_refused(sheets, tmp_path):
    (tmp_path / "images").symlink_to(sheets / "images")
    (tmp_path / "labels").mkdir()
    for number in range(4):
        tifffile.imwrite(tmp_path / "labels" / f"v{number}.tif", np.zeros((24, 40, 40), np.uint8))
    with pytest.raises(ValueError, match="hold the value 0 alone"):
        facts.gather(config_of(tmp_path))


def test_labels_have_whole_values_and_one_channel(tmp_path):
    root = write_volumes(tmp_path / "data", count=2)
    label = tifffile.imread(root / "train_labels" / "v1.tif").astype(np.float32)
    label[3, 4, 5] = 0.25
    tifffile.imwrite(root / "train_labels" / "v1.tif", label)
    with pytest.raises(ValueError, match=r"v1\.tif holds the value 0\.25, and label values are"):
        facts.gather(config_of(root))


def test_the_facts_in_words():
    some = facts.Facts(
        shapes=np.array([[4, 8, 8], [6, 8, 8], [30, 8, 8]]),
        dtype="float32 and uint8",
        groups=3,
        spacing=(2.0, 0.5, 0.5),
        spacings_differ=True,
        anisotropy=4.0,
        values={0: 1},
        labels=facts.Labels((0,), (1,), (), ""),
        foreground=0.25,
        unlabelled=0.0,
        thickness=1.5,
        pieces=1.0,
        largest=1.0,
        cropped=False,
        range_ratio=1.0,
        zeros=0.0,
    )
    assert written.facts_in_words(some) == (
        "3 volumes, 6×8×8 voxels (median) of float32 and uint8; spacing 2×0.5×0.5, not the same "
        "in all; a step along depth equals 4.0 in the plane; foreground is 25.0 % of what is "
        "labelled, 1.5 voxels thick, in 1 piece a volume; everything is labelled."
    )
    other = some._replace(spacing=None, anisotropy=1.02, groups=2, unlabelled=0.5, pieces=2.0)
    other = other._replace(largest=0.75, cropped=True)
    said = written.facts_in_words(other)
    for words in (
        "of 2 scrolls,",
        "no spacing; steps along",
        "in 2 pieces in the middle of a volume, the largest with 75 % of it;",
        "50.0 % is unl",
    ):
        assert words in said
