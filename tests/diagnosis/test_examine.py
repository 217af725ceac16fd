"""The frame of the doctor: causes, order, what is skipped, evidence, bad input."""

import types

import numpy as np
import pytest

from benchmarks.doctor.faults import FAULTS
from jax_seg.data.labels import label_table
from jax_seg.diagnosis.evidence import MOST_VOLUMES, Evidence, by_epoch, of_config, of_run
from jax_seg.diagnosis.examine import CHECKS, examine
from jax_seg.diagnosis.finding import CAUSES, SEVERITIES, Check, Finding, Skipped, ordered
from jax_seg.runs.checkpoint_folder import PREFIX
from jax_seg.system import configuration
from jax_seg.system.files import write_json
from jax_seg.tasks import images, volumes
from tests.conftest import ROOT, tiny_config, write_volumes


def finding(name, severity="warning"):
    return Finding(name, severity, "It is so.", {"share": 0.5}, "data.patch", "Set another.")


def evidence(workdir=None, quick=False, kind=volumes):
    return types.SimpleNamespace(
        workdir=workdir,
        quick=quick,
        settings=types.SimpleNamespace(kind=kind),
        task=None,
        programs=None,
    )


def test_every_cause_has_a_check_and_a_planted_fault():
    looked_for = {cause for check in CHECKS for cause in check.causes}
    assert looked_for == set(CAUSES)
    assert {fault.cause for fault in FAULTS} == set(CAUSES)
    assert len(FAULTS) >= 40


def test_every_cause_is_documented():
    text = (ROOT / "docs" / "doctor.md").read_text()
    assert [cause for cause in CAUSES if f"| `{cause}` | {CAUSES[cause]} |" not in text] == []


def test_errors_come_first_and_then_what_spoils_the_rest():
    given = [("loss.floor", "warning"), ("data.shift", "warning"), ("model.dead", "error")]
    found = ordered([finding(*one) for one in given])
    assert [one.name for one in found] == ["model.dead", "data.shift", "loss.floor"]
    assert SEVERITIES == ("error", "warning", "note")


def test_a_check_that_lacks_data_is_reported_as_skipped():
    def lacks(_):
        raise Skipped("there is one volume only")

    checks = (
        Check(("loss.floor",), lambda _: [finding("loss.floor")]),
        Check(("data.shift", "data.spacing"), lacks),
        Check(("training.overfits",), lambda _: 1 / 0, needs="run"),
    )
    report = examine(evidence(), checks)
    assert [one.name for one in report.findings] == report.checked == ["loss.floor"]
    assert report.skipped == {
        "data.shift": "there is one volume only",
        "data.spacing": "there is one volume only",
        "training.overfits": "there is no run yet",
    }
    assert not report.errors and report.seconds >= 0
    assert report.as_json()["findings"] == [
        {
            "name": "loss.floor",
            "severity": "warning",
            "says": "It is so.",
            "evidence": {"share": 0.5},
            "field": "data.patch",
            "advice": "Set another.",
        }
    ]


def test_images_are_spared_the_causes_that_only_volumes_can_have():
    alone = [check for check in CHECKS if check.not_for]
    report = examine(evidence(kind=images), alone)
    assert report.skipped["data.spacing"] == "images have no depth"
    assert len(report.skipped) > 10 and not report.checked and not report.failed
    assert all(check.not_for.keys() == {images.NOUN} for check in alone)


def test_a_quick_examination_leaves_slow_checks_out():
    checks = (
        Check(("loss.floor",), lambda _: [finding("loss.floor", "error")], quick=True),
        Check(("data.shift",), lambda _: 1 / 0),
    )
    report = examine(evidence(quick=True), checks)
    assert report.checked == ["loss.floor"] and len(report.errors) == 1
    assert report.skipped == {"data.shift": "it takes longer than a quick examination"}


def test_a_cause_that_one_of_its_checks_looked_for_is_not_skipped():
    def lacks(_):
        raise Skipped("there are no events")

    checks = (Check(("loss.floor",), lacks), Check(("loss.floor",), lambda _: []))
    report = examine(evidence(), checks)
    assert report.checked == ["loss.floor"] and report.skipped == {}


def test_a_check_that_fails_does_not_end_the_examination():
    checks = (
        Check(("data.shift", "data.spacing"), lambda _: [][0]),
        Check(("data.shift",), lambda _: []),
        Check(("loss.floor",), lambda _: [finding("loss.floor")]),
    )
    report = examine(evidence(), checks)
    assert [one.name for one in report.findings] == ["loss.floor"]
    why = "the check failed (IndexError: list index out of range)"
    assert report.skipped == {"data.spacing": why}
    assert report.failed == {"data.shift": why}  # although another check looked for it


def test_epochs_collect_their_events():
    events = [
        {"kind": "train", "step": 4, "epoch": 0, "loss": 0.5},
        {"kind": "update", "step": 4, "epoch": 0, "loss": 0.4},
        {"kind": "validation", "step": 4, "epoch": 0, "loss": 0.6},
        {"kind": "decision", "step": 4, "epoch": 0, "decision": {"kind": "new_best"}},
        {"kind": "finding", "step": 4, "epoch": 0, "name": "loss.floor"},
        {"kind": "update", "step": 5, "epoch": 1, "loss": 0.4},
    ]
    (epoch,) = by_epoch(events)
    assert epoch["epoch"] == 0 and epoch["decisions"] == [{"kind": "new_best"}]
    assert (epoch["train"]["loss"], epoch["validation"]["loss"]) == (0.5, 0.6)
    assert epoch.keys() == {"epoch", "decisions", "train", "validation"}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return write_volumes(tmp_path_factory.mktemp("many"), count=14)


def test_examples_are_read_once_and_at_most_so_many(many):
    config = tiny_config(many)
    found = Evidence(config, quick=True)
    assert len(found.part("training")) == MOST_VOLUMES[True]
    assert len(found.part("validation")) == len(found.task.validation_ids)
    assert found.examples is found.examples
    example = found.examples[0]
    assert example.image.shape == example.label.shape == example.shape == (20, 20, 20)
    assert set(np.unique(example.label)) <= {0, 1, 255}
    assert example.group.startswith("s")


def test_a_batch_is_normalised_and_split_into_label_and_mask(many):
    found = Evidence(tiny_config(many))
    batch, drawn = found.batch(), found.task.train[0]
    np.testing.assert_array_equal(batch["label"][0] > 0, drawn["label"] == 1)
    np.testing.assert_array_equal(batch["mask"][0] > 0, drawn["label"] != 255)
    low, high, shift, scale = found.preprocessing
    expected = (np.clip(drawn["image"].astype("f4"), low, high) - shift) * scale
    np.testing.assert_allclose(batch["image"][0], expected, atol=1e-6)


def test_what_launch_would_refuse_is_refused(many):
    config = tiny_config(many)
    config.data.batch = 0
    with pytest.raises(ValueError, match=r"data\.batch"):
        examine(Evidence(config))


@pytest.mark.parametrize("classes", [("a=1", "b=2"), ("b=2", "a=1")])
def test_classes_with_a_value_that_is_masked_by_default_are_examined(many, classes):
    config = tiny_config(many)
    config.data.classes = classes
    found = of_config(config).config.data
    table = label_table(found.foreground, found.ignore, found.background)
    assert table.values == (0, 1, 2) and table.foreground == (int(classes[0][-1]),)


def test_what_cannot_be_built_is_refused(many):
    config = tiny_config(many)
    config.data.patch = (15, 15, 15)
    with pytest.raises(ValueError, match=r"data\.patch"):
        examine(Evidence(config), ())


def test_damaged_checkpoints_do_not_pass_for_none(many, tmp_path):
    write_json(tmp_path / "config.json", configuration.as_dict(tiny_config(many)))
    assert of_run(tmp_path).stored is None
    (tmp_path / "checkpoints" / f"{PREFIX}_3").mkdir(parents=True)
    found = of_run(tmp_path)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(Skipped, match="holds no intact checkpoint"),
    ):
        found.preprocessing  # noqa: B018
    with pytest.warns(UserWarning, match="is damaged"):
        assert len(found.task.train) > 0  # the data can be judged anyway


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        of_run(tmp_path)
    (tmp_path / "events.jsonl").touch()
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        of_run(tmp_path)
