"""The command `doctor`, and the doctor that attends a run."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tifffile

from configs import cod10k
from jax_seg import doctor
from jax_seg.diagnosis import attending, examine, watch
from jax_seg.diagnosis.evidence import Evidence, of_run
from jax_seg.diagnosis.finding import Check, Finding
from jax_seg.report.page import write_page
from jax_seg.runs.events import read_events
from jax_seg.system import configuration
from jax_seg.system.files import write_json
from jax_seg.training import run as training
from tests.conftest import ROOT, tiny_config, write_volumes

ERROR = Finding(
    "loss.floor", "error", "A perfect <prediction> pays 0.4.", {"floor": 0.4}, "loss.weights.x",
    "Set it to 0.", {"kind": "gradients", "terms": ["a", "b"], "start": [1.0, 2.0]},
)  # fmt: skip
WARNING = Finding("data.shift", "warning", "v1 is bright.", {"v1": 2.0}, "v1.tif", "Look at it.")
NOTE = Finding("optimizer.clipped", "note", "All are clipped.", {"share": 1.0}, "x", "Do nothing.")


def finding(one):
    return (Check((one.name,), lambda _: [one], quick=True),)


@pytest.fixture
def found(monkeypatch):
    """Sets what the checks find."""

    def find(*findings):
        checks = tuple(check for one in findings for check in finding(one))
        monkeypatch.setattr(examine, "CHECKS", checks)
        monkeypatch.setattr(watch, "CHECKS", ())

    find()
    return find


def run_demo(folder, *arguments):
    return doctor.main(
        [
            f"--config={ROOT / 'configs' / 'demo.py'}",
            f"--config.data.root={folder}",
            "--config.data.patch=(16, 16, 16)",
            "--config.data.folds=3",
            *arguments,
        ]
    )


def test_findings_of_a_configuration(volumes_folder, found, tmp_path, capsys):
    found(WARNING, ERROR)
    file = tmp_path / "findings.json"
    assert run_demo(volumes_folder, "--json", str(file)) == 1
    text = capsys.readouterr().out
    assert text.index("ERROR loss.floor (loss.weights.x)") < text.index("WARNING data.shift")
    assert "  → Set it to 0." in text
    assert text.endswith("Found, in order: loss.floor, data.shift.\n")
    content = json.loads(file.read_text())
    assert [one["name"] for one in content["findings"]] == ["loss.floor", "data.shift"]
    assert content["findings"][0]["evidence"] == {"floor": 0.4}
    assert content["checked"] == ["data.shift", "loss.floor"] and content["skipped"] == {}
    assert content["seconds"] >= 0


def test_exit_statuses(volumes_folder, found, tmp_path, capsys):
    found()
    assert run_demo(volumes_folder) == 0
    assert capsys.readouterr().out.endswith("Found nothing.\n")
    found(WARNING)
    assert run_demo(volumes_folder, "--quick") == 0
    assert run_demo(tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"Error: {tmp_path}")
    assert run_demo(volumes_folder, "--config.data.pach=1") == 2
    assert "no such field; did you mean 'data.patch'?" in capsys.readouterr().err
    assert doctor.main(["--workdir", str(tmp_path / "none")]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert doctor.main(["--workdir", str(tmp_path), "--config.seed=1"]) == 2
    assert "--config.seed=1 needs --config" in capsys.readouterr().err


def test_a_file_that_it_did_not_write_stays(volumes_folder, found, tmp_path, capsys):
    file = tmp_path / "findings.json"
    file.write_text("mine")
    assert run_demo(volumes_folder, "--json", str(file)) == 2
    assert "was not written by jax_seg.doctor" in capsys.readouterr().err
    assert file.read_text() == "mine"


@pytest.fixture(scope="module")
def config(volumes_folder):
    return tiny_config(volumes_folder)


def test_the_doctor_attends_a_run(config, found, monkeypatch, tmp_path, capsys):
    found(ERROR, NOTE)

    def grows(epochs, settings):
        assert settings.batch == config.data.batch
        return [WARNING] if len(epochs) > 1 else []

    monkeypatch.setattr(watch, "CHECKS", (grows,))
    config.train.epochs = 3
    training.run(config, tmp_path, doctor=attending.Doctor())
    log = (tmp_path / "log.txt").read_text()
    assert log.count("Error: loss.floor - A perfect <prediction> pays 0.4. Set it to 0.") == 1
    assert "optimizer.clipped" not in log
    assert log.index("Error: loss.floor") < log.index("Epoch 0 Train")
    assert log.count("Warning: data.shift") == 1
    (event,) = [e for e in read_events(tmp_path) if e["kind"] == "finding"]
    assert event["epoch"] == 1 and event["name"] == "data.shift"
    assert event["evidence"] == {"v1": 2.0}

    # A second start neither examines nor repeats.
    training.run(config, tmp_path, doctor=attending.Doctor())
    assert (tmp_path / "log.txt").read_text().count("Error: loss.floor") == 1

    write_page([tmp_path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.index("<h2>Diagnosis</h2>") < page.index("<h2>Learning</h2>")
    assert "A perfect &lt;prediction&gt; pays 0.4." in page and "v1 is bright." in page
    assert '"categories":["a","b"]' in page

    found()
    assert doctor.main(["--workdir", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "doctor.json").read_text())["findings"] == []


def test_a_check_that_fails_does_not_stop_a_run(config, found, monkeypatch, tmp_path):
    found(WARNING)
    fails = Check(("loss.floor",), lambda _: {}["share"], quick=True)
    monkeypatch.setattr(examine, "CHECKS", (fails, *examine.CHECKS))
    config.train.epochs = 1
    training.run(config, tmp_path, doctor=attending.Doctor(strict=True))
    log = (tmp_path / "log.txt").read_text()
    why = "the check failed (KeyError: 'share')"
    assert f"Warning: loss.floor is not ruled out, since {why}." in log
    assert "Warning: data.shift" in log and "Traceback" not in log
    assert json.loads((tmp_path / "doctor.json").read_text())["skipped"] == {"loss.floor": why}


def test_strict_stops_at_an_error(config, found, tmp_path):
    found(WARNING)
    strict = attending.Doctor(strict=True)
    config.train.epochs = 1
    training.run(config, tmp_path / "warned", doctor=strict)
    found(ERROR)
    with pytest.raises(ValueError, match=r"^loss\.floor: .* pass --doctor=on"):
        training.run(config, tmp_path / "stopped", doctor=strict)
    assert not [e for e in read_events(tmp_path / "stopped") if e["kind"] == "train"]


def trained(config, workdir):
    config = config.copy_and_resolve_references()
    config.train.epochs = 1
    training.run(config, workdir)
    return workdir


def examined(evidence):
    """The report of the real checks that take no training."""
    slow = ("optimizer.rate_too_low", "model.cannot_overfit")
    return examine.examine(
        evidence, [check for check in examine.CHECKS if check.causes[0] not in slow]
    )


def test_a_run_that_left_nothing_but_its_configuration(config, tmp_path):
    write_json(tmp_path / "config.json", configuration.as_dict(config))
    report = examined(of_run(tmp_path))
    assert "labels.unlabeled_as_foreground" in {*report.checked, *report.skipped}
    assert "no checkpoint can be read" in report.skipped["model.dead"]
    assert "no epoch" in report.skipped["training.overfits"]


def test_a_run_of_an_older_version(config, tmp_path):
    write_json(tmp_path / "config.json", configuration.as_dict(config))
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    report = examined(of_run(tmp_path))
    assert "was written by an older version" in report.skipped["model.dead"]


def test_weights_that_are_not_finite(config, tmp_path):
    evidence = of_run(trained(config, tmp_path))
    nan = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), evidence.best.variables)
    vars(evidence)["best"] = evidence.best._replace(variables=nan)
    vars(evidence)["latest"] = evidence.best
    report = examined(evidence)
    assert "model.dead" in {*report.checked, *report.skipped}
    json.dumps(report.as_json(), allow_nan=False)


def test_labels_of_one_kind_are_refused(tmp_path, capsys):
    root = write_volumes(tmp_path / "data")
    for path in (root / "train_labels").iterdir():
        tifffile.imwrite(path, np.zeros((20, 20, 20), np.uint8))
    assert run_demo(root) == 2
    assert "has a voxel of data.foreground" in capsys.readouterr().err


def test_a_single_volume_that_nothing_is_held_out_of(tmp_path):
    config = tiny_config(write_volumes(tmp_path / "data", count=1))
    config.data.fold = "none"
    report = examined(Evidence(config))
    assert not report.errors
    assert report.skipped["labels.inconsistent"]


def begun(fields, workdir, said):
    """What the doctor looks at of a run that begins; what it warns of is added to `said`."""
    return SimpleNamespace(
        settings=SimpleNamespace(devices=SimpleNamespace(processes=2)),
        data=None,
        to_store={"config": configuration.as_dict(fields)},
        workdir=workdir,
        journal=SimpleNamespace(warn=said.append),
    )


def test_a_run_on_images_is_attended(monkeypatch, tmp_path):
    monkeypatch.setattr(
        attending, "examine", lambda _: examine.Report([WARNING, NOTE], [], {}, {}, 0.1, {})
    )
    said = []
    attending.Doctor().before(begun(cod10k.get_config(), tmp_path, said))
    assert [sentence.partition(" - ")[0] for sentence in said] == ["Warning: data.shift"]


def test_classes_that_cannot_be_examined_one_by_one_are_trained(monkeypatch, tmp_path):
    """To the checks, a volume without the first class may have no labelled voxel at all."""
    fields, said = tiny_config(tmp_path), []
    fields.data.update(classes=("sheet=1", "ink=3"), ignore=(2,))

    def fails(evidence):
        assert evidence.config.data.cache == str(tmp_path / "cache")  # nothing is decoded twice
        raise ValueError("v3.tif has no labelled voxel.")

    monkeypatch.setattr(attending, "examine", fails)
    attending.Doctor().before(begun(fields, tmp_path, said))
    (sentence,) = said
    assert sentence == (
        "Warning: The run starts unexamined: of several classes the doctor looks at sheet alone, "
        "and then finds that v3.tif has no labelled voxel."
    )
    assert not (tmp_path / "doctor.json").exists()
