"""Checkpoints that are damaged, absent, of an older version or of another network."""

import os
import re
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jax_seg import checkpoint
from jax_seg.runs import checkpoint_file, checkpoints
from jax_seg.system.files import write_json
from tests.runs.states import ABSTRACT, assert_same_state, position, state_of
from tests.small_disk import disk_of, files_of_at_most


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


def file_of(workdir, step):
    return workdir / "checkpoints" / f"{step}.safetensors"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def zeroed(start, stop):
    """Zeroes from a byte to another, counted from the end where they are negative."""

    def damage(content):
        array = np.frombuffer(content, np.uint8).copy()
        array[start:stop] = 0
        return array.tobytes()

    return damage


DAMAGE = {
    "empty": lambda content: b"",
    "cut in its header": lambda content: content[:100],
    "cut by a byte": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "zeroed": lambda content: bytes(len(content)),
    "header zeroed in part": zeroed(200, 220),
    "length zeroed": zeroed(0, 8),
    "arrays zeroed": zeroed(-100, -60),
    "a byte of an array zeroed": zeroed(-40, -39),
    "other bytes": lambda content: os.urandom(len(content)),
    "not a checkpoint": lambda content: safetensors.numpy.save({"a": np.ones(3)}),
}


@pytest.fixture(params=DAMAGE)
def damaged(request, run):
    """A run whose newest checkpoint is damaged."""
    path = file_of(run, 3)
    before = path.read_bytes()
    path.write_bytes(DAMAGE[request.param](before))
    assert path.read_bytes() != before
    return run


def test_resuming_falls_back_to_the_newest_whole_checkpoint(damaged):
    manager = checkpoints.open_checkpoints(damaged, metric="loss", keep=2)
    with pytest.warns(UserWarning, match=r"3\.safetensors is damaged \(.+\); skipped\.$"):
        assert manager.latest_step() == 2
    state, beside = checkpoints.restore(manager, ABSTRACT, 2)
    assert_same_state(state, state_of(2, 2))
    assert beside == position(2)
    checkpoints.save(manager, state_of(7, 3), position(7))
    checkpoints.wait(manager)
    state, beside = checkpoints.restore(manager, ABSTRACT, manager.latest_step())
    assert_same_state(state, state_of(7, 3))
    assert manager.all_steps() == [1, 2, 3]


def test_a_damaged_checkpoint_goes_with_the_next_that_is_whole(damaged):
    manager = checkpoints.open_checkpoints(damaged, metric="loss", keep=2)
    with pytest.warns(UserWarning, match="skipped"):
        assert manager.latest_step() == 2
    assert file_of(damaged, 3).exists()  # nothing has taken its place
    checkpoints.save(manager, state_of(5, 5), position(5))
    checkpoints.wait(manager)
    assert manager.all_steps() == [1, 2, 5] and not file_of(damaged, 3).exists()


def test_every_reader_skips_a_damaged_checkpoint(damaged, capsys):
    with pytest.warns(UserWarning, match=r"3\.safetensors is damaged"):
        variables, beside, step = checkpoints.read_variables(damaged, "latest", "ema")
    assert (step, beside) == (2, position(2))
    np.testing.assert_array_equal(
        variables["params"]["output"]["kernel"], state_of(2, 2).params["output"]["kernel"]
    )
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(FileNotFoundError) as caught,
    ):
        checkpoints.read_variables(damaged, "3")
    assert "no checkpoint '3' (3.safetensors is damaged: " in str(caught.value)
    assert "choose best, latest or one of 1, 2." in str(caught.value)
    with pytest.warns(UserWarning, match=r"3\.safetensors is damaged"):
        assert checkpoint.main([str(damaged)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1", "step 2"]
    assert lines[0] == "step 1  epoch 1  loss 1.0000  code test  ← best"


def test_a_best_that_is_damaged_gives_way_to_the_next(run):
    file_of(run, 1).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1\.safetensors is damaged"):
        assert checkpoints.read_variables(run)[2] == 2


@pytest.mark.filterwarnings("ignore:.*damaged")
def test_a_run_returns_to_the_best_there_is(run):
    manager = checkpoints.open_for_reading(run)
    assert checkpoints.resolve(manager, 2, or_best=True) == 2
    with pytest.warns(UserWarning, match=r"no checkpoint '7'.* Checkpoint 1, the best, stands in"):
        assert checkpoints.resolve(manager, 7, or_best=True) == 1
    path = file_of(run, 2)
    path.write_bytes(path.read_bytes()[:-4])
    manager = checkpoints.open_for_reading(run)
    with pytest.warns(UserWarning, match="Checkpoint 1, the best, stands in"):
        assert checkpoints.resolve(manager, 2, or_best=True) == 1


@pytest.mark.filterwarnings("ignore:.*damaged")
def test_where_all_are_damaged_nothing_starts_anew(run, capsys):
    for step in (1, 2, 3):
        file_of(run, step).write_bytes(b"")
    message = (
        r"checkpoints holds no intact checkpoint \(.*header too small.*\): restore one from a c"
    )
    with pytest.raises(FileNotFoundError, match=message):
        checkpoints.open_checkpoints(run, metric="loss").latest_step()
    with pytest.raises(FileNotFoundError, match=message):
        checkpoints.read_variables(run)
    with pytest.raises(SystemExit, match=message):
        checkpoint.main([str(run)])


def test_a_folder_without_a_checkpoint_says_so(run):
    for step in (1, 2, 3):
        file_of(run, step).unlink()
    assert checkpoints.open_checkpoints(run, metric="loss").latest_step() is None
    with pytest.raises(SystemExit, match=r"holds no checkpoint; train or convert a model first"):
        checkpoint.main([str(run)])


def test_a_copy_under_way_is_no_checkpoint(run):
    shutil.copy(file_of(run, 3), run / "checkpoints" / "9.safetensors.part")
    shutil.copy(file_of(run, 3), run / "checkpoints" / ".9.123@elsewhere.safetensors")
    shutil.copy(file_of(run, 3), run / "checkpoints" / "copy.safetensors")
    assert checkpoints.open_for_reading(run).all_steps() == [1, 2, 3]


def test_a_run_that_is_training_may_replace_what_is_read(run, monkeypatch):
    """The latest goes between its choice and its reading."""
    read = checkpoint_file.read_part

    def replaced(path, *prefixes):
        file_of(run, 3).unlink(missing_ok=True)
        return read(path, *prefixes)

    monkeypatch.setattr(checkpoint_file, "read_part", replaced)
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
def test_a_damaged_configuration_is_named(run, content):
    (run / "config.json").write_text(content)
    with pytest.raises(SystemExit, match=r"Error: .*config\.json "):
        checkpoint.main([str(run)])


def test_another_network_is_named(run):
    manager = checkpoints.open_for_reading(run)
    other = ABSTRACT._replace(params={"output": {"kernel": jax.ShapeDtypeStruct((3, 5), jnp.int8)}})
    with pytest.raises(
        ValueError, match=r"params/output/kernel is float32 \(3, 4\) instead of int8"
    ):
        checkpoints.restore(manager, other, 3)
    more = ABSTRACT._replace(batch_stats={"mean": jax.ShapeDtypeStruct((3,), jnp.float32)})
    with pytest.raises(ValueError, match=r"its batch_stats/mean is .* instead of float32"):
        checkpoints.restore(manager, more, 3)


def test_two_arrays_of_one_name_are_refused():
    with pytest.raises(ValueError, match="have one name"):
        checkpoint_file.named({"a": {"b": 1}, "a/b": 2})


def test_the_weights_are_a_file_for_other_programs(run):
    arrays = safetensors.numpy.load_file(file_of(run, 2))
    np.testing.assert_array_equal(
        arrays["params/output/kernel"], state_of(2, 2).params["output"]["kernel"]
    )


class WhenWaitedFor:
    """An executor that has not come to its work until somebody waits for it."""

    def submit(self, job, *arguments):
        return SimpleNamespace(result=lambda: job(*arguments))


def test_what_a_run_returns_to_is_asked_before_the_checkpoint_is_written(tmp_path):
    """While it is written the run may choose another best, which is not on the disk yet."""
    best = 1
    manager = checkpoints.open_checkpoints(tmp_path, metric="loss", pinned=lambda: best)
    manager._writer = WhenWaitedFor()
    for step, loss in ((1, 5.0), (2, 4.0)):
        checkpoints.save(manager, state_of(step, step), position(step), {"loss": loss})
        best = step + 1
        checkpoints.wait(manager)
        best = 1
    assert manager.all_steps() == [1, 2]


def test_what_a_kept_checkpoint_returns_to_is_kept(tmp_path):
    """Both latest checkpoints could be resumed; the older one may return to checkpoint 1."""
    best = 1
    manager = checkpoints.open_checkpoints(tmp_path, metric="dice", keep=2, pinned=lambda: best)
    for step, dice in ((1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)):
        best = 4 if step == 4 else 1
        checkpoints.save(manager, state_of(step, step), position(step), {"dice": dice})
    checkpoints.wait(manager)
    assert manager.all_steps() == [1, 3, 4]
    manager.close()


def test_what_is_saved_does_not_change_with_the_run(tmp_path):
    """The position is written in the background, while the run goes through the next batches."""
    manager, beside = checkpoints.open_checkpoints(tmp_path, metric="loss"), {"sums": {"loss": 1.0}}
    checkpoints.save(manager, state_of(1, 1), beside)
    beside["sums"]["loss"] = 2.0
    checkpoints.wait(manager)
    assert checkpoints.read_loop(manager, 1) == {"sums": {"loss": 1.0}}
    manager.close()


def test_a_full_disk_is_one_sentence_and_keeps_the_checkpoint_before(run, capfd):
    manager = checkpoints.open_checkpoints(run, metric="loss")
    message = r"checkpoints/4\.safetensors could not be written \(File too large\): raise the limit"
    with pytest.raises(OSError, match=message), files_of_at_most(1000):
        checkpoints.save(manager, state_of(4, 4), position(4))
        checkpoints.wait(manager)
    assert capfd.readouterr() == ("", "")
    assert manager.latest_step() == 3
    assert names(manager.directory) == [f"{n}.safetensors" for n in (1, 2, 3)]
    manager.close()


def test_a_disk_that_is_full_anywhere_in_a_save_loses_nothing(whole, tmp_path, capfd):
    failed = []
    with disk_of(tmp_path / "disk", 256):
        run = shutil.copytree(whole, tmp_path / "disk" / "run")
        manager = checkpoints.open_checkpoints(run, metric="loss")
        free = shutil.disk_usage(run).free
        for left in range(0, free, 4096):  # a page of it
            (tmp_path / "disk" / "others").write_bytes(bytes(free - left))
            checkpoints.save(manager, state_of(4, 4), position(4) | {"about": "x" * 20_000})
            try:
                checkpoints.wait(manager)
            except OSError as error:
                failed.append(str(error))
                assert names(manager.directory) == [f"{n}.safetensors" for n in (1, 2, 3)]
                assert manager.latest_step() == 3
            else:
                break
        assert manager.latest_step() == 4
        manager.close()
    expected = (
        r".*/4\.safetensors could not be written \(No space left on device\): free some disk .*"
    )
    assert len(failed) > 5 and all(re.fullmatch(expected, sentence) for sentence in failed)
    assert capfd.readouterr() == ("", "")


def test_an_error_that_nobody_waited_for_is_a_warning(run):
    manager = checkpoints.open_checkpoints(run, metric="loss")
    with files_of_at_most(100):
        checkpoints.save(manager, state_of(4, 4), position(4))
        with pytest.warns(UserWarning, match=r"4\.safetensors could not be written"):
            manager.close()
