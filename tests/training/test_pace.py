"""Epochs that fill the minutes of a run: by hand, and in a tiny run that is stopped and resumed."""

from types import SimpleNamespace

import pytest

from jax_seg.diagnosis import sampling
from jax_seg.diagnosis.evidence import of_run
from jax_seg.diagnosis.schedules import planned_updates
from jax_seg.runs import checkpoints
from jax_seg.runs.events import read_events
from jax_seg.training import pace
from jax_seg.training import run as training
from jax_seg.training.progress import Progress
from jax_seg.training.settings import read_settings
from tests.conftest import tiny_config


def run_of(root, **train):
    config = tiny_config(root)
    config.data.update(patch=(16, 16, 16), batch=2)
    config.train.update(epoch_length="minutes", accumulate=3, **train)
    config.validate.volumes_every = 4
    return SimpleNamespace(settings=read_settings(config), data=None)


def test_what_is_left_is_shared_by_the_epochs_that_are_left(volumes_folder):
    run = run_of(volumes_folder, epochs=6, minutes=10.0)
    progress = Progress(epoch=1, seconds=100.0)
    progress.pace = {"sample": 0.5, "patches": 4.0, "wholes": 20.0}
    state = SimpleNamespace(averages={})
    # Epochs 2 to 5: four judgements of 4 s; whole volumes after epochs 3 and 5 and at the end, 20 s
    # each. 588 - 100 - 16 - 60 = 412 s for four epochs of updates of 6 samples, 3 s each.
    assert pace.updates_of_next(run, state, progress) == 34


def test_an_epoch_has_an_update_even_when_the_time_is_over(volumes_folder):
    run = run_of(volumes_folder, epochs=6, minutes=1.0)
    progress = Progress(epoch=1, seconds=100.0)
    progress.pace = {"sample": 0.5, "patches": 4.0, "wholes": 20.0}
    assert pace.updates_of_next(run, SimpleNamespace(averages={}), progress) == 1


def test_an_epoch_that_measured_no_update_is_followed_by_a_short_one(volumes_folder):
    """It was stopped when two of its updates were left."""
    run = run_of(volumes_folder, epochs=6, minutes=10.0)
    progress = Progress(epoch=0, seconds=10.0, pace={"patches": 4.0})
    assert pace.updates_of_next(run, SimpleNamespace(averages={}), progress) == pace.FIRST


def test_the_first_update_does_not_count(monkeypatch):
    times = iter([100.0, 102.0, 106.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(times))
    clock = pace.Updates()
    assert clock.seconds() is None
    clock.after(1)
    assert clock.seconds() is None
    clock.after(2)
    clock.after(4)
    assert clock.seconds() == 2.0


def test_whole_volumes_are_measured_without_what_the_first_compiles(monkeypatch):
    times = iter([0.0, 30.0, 40.0, 43.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(times))
    data = SimpleNamespace(segment=lambda *_: iter("abcde"), validation_ids=list("abcde"))
    devices = SimpleNamespace(here=lambda variables: variables)
    run = SimpleNamespace(
        data=data, programs=SimpleNamespace(network=None), settings=SimpleNamespace(devices=devices)
    )
    assert pace.seconds_of_wholes(run, {}) == 15.0


def test_a_run_fills_its_minutes_and_keeps_its_lengths_when_resumed(
    volumes_folder, tmp_path, monkeypatch
):
    lengths = iter([5, 4, 3])
    monkeypatch.setattr(pace, "updates_of_next", lambda run, state, progress: next(lengths))
    monkeypatch.setattr(pace, "in_words", lambda run, progress: "Pace: fine")
    config = tiny_config(volumes_folder)
    config.train.update(epochs=4, minutes=60.0, epoch_length="minutes")
    whole = training.run(config, tmp_path / "whole")
    steps = [e["step"] for e in read_events(tmp_path / "whole") if e["kind"] == "train"]
    assert steps == [pace.FIRST, pace.FIRST + 5, pace.FIRST + 9, pace.FIRST + 12]

    lengths = iter([5, 4, 3])
    judged = training.judge

    def stop_in_the_third(run, stage, state, progress, trained):
        if progress.epoch == 2:
            raise KeyboardInterrupt
        return judged(run, stage, state, progress, trained)

    monkeypatch.setattr(training, "judge", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        training.run(config, tmp_path / "resumed")
    monkeypatch.setattr(training, "judge", judged)
    lengths = iter([3])  # the third epoch's was decided before the kill
    assert training.run(config, tmp_path / "resumed") == whole
    stored = checkpoints.open_for_reading(tmp_path / "resumed")
    assert stored.found()[stored.resolve("latest")].loop["loop"]["updates"] == 3


def test_an_epoch_of_a_number_of_updates(volumes_folder, tmp_path):
    config = tiny_config(volumes_folder)
    config.train.epoch_length = "5"
    training.run(config, tmp_path)
    assert [e["step"] for e in read_events(tmp_path) if e["kind"] == "train"] == [5, 10]
    evidence = of_run(tmp_path, quick=True)
    assert planned_updates(evidence.settings, 1000) == [5, 5]
    samples = 2 * 5 * config.data.batch
    assert sampling._patches_per_volume(evidence) == samples // len(evidence.task.train_ids)


def test_the_pace_is_measured_in_the_first_epoch(volumes_folder, tmp_path):
    config = tiny_config(volumes_folder)
    config.train.update(epochs=2, minutes=1e-6, epoch_length="minutes")
    config.validate.volumes_every = 0
    training.run(config, tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert "s per sample" in log and "2 epochs of about 1 updates fill 1e-06 minutes" in log
    assert log.count("Pace:") == 1 and "Epoch 0 is the last" in log


@pytest.mark.parametrize(
    "train, sentence",
    [
        ({"epoch_length": "minutes"}, "train.minutes is 0.0"),
        ({"epoch_length": "hours", "minutes": 1.0}, "choose one of data, minutes, or a number"),
        ({"epoch_length": "0"}, "choose one of data, minutes, or a number"),
        (
            {"epoch_length": "minutes", "minutes": 1.0, "epochs": 1},
            "of train.epochs=1 the run has 1",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(volumes_folder, train, sentence):
    config = tiny_config(volumes_folder)
    config.train.update(**train)
    with pytest.raises(ValueError, match=sentence):
        read_settings(config)
