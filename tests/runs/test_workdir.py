"""Which folder may be the workdir of a run: files of others stay, and so do the data."""

import pytest

from jax_seg import convert
from jax_seg.runs import from_weights
from jax_seg.runs.workdir import require_workdir
from jax_seg.system.files import write_json
from jax_seg.system.outputs import marked
from jax_seg.training import cross_validation
from jax_seg.training import run as training
from tests.conftest import GOLDEN, tiny_config
from tests.workdirs import write_run

NOTES = '{"notes": "mine"}'


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "scores.json", "events.jsonl", "log.txt", "doctor.json"),
        *("plots/worst.png", "validation/scores.json", "checkpoints/a.pth"),
    ],
)
def test_files_of_others_stay(volumes_folder, tmp_path, name):
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text(NOTES)
    (tmp_path / "mine" / "notes.md").touch()  # what a run does not write is nothing to it
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match=rf"{name.partition('/')[0]}.* choose another --work"):
        training.run(tiny_config(volumes_folder), tmp_path / "mine")
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["config.json", "scores.json"])
def test_a_run_with_files_of_others_is_not_resumed(volumes_folder, tmp_path, name):
    workdir = write_run(tmp_path / "run", volumes_folder)
    (workdir / name).write_text(NOTES)
    with pytest.raises(FileExistsError, match=f"{name} was not written by a run"):
        require_workdir(workdir, tiny_config(volumes_folder))
    assert (workdir / name).read_text() == NOTES


def test_a_summary_of_others_stays(volumes_folder, tmp_path):
    (tmp_path / "summary.json").write_text(NOTES)
    with pytest.raises(FileExistsError, match=r"summary\.json is not the summary of a cross-valid"):
        cross_validation.run(tiny_config(volumes_folder), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_what_may_be_a_workdir(volumes_folder, tmp_path):
    config, workdir = tiny_config(volumes_folder), tmp_path / "run"
    require_workdir(workdir, config)
    assert not workdir.exists()
    workdir.mkdir()
    require_workdir(workdir, config)
    # What a start that was killed, and jax_seg.doctor, leave behind.
    for name in ("checkpoints", "cache/volumes", "data/.synthetic-8x32-seed0.partial-99999999"):
        (workdir / name).mkdir(parents=True)
    (workdir / ".config.99999999@there.json").touch()
    write_json(workdir / "doctor.json", marked({"findings": []}, "doctor"))
    require_workdir(workdir, config)
    write_run(workdir, volumes_folder)
    write_json(workdir / "scores.json", {"raw": {"step": 1, "dice": 0.5}})
    (workdir / "log.txt").touch()
    require_workdir(workdir, config)
    for damaged in ("", "{", "\0\0"):
        (workdir / "config.json").write_text(damaged)
        (workdir / "scores.json").write_text(damaged)
        require_workdir(workdir, config)


@pytest.mark.parametrize("run", [training.run, cross_validation.run])
def test_a_workdir_among_the_data_is_refused(volumes_folder, tmp_path, run):
    config, before = tiny_config(volumes_folder), files(volumes_folder)
    for workdir in (volumes_folder / "train_images", volumes_folder / "train_labels" / "run"):
        with pytest.raises(ValueError, match=r"--workdir .* lies in .*, which holds inputs"):
            run(config, workdir)
    config.data.cache = str(volumes_folder / "train_images" / "cache")
    with pytest.raises(ValueError, match=r"data\.cache .* lies in .*train_images, which holds"):
        run(config, tmp_path / "run")
    assert files(volumes_folder) == before and not list(tmp_path.iterdir())
    assert {path.name for path in volumes_folder.iterdir() if path.is_dir()} == {
        "train_images",
        "train_labels",
    }


def test_what_a_killed_conversion_left_is_removed(tmp_path, monkeypatch, capsys):
    def killed(*_):
        raise OSError("killed")

    monkeypatch.setattr(from_weights.checkpoints, "save_params", killed)
    monkeypatch.setattr(from_weights.shutil, "rmtree", lambda *_, **__: None)
    source = str(GOLDEN / "unet_f4_d2.pth")
    command = [source, str(tmp_path / "run"), "--patch", "16", "16", "16"]
    assert convert.main(command) == 1
    assert len(list(tmp_path.iterdir())) == 1  # as the kill left it
    monkeypatch.undo()
    (tmp_path / ".run.99999999").mkdir()  # a folder of the user's
    assert convert.main(command) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"run", ".run.99999999"}
