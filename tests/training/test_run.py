"""The main story on a tiny network: train, resume, predict, score, and start from weights."""

import json
import re

import jax
import numpy as np
import pytest
import tifffile

from configs import base
from jax_seg import checkpoint, convert, predict
from jax_seg.report.page import make_page
from jax_seg.runs import checkpoints, held_out, members
from jax_seg.runs import run as opened
from jax_seg.runs.events import read_events
from jax_seg.training import run as training
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def trained(volumes_folder, tmp_path_factory):
    """(workdir, scores, terminal output) of a run that learns the bright planes."""
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    config = tiny_config(volumes_folder)
    config.optimizer.update(name="adamw")
    config.schedule.learning_rate = 0.03
    config.train.epochs = 6
    config.data.patches_per_volume = 16
    config.loss.weights.update(cross_entropy=0.5, focal=0.0)
    return workdir, training.run(config, workdir), config


def test_it_learns_and_says_so(trained):
    workdir, scores, _ = trained
    assert scores["dice"] > 0.75
    written = json.loads((workdir / "scores.json").read_text())["raw"]
    assert written["dice"] == scores["dice"]
    assert written["volumes"] == "held out" and written["chose"] == ["checkpoint"]
    log = (workdir / "log.txt").read_text()
    # The form that people grep for.
    lines = re.findall(r"Epoch (\d+) Val - Loss: (\d+\.\d{4}) \((?:\w+: \d\.\d+(?:, |\)))+", log)
    assert [int(epoch) for epoch, _ in lines] == list(range(6))
    assert float(lines[-1][1]) < float(lines[0][1])
    for figure in ("learning rate", "gradient norm", "patches/s", "memory"):
        assert figure in log
    assert "training volumes" not in log


def test_events_hold_every_figure(trained):
    events = read_events(trained[0])
    by_kind = {kind: [e for e in events if e["kind"] == kind] for kind in ("train", "validation")}
    assert all(len(found) == 6 for found in by_kind.values())
    assert {"loss", "dice", "cross_entropy", "gradient_norm", "learning_rate"} <= by_kind["train"][
        0
    ].keys()
    assert next(e for e in events if e["kind"] == "decision")["decision"]["kind"] == "new_best"
    assert list(trained[0].glob("tensorboard/events*"))


def test_the_scores_of_a_volume_say_how_much_is_labelled(trained, volumes_folder):
    stored = json.loads((trained[0] / "validation" / "scores.json").read_text())["volumes"]
    for name, scores in stored.items():
        label = tifffile.imread(volumes_folder / "train_labels" / f"{name}.tif")
        assert scores["labelled"] == np.count_nonzero(label != 2)


def test_pictures_are_there(trained):
    names = {path.name for path in (trained[0] / "plots").iterdir()}
    assert "learning_curve.png" in names and len(names) == 2


def test_predict_evaluate_and_the_second_run(trained, volumes_folder, tmp_path, capsys):
    workdir = trained[0]
    held_out = [
        str(volumes_folder / "train_images" / f"{i}.tif")
        for i in ("v4", "v5")
        if f"{i}:" in (workdir / "log.txt").read_text()
    ] or [str(p) for p in sorted((volumes_folder / "train_images").iterdir())]
    command = ["--workdir", str(workdir), "--input", *held_out, "--output", str(tmp_path)]
    submission = tmp_path / "submission.zip"
    assert predict.main([*command, "--probabilities", "--submission", str(submission)]) == 0
    for path in held_out:
        name = path.rsplit("/", 1)[1]
        prediction = tifffile.imread(tmp_path / name)
        assert prediction.shape == (20, 20, 20) and prediction.dtype == np.uint8
        assert set(np.unique(prediction)) == {0, 1}
        probability = tifffile.imread(tmp_path / "probabilities" / name)
        np.testing.assert_array_equal(probability > 0.5, prediction == 1)
        facts = json.loads((tmp_path / name.replace(".tif", ".json")).read_text())
        assert facts["foreground_share"] == prediction.mean()
        assert facts["threshold"] == 0.5 and facts["step"] == checkpoints.read_variables(workdir)[2]
    assert submission.stat().st_size > 0
    capsys.readouterr()

    written = (tmp_path / name).stat().st_mtime_ns
    assert predict.main(command) == 0
    assert "are already finished" in capsys.readouterr().out
    assert predict.main([*command, "--threshold", "0.9"]) == 1
    assert "a different threshold" in capsys.readouterr().err
    assert (tmp_path / name).stat().st_mtime_ns == written
    assert predict.main([*command, "--threshold", "0.9", "--overwrite"]) == 0
    assert (tmp_path / name).stat().st_mtime_ns > written


def test_a_bad_file_is_reported_and_the_others_are_written(
    trained, volumes_folder, tmp_path, capsys
):
    images = tmp_path / "images"
    images.mkdir()
    good = (volumes_folder / "train_images" / "v0.tif").read_bytes()
    (images / "a.tif").write_bytes(good[: len(good) // 2])
    (images / "b.tif").write_bytes(good)
    tifffile.imwrite(images / "c.tif", np.zeros((5, 5), np.uint8))
    out = tmp_path / "out"
    status = predict.main(
        ["--workdir", str(trained[0]), "--input", str(images), "--output", str(out)]
    )
    errors = capsys.readouterr().err
    assert status == 1 and "a.tif" in errors and "c.tif" in errors and "2 of 3" in errors
    assert sorted(path.name for path in out.iterdir()) == ["b.json", "b.tif"]


def test_restarting_a_finished_run_repeats_its_scores(trained):
    workdir, scores, config = trained
    assert training.run(config, workdir) == scores


def test_checkpoints_are_listed(trained, capsys):
    assert checkpoint.main([str(trained[0])]) == 0
    output = capsys.readouterr().out
    assert "← best" in output and "epoch 6" in output


@pytest.mark.parametrize("name", ["7", "first"])
def test_no_such_checkpoint(trained, name):
    with pytest.raises(FileNotFoundError, match="choose best, latest or one of"):
        checkpoints.read_variables(trained[0], name)


def test_no_such_average(trained):
    with pytest.raises(ValueError, match=r"--config\.average\.swa_every=5"):
        checkpoints.read_variables(trained[0], weights="swa")


def test_a_workdir_of_another_configuration_is_refused(trained, volumes_folder):
    config = tiny_config(volumes_folder)
    with pytest.raises(ValueError, match=r"schedule\.learning_rate: 0\.03 → 0\.05"):
        training.run(config, trained[0])


def test_converted_network_predicts(volumes_folder, tmp_path, capsys):
    source = "tests/golden/unet_f4_d2.pth"
    workdir, out = tmp_path / "converted", tmp_path / "out"
    assert convert.main([source, str(workdir), "--patch", "16", "16", "16"]) == 0
    image = str(volumes_folder / "train_images" / "v0.tif")
    assert predict.main(["--workdir", str(workdir), "--input", image, "--output", str(out)]) == 0
    assert tifffile.imread(out / "v0.tif").shape == (20, 20, 20)
    assert convert.main([source, str(workdir)]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_divergence_stops_before_the_weights_are_touched(volumes_folder, tmp_path):
    config = tiny_config(volumes_folder)
    config.train.epochs = 4
    config.schedule.learning_rate = 1e30
    config.checkpoint.minutes = 1e-9
    message = r"epoch \d+, batch \d+, of v\d.*learning_rate.*@latest"
    with pytest.raises(training.Diverged, match=message):
        training.run(config, tmp_path)
    params, _, _ = checkpoints.read_variables(tmp_path, "latest")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def run_with(root, workdir, change):
    config = tiny_config(root)
    change(config)
    training.run(config, workdir)


def test_the_best_is_chosen_by_volumes_not_by_the_loss_term_of_that_name(volumes_folder, tmp_path):
    """The Dice loss falls while the Dice score rises: by the term, epoch 0 would be the best."""
    config = tiny_config(volumes_folder)
    config.validate.metric = "dice"
    config.optimizer.name = "adamw"
    config.data.patches_per_volume = 8
    config.train.epochs = 3
    training.run(config, tmp_path)
    events = [e for e in read_events(tmp_path) if e["kind"] == "volumes"]
    dice = {event["step"]: event["dice"] for event in events}
    assert max(dice.values()) > events[0]["dice"]
    assert dice[checkpoints.read_variables(tmp_path, "best")[2]] == max(dice.values())


def test_a_run_starts_from_another_runs_weights(trained, volumes_folder, tmp_path):
    config = tiny_config(volumes_folder)
    config.train.epochs = 1
    config.schedule.learning_rate = 0.0
    config.train.start_from = str(trained[0])
    training.run(config, tmp_path / "continued")
    ours, _, _ = checkpoints.read_variables(tmp_path / "continued")
    theirs, _, _ = checkpoints.read_variables(trained[0])
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    kept = checkpoints.read_variables(tmp_path / "continued")[1]
    assert kept["judged_on"]["volumes"] == "held out"  # both held out the same fold
    seen = checkpoints.read_variables(trained[0])[1]["split"]["training"]
    assert [one["training"] for one in kept["before"]] == [seen]

    config.model.filters = 3
    with pytest.raises(
        ValueError,
        match=r"train\.start_from.*a different network: .* has shape \(4,\) there and \(6,\)",
    ):
        training.run(config, tmp_path / "other")


def everything_says_training(workdir):
    """The log, the events and the scores of a run that is judged on its training volumes."""
    scores = json.loads((workdir / "scores.json").read_text())
    assert {entry["volumes"] for entry in scores.values()} == {"training"}
    assert {name: entry["chose"] for name, entry in scores.items()} == {
        "raw": ["checkpoint"],
        "postprocessed": ["checkpoint"],
    }
    one_by_one = json.loads((workdir / "validation" / "scores.json").read_text())
    assert one_by_one["judged_on"] == {"volumes": "training", "chose": ["checkpoint"]}
    judged = [e for e in read_events(workdir) if e["kind"].startswith(("validation", "volumes"))]
    assert len(judged) == 2 and {event["volumes"] for event in judged} == {"training"}
    lines = (workdir / "log.txt").read_text().splitlines()
    told = [line for line in lines if re.search(r"Val\b.*Loss|dice: .*iou: |val_loss", line)]
    assert len(told) >= 6 and all(re.search(r" \| training volumes?$", line) for line in told)


def test_a_run_that_holds_nothing_out_says_so(volumes_folder, tmp_path, capsys):
    def change(config):
        config.train.epochs = 1
        config.data.fold = "none"

    run_with(volumes_folder, tmp_path, change)
    everything_says_training(tmp_path)
    printed = capsys.readouterr().out
    assert "6 training volumes, none held out (data.fold=none)" in printed
    assert "The validation volumes of this run are training volumes: its scores show" in printed
    text = make_page(opened.read_runs([tmp_path]))
    assert "on 6 whole training volumes, which says nothing about other volumes" in text
    assert "Component: dice" in text and "Component: volumes" not in text  # a word, no figure
    assert checkpoint.main([str(tmp_path)]) == 0
    assert "← best | training volumes" in capsys.readouterr().out


def test_weights_that_had_seen_the_held_out_volumes_say_so(trained, volumes_folder, tmp_path):
    """Fold 1 begins with the weights of fold 0, which were trained on what fold 1 holds out."""

    def change(config):
        config.train.epochs = 1
        config.data.fold = "1"
        config.train.start_from = str(trained[0])

    run_with(volumes_folder, tmp_path, change)
    everything_says_training(tmp_path)
    with pytest.raises(ValueError, match="held out volumes that its first weights"):
        held_out.held_out_volumes(members.load(members.parse(str(tmp_path))))


def test_a_run_can_start_with_a_later_stage(trained, volumes_folder, tmp_path):
    config = tiny_config(volumes_folder)
    config.train.update(epochs=3, start_from=str(trained[0]), start_stage="second")
    config.validate.update(metric="dice")
    base.add_stage(config, "first", epochs=(0, 1), loss_weights={"focal": 0.0})
    base.add_stage(config, "second", epochs=(2, 2), batch=1)
    training.run(config, tmp_path)
    (event,) = [e for e in read_events(tmp_path) if e["kind"] == "train"]
    assert (event["epoch"], event["stage"], event["batch"], event["step"]) == (2, "second", 1, 8)

    config.train.start_stage = "third"
    with pytest.raises(ValueError, match="start_stage is 'third'; choose one of first, second"):
        training.run(config, tmp_path / "third")


def test_stages_change_weights_batch_and_rates_without_forgetting(volumes_folder, tmp_path):
    config = tiny_config(volumes_folder)
    config.train.epochs = 2
    config.validate.update(metric="dice")
    base.add_stage(config, "first", epochs=(0, 0), loss_weights={"focal": 0.0}, batch=4)
    base.add_stage(config, "second", epochs=(1, 1), loss_weights={"dice": 0.0}, accumulate=2)
    training.run(config, tmp_path)
    events = read_events(tmp_path)
    first, second = (e for e in events if e["kind"] == "train")
    assert first["loss"] == pytest.approx(0.5 * first["dice"], rel=1e-5)
    assert second["loss"] == pytest.approx(0.3 * second["focal"], rel=1e-5)
    assert (first["step"], second["step"]) == (2, 4)  # 8 patches: by 4, then by 2 · 2
    bests = [e for e in events if e["kind"] == "decision" and e["decision"]["kind"] == "new_best"]
    assert [e["decision"]["previous"] for e in bests] == [None, None]
    assert "ends stage 'first'; 'second' begins" in (tmp_path / "log.txt").read_text()

    config.validate.metric = "loss"
    with pytest.raises(ValueError, match=r"validate\.metric is 'loss', but the stages change"):
        training.run(config, tmp_path / "loss")
