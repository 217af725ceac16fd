"""What a second start of a run may do, and what it refuses."""

import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import base
from jax_seg import compare
from jax_seg.data import folds
from jax_seg.data.folder import find_volumes
from jax_seg.runs import checkpoints
from jax_seg.runs.events import read_events
from jax_seg.system import configuration
from jax_seg.system.files import locked
from jax_seg.training import plateau, resuming, settings, validate
from jax_seg.training import run as training
from jax_seg.training.state import TrainState
from tests.conftest import tiny_config, write_volumes


def test_a_run_that_its_minutes_ended_goes_on_with_more(volumes_folder, tmp_path):
    config = tiny_config(volumes_folder)
    config.train.update(epochs=3, minutes=1e-9)
    training.run(config, tmp_path)
    config.train.minutes = 0.0
    training.run(config, tmp_path)
    events = read_events(tmp_path)
    assert [e["epoch"] for e in events if e["kind"] == "train"] == [0, 1, 2]


def test_another_process_is_kept_out(volumes_folder, tmp_path):
    unfinished = tmp_path / "checkpoints" / "save_8.orbax-checkpoint-tmp"
    unfinished.mkdir(parents=True)
    with (
        locked(tmp_path),
        pytest.raises(ValueError, match="is in use by another process"),
    ):
        training.run(tiny_config(volumes_folder), tmp_path)
    assert unfinished.exists()  # the other's save under way
    with locked(tmp_path):  # it has let go
        pass


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A finished run whose folder holds a volume more by now, and its configuration."""
    folder = tmp_path_factory.mktemp("grown")
    config = tiny_config(write_volumes(folder / "data"))
    config.train.epochs = 1
    training.run(config, folder / "run")
    shutil.copytree(folder / "data", folder / "before")
    data = folder / "data"
    for part in ("train_images", "train_labels"):
        shutil.copy(data / part / "v0.tif", data / part / "v9.tif")
    with (data / "train.csv").open("a") as rows:
        rows.write("v9,s9\n")
    return folder / "run", config


def test_other_data_are_refused(grown):
    workdir, config = grown
    config.train.epochs = 2
    with pytest.raises(ValueError, match=r"run on other data: v\d was.* choose another --workdir"):
        training.run(config, workdir)
    config.data.root = str(workdir.parent / "before")  # the same volumes in another place
    training.run(config, workdir)
    config.data.root = str(workdir.parent / "data")


def test_what_was_held_out_stays_so(grown):
    workdir, config = grown
    noted = checkpoints.read_variables(workdir, "latest")[1]["split"]["validation"]
    volumes = find_volumes(config.data.root)
    ids, scrolls = [v.id for v in volumes], [v.scroll_id for v in volumes]
    assert folds.split(ids, scrolls, fold=0, folds=3)[1] != noted, "the folder's growth matters"
    assert sorted(compare.scores_of(f"{workdir}@latest", "dice")[0]) == sorted(noted)


def test_a_field_that_is_new_stands_for_its_default():
    config = base.get_config()
    stored = configuration.as_dict(config)
    del stored["model"]["foreground_prior"]
    assert configuration.differences(config, stored, defaults=base.get_config()) == []
    assert configuration.differences(config, stored) != []
    config.model.foreground_prior = 0.1
    assert configuration.differences(config, stored, defaults=base.get_config()) == [
        "model.foreground_prior: 0.5 → 0.1"
    ]


def test_a_run_from_before_there_was_a_field_is_examined_and_keeps_its_spacing(tmp_path):
    config = tiny_config(tmp_path)
    with config.unlocked():
        for name in settings.LATER:
            del config.data[name]
    task = settings.read_settings(config).task
    assert not {*settings.LATER} & {*task["data"]}
    stored = {"spacing": [2.0, 1.0, 1.0], "config": {"data": {}}}
    kept = resuming.at_stored_spacing(task, stored)["data"]
    assert kept == task["data"] | {"target_spacing": (2.0, 1.0, 1.0)}
    assert resuming.is_before_target(stored)
    stored["config"]["data"]["target_spacing"] = []
    for later in (stored, None, {"config": {"data": {}}}):
        assert resuming.at_stored_spacing(task, later) is task


def test_a_rollback_takes_the_average_back_with_its_count(volumes_folder, tmp_path, monkeypatch):
    """Epoch 0 is the best, the average begins after it, and a rollback follows epoch 2."""

    def decide(controller, *args, options):
        epoch = args[3]
        kinds = {0: ["new_best"], 2: ["rollback"]}.get(epoch, [])
        return controller, [{"kind": kind, "epoch": epoch} for kind in kinds]

    monkeypatch.setattr(plateau, "step", decide)
    config = tiny_config(volumes_folder)
    config.train.epochs = 4
    config.average.update(swa_start=1, swa_every=1, swa_learning_rate=0.05)
    training.run(config, tmp_path)
    raw, beside, _ = checkpoints.read_variables(tmp_path, "latest")
    average, _, _ = checkpoints.read_variables(tmp_path, "latest", "swa")
    assert beside["loop"]["averaged"] == 1
    jax.tree.map(np.testing.assert_array_equal, average, raw)


def arrays(step):
    return TrainState(
        **{field: {"a": np.ones(2)} for field in TrainState._fields if field != "step"},
        step=np.int32(step),
    )


def test_a_save_within_an_epoch_replaces_no_whole_epoch(tmp_path):
    manager = checkpoints.open_checkpoints(tmp_path, metric="loss")
    for step, metrics in ((1, {"loss": 1.0}), (2, {"loss": 2.0}), (3, {"loss": 3.0}), (4, None)):
        checkpoints.save(manager, arrays(step), {}, metrics)
    checkpoints.wait(manager)
    assert list(manager.found()) == [1, 3, 4]  # the best, the whole epoch, the latest
    checkpoints.save(manager, arrays(4), {}, {"loss": 4.0})
    checkpoints.save(manager, arrays(5), {}, {"loss": 5.0})
    checkpoints.wait(manager)
    assert list(manager.found()) == [1, 5]
    manager.close()


def test_a_validation_loss_that_is_not_finite_has_no_error(monkeypatch):
    """The plateau control decides what follows; the bootstrap of such losses would end the run."""
    patches = [({"image": np.zeros(1)}, [0]), ({"image": np.zeros(1)}, [1])]
    monkeypatch.setattr(validate.pipeline, "batches", lambda *_, **__: patches)
    monkeypatch.setattr(validate.pipeline, "on_device", lambda reader, devices: reader)
    losses = iter([np.array([1.0]), np.array([np.nan])])
    metrics = validate.validate_patches(
        lambda *_: {"loss": next(losses)}, {}, [0, 1], weights={}, batch=1, threads=0
    )
    assert np.isnan(metrics["loss"]) and metrics["standard_error"] == 0.0


def test_without_git_the_version_is_the_packages(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "+" not in checkpoints.code_version()


def test_an_installed_package_takes_no_commit_of_the_repository_around_it(tmp_path, monkeypatch):
    site_packages = tmp_path / "project" / "packages"
    (tmp_path / "project" / ".git").mkdir(parents=True)
    monkeypatch.setattr(checkpoints, "__file__", f"{site_packages}/jax_seg/runs/checkpoints.py")
    git = SimpleNamespace(returncode=0, stdout="of-another-project")
    monkeypatch.setattr(checkpoints.subprocess, "run", lambda *_, **__: git)
    assert "+" not in checkpoints.code_version()
    (site_packages / ".git").mkdir(parents=True)
    assert checkpoints.code_version().endswith("+of-another-project")


def test_the_clock_counts_the_time_of_an_epoch_under_way(volumes_folder, tmp_path, monkeypatch):
    """A run that is killed within an epoch has used the time up to its last save."""
    seconds, save = [], checkpoints.save

    def noted(manager, state, loop, metrics=None):
        seconds.append(loop["loop"]["seconds"])
        save(manager, state, loop, metrics)

    monkeypatch.setattr(checkpoints, "save", noted)
    config = tiny_config(volumes_folder)
    config.train.epochs = 1
    config.checkpoint.minutes = 1e-9
    training.run(config, tmp_path)
    assert len(seconds) > 2 and seconds[0] > 0 and seconds == sorted(set(seconds))


def test_nothing_to_keep_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint\.keep is 0; keep 1 or more"):
        checkpoints.open_checkpoints(tmp_path, metric="loss", keep=0)


def test_more_epochs_change_the_rates_of_some_schedules_and_it_is_said():
    config = base.get_config()
    stored = configuration.as_dict(config)
    config.train.epochs = 7
    for name, told in (("cosine", True), ("polynomial", True), ("constant", False)):
        config.schedule.name = name
        assert (
            f"train.epochs was {base.get_config().train.epochs} and is 7"
            in resuming.prolonged(stored, configuration.as_dict(config))
        ) == told
    config.train.epochs, config.schedule.name = base.get_config().train.epochs, "cosine"
    assert resuming.prolonged(stored, configuration.as_dict(config)) == ""
