"""Workers of Dask: equal bytes, however often and wherever processes are killed."""

import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import tifffile

from jax_seg.system import engine
from tests.conftest import ROOT, TIME_LIMIT
from tests.infer.blocks.jobs import (
    checksums,
    compute,
    load_killer,
    load_network,
    load_slow,
    make_job,
)

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    volume = np.random.default_rng(0).integers(1, 256, (48, 32, 32)).astype(np.uint8)
    path = tmp_path_factory.mktemp("image") / "v.tif"
    tifffile.imwrite(path, volume, photometric="minisblack")
    return path


@pytest.fixture(scope="module")
def undisturbed(image, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "v.zarr"
    assert compute(make_job(image, output)) == 0
    return checksums(output)


def two_workers(work):
    return engine.local(work, 2)


def test_a_worker_that_dies_is_replaced_and_a_block_that_kills_is_named(
    image, undisturbed, tmp_path, capsys
):
    """One block kills its worker three times and alone is missing; then it works."""
    output = tmp_path / "v.zarr"
    load = functools.partial(load_killer, tmp_path, (16, 16, 0), 3)
    job = make_job(image, output, load=load)
    assert compute(job, two_workers) == 1
    printed = capsys.readouterr()
    assert printed.err.count("its worker died 3 times") == 1
    assert "block (1, 1, 0) of network (16:32,16:32,0:16): its worker died" in printed.err
    assert "1 blocks are missing" in printed.err and "2 workers" in printed.out
    assert len(list((output / "0").glob("c/*/*/*"))) == 11
    assert compute(job, two_workers) == 0
    assert "[1/1] network" in capsys.readouterr().out
    assert checksums(output) == undisturbed


SCRIPT = """
import sys
from tests.infer.blocks import jobs, test_engine
if __name__ == "__main__":
    job = jobs.make_job(*sys.argv[1:3], load=jobs.functools.partial(jobs.load_slow, 1.0))
    sys.exit(jobs.compute(job, test_engine.two_workers))
"""


def test_a_client_that_is_killed_resumes_where_it_was(image, undisturbed, tmp_path, capsys):
    output = tmp_path / "v.zarr"
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(image), str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    records = tmp_path / "v.blocks" / "network"
    deadline = time.monotonic() + TIME_LIMIT
    while len(list(records.glob("[0-9]*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, left = psutil.wait_procs(workers, timeout=TIME_LIMIT)  # they notice that it is gone
    assert not left
    done = len(list(records.glob("[0-9]*.json")))
    assert 3 <= done < 12
    capsys.readouterr()
    load = functools.partial(load_slow, 0)
    assert compute(make_job(image, output, load=load)) == 0
    assert f"12 wanted, {done} done" in capsys.readouterr().out
    assert checksums(output) == undisturbed


def test_workers_without_the_networks_and_schedulers_that_are_not_there(
    image, tmp_path, monkeypatch
):
    job = make_job(image, tmp_path / "v.zarr", load=functools.partial(open, "nowhere"))
    with pytest.raises(OSError, match=r"No such file or directory: 'nowhere' \(block"):
        compute(job)
    monkeypatch.setattr(engine, "CONNECT", 0.5)
    with pytest.raises(ValueError, match=r"--scheduler .* does not answer"):
        compute(job, lambda work: engine.of_cluster(work, "tcp://127.0.0.1:1"))


def test_without_dask_the_extra_is_named(image, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"pip install 'jax-seg\[scale\]'"):
        compute(make_job(image, tmp_path / "v.zarr"), two_workers)


def test_the_network_is_loaded_once(image, tmp_path):
    loaded = []

    def load():
        loaded.append(1)
        return load_network()

    assert compute(make_job(image, tmp_path / "v.zarr", load=load)) == 0
    assert loaded == [1]
