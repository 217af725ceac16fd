"""Checkpoints that are damaged, absent, of an older version or of another network."""

import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jax_seg import checkpoint
from jax_seg.runs import checkpoints
from jax_seg.system.files import write_json
from tests.conftest import ROOT, TIME_LIMIT
from tests.runs.states import ABSTRACT, assert_same_state, position, state_of
from tests.small_disk import disk_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with checkpoints 1, the best, 2, and 3 within an epoch."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    write_json(workdir / "config.json", {"validate": {"metric": "loss"}})
    manager = checkpoints.open_checkpoints(workdir, metric="loss", keep=2)
    for step, metrics in ((1, {"loss": 1.0}), (2, {"loss": 2.0}), (3, None)):
        checkpoints.save(manager, state_of(step, step), position(step), metrics)
    checkpoints.wait(manager)
    manager.close()
    return workdir


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def folder_of(workdir, step):
    return workdir / "checkpoints" / {1: "save_3", 2: "save_5", 3: "save_6"}[step]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def a_byte_zeroed(path):
    content = bytearray(path.read_bytes())
    content[next(n for n in reversed(range(len(content))) if content[n])] = 0
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a byte zeroed": a_byte_zeroed,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "other bytes": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
}
OF_EVERY_FILE = ("empty", "cut", "zeroed", "gone")  # the other kinds, of the largest alone


def damages(whole, tmp_path, kind):
    """(name, a run whose newest checkpoint has that file damaged)."""
    newest = folder_of(whole, 3)
    files = sorted(file.relative_to(newest) for file in newest.rglob("*") if file.is_file())
    assert len(files) >= 12
    if kind not in OF_EVERY_FILE:
        files = [max(files, key=lambda file: (newest / file).stat().st_size)]
    for number, name in enumerate(files):
        if kind == "gone" and name.name == "checksums.json":
            continue  # as where a run was killed before it wrote them: the arrays are whole
        if not (newest / name).stat().st_size and kind != "gone":
            continue  # empty as it is
        run = shutil.copytree(whole, tmp_path / str(number))
        DAMAGE[kind](folder_of(run, 3) / name)
        yield name, run


DAMAGED = r"checkpoints/save_6 is damaged \(.+\); skipping it\.$"


@pytest.mark.parametrize("kind", DAMAGE)
def test_resuming_falls_back_to_the_newest_whole_checkpoint(whole, tmp_path, kind):
    for name, run in damages(whole, tmp_path, kind):
        with pytest.warns(UserWarning, match=DAMAGED) as warned:
            manager = checkpoints.open_checkpoints(run, metric="loss", keep=2)
        assert len(warned) == 1, name
        assert manager.latest_step() == 2, name
        state, beside = checkpoints.restore(manager, ABSTRACT, 2)
        assert_same_state(state, state_of(2, 2))
        assert beside == position(2)
        checkpoints.save(manager, state_of(7, 3), position(7))
        checkpoints.wait(manager)
        state, beside = checkpoints.restore(manager, ABSTRACT, manager.latest_step())
        assert_same_state(state, state_of(7, 3))
        assert beside == position(7)
        assert list(manager.found()) == [1, 2, 3]
        assert names(manager.directory) == ["damaged_save_6", "save_3", "save_5", "save_6"]
        manager.close()


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_reader_skips_a_damaged_checkpoint(whole, tmp_path, kind, capsys):
    for name, run in damages(whole, tmp_path, kind):
        with pytest.warns(UserWarning, match=DAMAGED):
            variables, beside, step = checkpoints.read_variables(run, "latest", "ema")
        assert (step, beside) == (2, position(2)), name
        np.testing.assert_array_equal(
            variables["params"]["output"]["kernel"], state_of(2, 2).params["output"]["kernel"]
        )
        with (
            pytest.warns(UserWarning, match=DAMAGED),
            pytest.raises(FileNotFoundError) as caught,
        ):
            checkpoints.read_variables(run, "3")
        assert "no checkpoint '3' (save_6 is damaged: " in str(caught.value)
        assert str(caught.value).endswith("; choose best, latest or one of 1, 2.")
        with pytest.warns(UserWarning, match=DAMAGED):
            assert checkpoint.main([str(run)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("  ")[0] for line in lines] == ["step 1", "step 2"], name
        assert (
            lines[0]
            == "step 1  epoch 1  loss 1.0000  code test  ← best | possibly training volumes"
        )


def test_without_its_checksums_a_checkpoint_is_taken(run):
    """A run may be killed after Orbax has written it and before they are."""
    (folder_of(run, 3) / "checksums.json").unlink()
    manager = checkpoints.open_checkpoints(run, metric="loss", keep=2)
    assert_same_state(checkpoints.restore(manager, ABSTRACT, 3)[0], state_of(3, 3))
    manager.close()


def test_a_best_that_is_damaged_gives_way_to_the_next(run):
    DAMAGE["empty"](folder_of(run, 1) / "metrics" / "metrics")
    with pytest.warns(UserWarning, match=r"save_3 is damaged"):
        assert checkpoints.read_variables(run)[2] == 2


@pytest.mark.filterwarnings("ignore:.*damaged")
@pytest.mark.parametrize("file", ["state/manifest.ocdbt", "state/_sharding"])
def test_where_all_are_damaged_nothing_starts_anew(run, capsys, file):
    for step in (1, 2, 3):
        DAMAGE["empty"](folder_of(run, step) / file)
    message = (
        r"checkpoints holds no intact checkpoint \(save_3 is damaged: .+\): restore one from a "
        r"copy, or choose another --workdir to train again\.$"
    )
    with pytest.raises(FileNotFoundError, match=message):
        checkpoints.open_checkpoints(run, metric="loss")
    with pytest.raises(FileNotFoundError, match=message):
        checkpoints.read_variables(run)
    assert checkpoint.main([str(run)]) == 1
    assert re.search(message, capsys.readouterr().err.strip())
    assert names(run / "checkpoints") == ["save_3", "save_5", "save_6"]


def test_a_folder_without_a_checkpoint_says_so(run, capsys):
    for step in (1, 2, 3):
        shutil.rmtree(folder_of(run, step))
    manager = checkpoints.open_checkpoints(run, metric="loss")
    assert manager.latest_step() is None
    manager.close()
    assert checkpoint.main([str(run)]) == 1
    assert "holds no checkpoint; train or convert a model first" in capsys.readouterr().err


def test_a_copy_under_way_is_no_checkpoint(run):
    for name in ("save_18.part", "save_18.orbax-checkpoint-tmp", ".save_18", "copy", "save_copy"):
        shutil.copytree(folder_of(run, 3), run / "checkpoints" / name)
    assert list(checkpoints.open_for_reading(run).found()) == [1, 2, 3]


@pytest.mark.parametrize("moment", ["metadata", "restore"])
def test_a_run_that_is_training_may_replace_what_is_read(run, monkeypatch, moment):
    """The latest goes between its choice and its reading."""
    read = getattr(ocp.PyTreeCheckpointer, moment)

    def replaced(self, *arguments, **options):
        shutil.rmtree(folder_of(run, 3), ignore_errors=True)
        return read(self, *arguments, **options)

    monkeypatch.setattr(ocp.PyTreeCheckpointer, moment, replaced)
    assert checkpoints.read_variables(run, "latest")[2] == 2


def test_checkpoints_of_an_older_version_are_refused(run):
    (run / "checkpoints" / "8" / "state").mkdir(parents=True)
    for open_it in (
        lambda: checkpoints.open_for_reading(run),
        lambda: checkpoints.open_checkpoints(run, metric="loss"),
    ):
        with pytest.raises(ValueError, match=r"checkpoints/8 was written by an older version"):
            open_it()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"validate": 3}', '{"validate": {}}'])
def test_a_damaged_configuration_is_named(run, capsys, content):
    (run / "config.json").write_text(content)
    assert checkpoint.main([str(run)]) == 1
    assert re.match(r"Error: .*config\.json ", capsys.readouterr().err)


def test_a_list_that_is_interrupted_ends_in_a_sentence(run, capsys, monkeypatch):
    def interrupt(_workdir):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "open_for_reading", interrupt)
    assert checkpoint.main([str(run)]) == 130
    assert capsys.readouterr().err == "Interrupted: nothing was written.\n"


def test_another_network_is_named(run):
    manager = checkpoints.open_for_reading(run)
    other = ABSTRACT._replace(params={"output": {"kernel": jax.ShapeDtypeStruct((3, 5), jnp.int8)}})
    with pytest.raises(ValueError, match=r"\(3, 5\) is not compatible .* \(3, 4\)"):
        checkpoints.restore(manager, other, 3)
    more = ABSTRACT._replace(batch_stats={"mean": jax.ShapeDtypeStruct((3,), jnp.float32)})
    with pytest.raises(ValueError, match=r"batch_stats.*mean"):
        checkpoints.restore(manager, more, 3)


def test_what_a_run_returns_to_is_asked_before_the_checkpoint_is_written(tmp_path):
    """While it is written the run may choose another best, which is not on the disk yet."""
    best = 1
    manager = checkpoints.open_checkpoints(tmp_path, metric="loss", pinned=lambda: best)
    for step, loss in ((1, 5.0), (2, 4.0)):
        checkpoints.save(manager, state_of(step, step), position(step), {"loss": loss})
        best = step + 1
        checkpoints.wait(manager)
        best = 1
    assert list(manager.found()) == [1, 2]
    manager.close()


def test_what_a_kept_checkpoint_returns_to_is_kept(tmp_path):
    """Both latest checkpoints could be resumed; the older one may return to checkpoint 1."""
    best = 1
    manager = checkpoints.open_checkpoints(tmp_path, metric="dice", keep=2, pinned=lambda: best)
    for step, dice in ((1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)):
        best = 4 if step == 4 else 1
        checkpoints.save(manager, state_of(step, step), position(step), {"dice": dice})
    checkpoints.wait(manager)
    assert list(manager.found()) == [1, 3, 4]
    manager.close()


def test_what_is_saved_does_not_change_with_the_run(tmp_path, monkeypatch):
    """The position is written in the background, while the run goes through the next batches."""
    manager, beside = checkpoints.open_checkpoints(tmp_path, metric="loss"), {"sums": {"loss": 1.0}}
    begin = manager.manager.save

    def changed(*arguments, **options):
        beside["sums"]["loss"] = 2.0
        return begin(*arguments, **options)

    monkeypatch.setattr(manager.manager, "save", changed)
    checkpoints.save(manager, state_of(1, 1), beside)
    checkpoints.wait(manager)
    assert manager.found()[1].loop == {"sums": {"loss": 1.0}}
    manager.close()


UNTOUCHED = "from tests.runs import full_disk\nimport sys\nsys.exit(full_disk.{}(*sys.argv[1:]))"


def terminal_of(function, *arguments):
    """Lines that a process shows, in which a function of `tests.runs.full_disk` runs."""
    ended = subprocess.run(
        [sys.executable, "-c", UNTOUCHED.format(function), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout.splitlines()


def test_a_limit_on_files_is_one_sentence_and_keeps_the_checkpoint_before(run):
    """However far the save comes; where nobody has waited for it, the sentence is a warning."""
    sentence = (
        rf"{run}/checkpoints could not be written \(File too large\): raise the limit on the size "
        r"of files \(ulimit -f\), or choose another file system\."
    )
    lines = terminal_of("with_limits", run)
    assert len(lines) == 12
    for number, line in enumerate(lines):
        assert re.fullmatch(("Error: ", "Warning: ")[number % 2] + sentence, line), line
    checkpoints.open_checkpoints(run, metric="loss", keep=2).close()  # removes what is left
    assert names(run / "checkpoints") == ["save_3", "save_5", "save_6"]
    assert_same_state(
        checkpoints.restore(checkpoints.open_for_reading(run), ABSTRACT, 3)[0], state_of(3, 3)
    )


def test_a_disk_that_is_full_anywhere_in_a_save_loses_nothing(whole, tmp_path):
    with disk_of(tmp_path / "disk", 768):
        run = shutil.copytree(whole, tmp_path / "disk" / "run")
        *failed, last = terminal_of("with_pages", run)
        assert last == "saved"
        assert [*checkpoints.open_for_reading(run).found()] == [1, 2, 4 + len(failed)]
    expected = (
        r"Error: .*checkpoints.* could not be written \(No space left on device\): "
        r"free some disk space, then run the same command again\."
    )
    assert len(failed) >= 3
    for line in failed:
        assert re.fullmatch(expected, line), line
