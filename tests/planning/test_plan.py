"""Plans of small folders: facts by hand, files that load, runs that keep their plan."""

import json
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from configs import auto, base
from jax_seg import plan as command
from jax_seg.planning import facts, planned, rules, written
from jax_seg.planning import plan as planning
from jax_seg.planning.machine import Machine
from jax_seg.system import config_file, configuration, memory
from jax_seg.system.devices import ONE
from jax_seg.system.files import locked
from jax_seg.training.settings import read_settings
from tests.conftest import ROOT, TIME_LIMIT, write_volumes

LAPTOP = Machine("2 CPU cores", 16 * 2**30, {8: 1e9, 16: 1e9, 24: 1e9, 32: 1e9})


@pytest.fixture(autouse=True)
def laptop(monkeypatch):
    """Plans that do not depend on how fast this machine is at the moment."""
    monkeypatch.setattr(planning, "machine", lambda device: LAPTOP)


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """Four volumes of bright planes; value 2 is a thick unlabelled block."""
    root, generator = tmp_path_factory.mktemp("sheets"), np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / name).mkdir()
    for number in range(4):
        image, label = generator.normal(80, 8, (24, 40, 40)), np.zeros((24, 40, 40), np.uint8)
        for depth in (4, 11, 18):
            image[depth : depth + 2] += 90
            label[depth : depth + 2] = 1
        label[:, :, 28:] = 2
        image = np.clip(image, 1, 255).astype(np.uint8)
        tifffile.imwrite(root / "images" / f"v{number}.tif", image)
        tifffile.imwrite(root / "labels" / f"v{number}.tif", label)
    return root


def config_of(root):
    config = base.get_config()
    config.data.update(root=str(root), threads=1)
    return config


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


def test_the_planning_configuration_has_no_demo():
    with pytest.raises(ValueError, match=r"auto\.py takes no ':demo'"):
        auto.get_config("demo")


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


def test_dataset_json_names_the_values(sheets, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).symlink_to(sheets / name)
    says = {"labels": {"background": 0, "sheet": 1, "ignore": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(says))
    assert facts.gather(config_of(tmp_path)).labels[:3] == ((0,), (1,), (2,))
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


def relabelled(sheets, root, change):
    """A copy of the folder whose labels are `change` of them."""
    (root / "images").symlink_to(sheets / "images")
    (root / "labels").mkdir()
    for file in (sheets / "labels").iterdir():
        tifffile.imwrite(
            root / "labels" / file.name, change(tifffile.imread(file).astype(np.int16))
        )
    return config_of(root)


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


def test_what_depends_on_the_length_of_the_run_is_planned(sheets):
    config = config_of(sheets)
    config.train.epochs = 3  # before average.swa_start
    assert facts.gather(config).groups == 4


def test_a_plan_needs_volumes():
    with pytest.raises(ValueError, match=r"data\.root is empty, and a plan is made from"):
        facts.gather(base.get_config())


def test_labels_of_one_value_are_refused(sheets, tmp_path):
    (tmp_path / "images").symlink_to(sheets / "images")
    (tmp_path / "labels").mkdir()
    for number in range(4):
        tifffile.imwrite(tmp_path / "labels" / f"v{number}.tif", np.zeros((24, 40, 40), np.uint8))
    with pytest.raises(ValueError, match="hold the value 0 alone"):
        facts.gather(config_of(tmp_path))


def test_the_file_says_why_and_gives_the_same_configuration(sheets, tmp_path, capsys):
    file = tmp_path / "mine.py"
    arguments = [str(sheets), "--minutes", "5", "--config.data.threads=1", "--output", str(file)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    text = file.read_text()
    assert "value 2 seems to mean unlabelled" in " ".join(printed.split())
    assert "config.data.threads = 1" in text and "# As given." in text
    assert "config.data.ignore = (2,)" in text  # though it is the default
    config = config_file.load(file)
    assert config.data.root == str(sheets) and config.train.minutes == 5
    assert config.train.epoch_length == "minutes" and config.data.ignore == (2,)
    planned_config = auto.get_config()
    planned_config.data.update(root=str(sheets), threads=1)
    planned_config.train.minutes = 5.0
    planned.fill(planned_config, {"data.root": str(sheets), "data.threads": 1})
    assert configuration.differences(config, configuration.as_dict(planned_config)) == []
    read_settings(config)
    assert command.main(arguments) == 0  # its own file may be replaced
    file.write_text("mine")
    assert command.main(arguments) == 1
    assert "was not written by jax_seg.plan" in capsys.readouterr().err


@pytest.mark.parametrize("within", ["", "fold_1"])
def test_a_run_keeps_its_plan(sheets, tmp_path, monkeypatch, within):
    given = {"data.root": str(sheets), "model.filters": 2, "train.minutes": 5.0}

    def planned_config(**more):
        config = auto.get_config()
        configuration.override(config, given | more)
        return config, given | more

    config, fields = planned_config()
    assert planned.fill(config, fields, tmp_path / "run")
    assert config.model.filters == 2 and "plan" not in config
    corrected, fields = planned_config(**{"model.filters": 3})  # before there is anything to resume
    planned.fill(corrected, fields, tmp_path / "run")
    assert corrected.model.filters == 3
    planned.fill(*planned_config(), tmp_path / "run")
    (tmp_path / "run" / within / "checkpoints" / "save_4").mkdir(parents=True)
    monkeypatch.setattr(planned, "make_plan", lambda *_, **__: pytest.fail("it has a plan"))
    again, fields = planned_config(**{"train.minutes": 9.0})  # a resumed run may have more time
    (line,) = planned.fill(again, fields, tmp_path / "run")
    assert line == f"Its plan is that of {tmp_path / 'run' / 'plan.json'}."
    differing = configuration.differences(again, configuration.as_dict(config))
    assert differing == ["train.minutes: 5.0 → 9.0"]
    again, fields = planned_config(**{"train.epochs": 3})  # which was planned, not given
    planned.fill(again, fields, tmp_path / "run")
    assert again.train.epochs == 3 != config.train.epochs
    other, fields = planned_config(**{"model.filters": 4})
    with pytest.raises(ValueError, match=r"another model.filters \(2, now 4\)"):
        planned.fill(other, fields, tmp_path / "run")


def test_a_run_that_has_saved_nothing_yet_keeps_its_plan_from_others(sheets, tmp_path):
    config, given = auto.get_config(), {"data.root": str(sheets), "model.filters": 2}
    configuration.override(config, given)
    with (
        locked(tmp_path / "run"),
        pytest.raises(ValueError, match="run is in use by another process"),
    ):
        planned.fill(config, given, tmp_path / "run")


def test_labels_have_whole_values_and_one_channel(tmp_path):
    root = write_volumes(tmp_path / "data", count=2)
    label = tifffile.imread(root / "train_labels" / "v1.tif").astype(np.float32)
    label[3, 4, 5] = 0.25
    tifffile.imwrite(root / "train_labels" / "v1.tif", label)
    with pytest.raises(ValueError, match=r"v1\.tif holds the value 0\.25, and label values are"):
        facts.gather(config_of(root))


def test_a_configuration_without_the_section_is_left_alone(sheets, tmp_path):
    config = config_of(sheets)
    assert planned.fill(config, {}, tmp_path / "run") == []
    assert not (tmp_path / "run").exists() and config == config_of(sheets)


def test_a_card_takes_what_fits(sheets, monkeypatch):
    def bytes_of(config, card, devices):
        return 2**30 * (1 + config.data.batch * (2 if config.data.patch[1] > 24 else 1))

    monkeypatch.setattr(planning, "step_bytes", bytes_of)

    def chosen(gib):
        card = Machine("a card", gib * 2**30, None, object())
        monkeypatch.setattr(planning, "machine", lambda device: card)
        return planning.make_plan(config_of(sheets)).fields

    assert chosen(80)["data.batch"] == 8
    assert chosen(7)["data.batch"] == 3
    small = chosen(2)  # not even one of 24×32×32
    assert small["data.batch"] == 1 and small["data.patch"][1] <= 24
    assert small["model.dtype"] == "bfloat16" and small["model.filters"] == 32
    with pytest.raises(ValueError, match="a single patch of"):
        chosen(1)


def test_a_step_that_a_card_cannot_even_compile_does_not_fit(sheets, monkeypatch):
    largest = [1]

    def bytes_of(config, card, devices):
        return 2**30 if config.data.batch <= largest[0] else math.inf

    monkeypatch.setattr(planning, "step_bytes", bytes_of)
    card = Machine("a card", 8 * 2**30, None, object())
    monkeypatch.setattr(planning, "machine", lambda device: card)
    plan = planning.make_plan(config_of(sheets))
    (batch,) = [one for one in plan.decisions if one.topic == "batch"]
    assert plan.fields["data.batch"] == 1 and "compile a step of two patches" in batch.reason
    largest[0] = 0
    with pytest.raises(ValueError, match=r"a single patch of .* voxels needs more; choose"):
        planning.make_plan(config_of(sheets))


def test_several_devices_share_what_fits_on_each(sheets, monkeypatch):
    def bytes_of(config, card, devices):
        assert devices == ONE
        return 2**30 * config.data.batch

    monkeypatch.setattr(planning, "step_bytes", bytes_of)
    found = Machine("a GPU", 3 * 2**30, None)
    monkeypatch.setattr(planning, "machine", lambda device: found)
    for size, batch in ((1, 3), (2, 6), (4, 8), (16, 16)):
        four = SimpleNamespace(size=size)
        monkeypatch.setattr(planning.devices, "arrange", lambda four=four, **_: four)
        assert planning.make_plan(config_of(sheets)).fields["data.batch"] == batch


def test_a_plan_may_start_from_another_configuration(sheets, tmp_path, capsys):
    """Whose network keeps its levels; a field is set as with launch.py."""
    file = tmp_path / "mine.py"
    arguments = [str(sheets), "--base", "configs/residual_m.py:demo", "--output", str(file)]
    arguments += ["--config.data.ignore=2", "--config.train.minutes=8"]
    assert command.main([*arguments, "--config.model.planar_levels=0"]) == 0
    config, start = config_file.load(file), config_file.load("configs/residual_m.py:demo")
    demo = config_file.load(f"{file}:demo")
    assert (demo.data.name, demo.data.root) == ("synthetic", "")
    assert config.model == start.model and config.preprocess.per_volume
    assert config.data.ignore == (2,) and config.train.minutes == 8
    assert "8 minutes hold" in " ".join(capsys.readouterr().out.split())
    read_settings(config)


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


def test_a_plan_needs_time(sheets, capsys):
    assert command.main([str(sheets), "--minutes", "0"]) == 1
    assert "train.minutes is 0" in capsys.readouterr().err


def test_a_folder_of_one_volume_is_planned_without_a_part_held_out(sheets, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "v0.tif").symlink_to(sheets / name / "v0.tif")
    plan = planning.make_plan(config_of(tmp_path))
    assert written.facts_in_words(plan.facts).startswith("1 volume, 24×40×40 voxels")
    assert plan.fields["data.fold"] == "none"
    (said,) = (one.reason for one in plan.decisions if one.topic == "validation")
    assert "a single volume or scroll cannot be divided" in said
    config = config_of(tmp_path)
    configuration.override(config, plan.fields)
    read_settings(config)


def test_volumes_of_several_spacings_are_planned_at_their_median(sheets, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(sheets, root)
    for number in range(4):
        stated = [1 if number == 2 else 3, 1, 1]
        (root / "images" / f"v{number}.json").write_text(json.dumps({"spacing": stated}))
    plan = planning.make_plan(config_of(root))
    assert plan.facts.spacing == (3, 1, 1) and plan.facts.spacings_differ
    assert plan.facts.anisotropy == 3
    assert "spacing 3×1×1, not the same in all" in written.facts_in_words(plan.facts)
    assert plan.fields["augment.in_plane_only"] and plan.fields["model.planar_levels"] == 1


def test_labels_with_holes_in_their_values_keep_them(sheets, tmp_path):
    config = relabelled(sheets, tmp_path, lambda label: np.array([0, 7, 200])[label])
    plan = planning.make_plan(config)
    assert plan.facts.values.keys() == {0, 7, 200}
    assert plan.facts.labels[:3] == ((0,), (7,), (200,))
    assert plan.fields["data.foreground"] == (7,) and plan.fields["data.ignore"] == (200,)
    configuration.override(config, plan.fields)
    read_settings(config)


def test_images_of_different_channel_counts_are_refused(sheets, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(sheets, root)
    for number in range(4):
        image = root / "images" / f"v{number}.tif"
        voxels = tifffile.imread(image)
        image.unlink()
        for channel in range(1 + (number > 0)):
            tifffile.imwrite(image.with_name(f"v{number}_000{channel}.tif"), voxels)
    assert command.main([str(root), "--minutes", "5"]) == 1
    said = capsys.readouterr().err
    assert "channel" in said and "v0" in said and said.count("\n") == 1


def test_launch_plans_and_trains_with_the_data_alone(sheets, tmp_path):
    """What a newcomer types, but for a network that trains in seconds."""
    workdir = tmp_path / "run"
    command = ["launch.py", "--config", "configs/auto.py", f"--config.data.root={sheets}"]
    command += ["--config.train.minutes=0.02", "--config.train.epochs=2", "--doctor=off"]
    command += ["--config.model.filters=2", "--config.data.patch=(16,16,16)"]
    ended = subprocess.run(
        [sys.executable, *command, "--workdir", workdir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert ended.returncode == 0, ended.stderr
    plan = json.loads((workdir / "plan.json").read_text())
    assert plan["given"]["model.filters"] == 2
    log = (workdir / "log.txt").read_text()
    for one in plan["decisions"]:
        assert f"{one['topic']}: " in log, one["topic"]
    said = " ".join(log.split())
    assert "2 epochs and one cosine schedule fill 0.02 minutes" in said
    assert "4 volumes, 24×40×40 voxels" in said and "value 2 seems to mean unlabelled" in said
    trained = json.loads((workdir / "config.json").read_text())
    assert trained["data"]["ignore"] == [2] and trained["optimizer"]["name"] == "muon"
    assert "dice" in json.loads((workdir / "scores.json").read_text())["ema"]
