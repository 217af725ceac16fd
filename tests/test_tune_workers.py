"""Tuning on workers of Dask: the same results, after deaths and changes too."""

import functools
import sys

import pytest

from jax_seg import tune
from jax_seg.infer.postprocess import scoring
from jax_seg.system import engine, processes, workers
from tests.tuning import arrays, arrays_or_death, blobs, encoded, save, write_folder

pytest.importorskip("distributed")

REPORT, RESULTS, CHOSEN = "tune/report.json", "tune/results.jsonl", "postprocess.json"
STEPS = ["remove_small:voxels=8", "fill_holes"]


def run(folder, *flags):
    command = [str(folder), "--labels", str(folder / "labels"), "--metric", "dice"]
    return tune.main([*command, "--steps", *STEPS, *flags])


def contents(folder):
    return [(folder / name).read_text() for name in (REPORT, CHOSEN)]


def lines(folder):
    return sorted((folder / RESULTS).read_text().splitlines())


@pytest.fixture
def folder(tmp_path):
    """Two volumes."""
    write_folder(tmp_path)
    for part in ("validation/probabilities", "labels", "images"):
        (tmp_path / part / "c.tif").unlink()
    return tmp_path


@pytest.fixture(scope="module")
def cluster():
    """The address of a scheduler with two workers."""
    with workers.on_this_machine(2) as client:
        yield client.scheduler.address


def only_on_workers(monkeypatch):
    """Nothing may be scored in this process."""

    def metric(prediction, label):
        raise AssertionError("scored in the process of the command")

    monkeypatch.setitem(scoring.METRICS, "dice", metric)


def test_workers_resume_a_search_and_give_what_one_process_gives(folder, monkeypatch, capsys):
    assert run(folder) == 0
    expected, scored = contents(folder), lines(folder)
    for name in (REPORT, CHOSEN):
        (folder / name).unlink()
    kept = (folder / RESULTS).read_text().splitlines()[: len(scored) // 3]
    (folder / RESULTS).write_text("\n".join(kept) + "\n")
    only_on_workers(monkeypatch)
    capsys.readouterr()
    assert run(folder, "--workers", "2") == 0
    assert "Scoring on 2 workers" in capsys.readouterr().out
    assert contents(folder) == expected
    assert lines(folder) == scored


def test_workers_that_outlive_a_command_read_what_has_changed_since(folder, cluster, monkeypatch):
    with monkeypatch.context() as patch:
        only_on_workers(patch)
        assert run(folder, "--scheduler", cluster) == 0
        for name, seed in (("a", 7), ("b", 8)):
            probability, label, _ = blobs(seed)
            save(folder / "validation/probabilities" / f"{name}.tif", probability[::-1])
            save(folder / "labels" / f"{name}.tif", label[::-1])
        assert run(folder, "--scheduler", cluster) == 0
    found, scored = contents(folder), lines(folder)
    (folder / RESULTS).unlink()
    assert run(folder) == 0
    assert found == contents(folder) and set(scored) > set(lines(folder))


def test_a_dead_worker_is_replaced_and_what_kills_three_is_named(tmp_path, cluster):
    read = functools.partial(arrays_or_death, tmp_path, "b", 3)
    results = scoring.Results(tmp_path / "results.jsonl")
    setting = ("threshold:value=0.5",)
    with engine.of_cluster(scoring.work(read, "dice"), cluster) as scores:
        score = scoring.make_scorer(arrays, "dice", results, scores)
        message = r"^Scoring threshold:value=0\.5 on the volume b: its worker died 3 times, .*\.$"
        with pytest.raises(ValueError, match=message):
            score(["a", "b", "c"], [setting])
        assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2, "a and c are kept"
        (tmp_path / "death2").unlink()  # one more death, which is survived
        found = score(["a", "b", "c"], [setting])[setting]
    assert len(list(tmp_path.glob("death*"))) == 3
    masks = [arrays(name).probability > 0.5 for name in "abc"]
    dice = scoring.METRICS["dice"]
    assert found == [dice(m, encoded(blobs(k)[1])) for k, m in enumerate(masks)]


def test_workers_with_other_files_or_another_version_are_refused(tmp_path, monkeypatch):
    results = scoring.Results(tmp_path / "results.jsonl")
    swapped = engine.Here(scoring.work(lambda name: arrays("c"), "dice"))
    score = scoring.make_scorer(arrays, "dice", results, swapped)
    with pytest.raises(OSError, match=r"^The volume a holds other voxels here .* the same files"):
        score(["a", "b"], [("threshold:value=0.5",)])
    with pytest.raises(OSError, match="another version of this project on a worker"):
        scoring.Scores(arrays, "dice", "of another version")


def test_flags_that_exclude_each_other_and_dask_that_is_missing(folder, monkeypatch, capsys):
    assert run(folder, "--workers", "2", "--scheduler", "tcp://127.0.0.1:1") == 1
    assert capsys.readouterr().err == (
        "Error: --scheduler brings its own workers: leave out --workers.\n"
    )
    with pytest.raises(SystemExit):
        run(folder, "--workers", "0")
    assert "give a number of at least 1" in capsys.readouterr().err
    monkeypatch.setattr(engine, "CONNECT", 0.5)
    assert run(folder, "--scheduler", "tcp://127.0.0.1:1") == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: --scheduler tcp://127.0.0.1:1 does not answer")
    assert error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert run(folder, "--workers", "2") == 1
    assert "pip install 'jax-seg[scale]'" in capsys.readouterr().err
    assert not (folder / REPORT).exists()


def test_more_workers_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(workers, "_devices", lambda: ["0", "1"])
    with (
        pytest.raises(ValueError, match="--workers is 3, but there are 2 GPUs"),
        engine.local(engine.Work(None), 3),
    ):
        pass


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("0,1", ["0", "1"]),
        ("", []),
        ("-1", []),
        ("1,-1,0", ["1"]),
        ("GPU-a,GPU-b", ["GPU-a", "GPU-b"]),
    ],
)
def test_the_gpus_that_a_process_may_use(visible, gpus):
    assert processes.gpus({"CUDA_VISIBLE_DEVICES": visible}) == gpus


def test_a_task_that_memory_does_not_hold_fails_alone():
    def do(task):
        if task:
            raise MemoryError
        return "done"

    (_, failure), (_, done) = engine.Here(engine.Work(lambda: do)).run([1, 0])
    assert "its device failed (out of memory)" in failure.sentence and not failure.fatal
    assert done == "done"
