"""Two processes train one run: as one does, stopping together, and ending when one of them dies."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jax_seg.runs import checkpoints
from jax_seg.runs.events import read_events
from jax_seg.system import processes
from jax_seg.training import run as training
from tests import tiny_shared
from tests.conftest import ROOT, TIME_LIMIT

SETTLE = 60  # seconds in which the others end when one has died


def free_port():
    """A port below those that the system hands out, so that no other program takes it meanwhile."""
    for port in np.random.default_rng(os.getpid()).permutation(np.arange(20000, 32000)).tolist():
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("localhost", port))
            return port
    raise OSError("no port between 20000 and 32000 is free")


def start(workdir, data):
    """The two processes of a run of many epochs."""
    port, started = free_port(), []
    for number in range(2):
        command = [sys.executable, "launch.py", f"--config=tests/tiny_shared.py:{data}"]
        command += [f"--workdir={workdir}", "--doctor=off", f"--coordinator=localhost:{port}"]
        command += [f"--process={number}", "--processes=2"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, **pipes))
    return started


def wait_for(path, pattern, running):
    until = time.monotonic() + TIME_LIMIT
    while not (path.exists() and re.search(pattern, path.read_text())):
        ended = [one.communicate() for one in running if one.poll() is not None]
        assert not ended and time.monotonic() < until, ended
        time.sleep(0.05)


@pytest.fixture(scope="module")
def history(volumes_folder, tmp_path_factory):
    """What two processes say: in a run whose first one is killed, and in the next start."""
    workdir, seen = tmp_path_factory.mktemp("processes") / "run", {"workdir": None}
    seen["workdir"] = workdir
    try:
        first, second = start(workdir, volumes_folder)
        # The third epoch begins when the checkpoint of the first is complete.
        wait_for(workdir / "log.txt", "Epoch 2 Train", (first, second))
        first.kill()
        died = time.monotonic()
        seen["left"] = second.communicate(timeout=TIME_LIMIT)
        seen["seconds"], seen["status"] = time.monotonic() - died, second.returncode
        first.communicate()
        first, second = start(workdir, volumes_folder)
        wait_for(workdir / "log.txt", r"resumes[\s\S]*Epoch \d+ Val", (first, second))
        second.send_signal(signal.SIGTERM)
        seen["stopped"] = [one.communicate(timeout=TIME_LIMIT) for one in (first, second)]
        seen["ended"] = [first.returncode, second.returncode]
    finally:
        for one in (first, second):
            one.kill()
    return seen


def test_a_process_whose_other_one_died_ends_with_a_sentence(history):
    assert history["status"] != 0
    assert history["seconds"] < SETTLE
    last = history["left"][1].strip().splitlines()[-1]
    assert re.fullmatch(
        r"Error: process 1 of 2 .*: run the same command for all of them to resume\.", last
    )


ABORTED = """
import faulthandler, os, subprocess, sys
from jax_seg.system import processes

faulthandler.enable()
processes.connect(sys.argv[1], 0, 1)
setattr({moment})
processes.end(ValueError("the first\\nof two lines"))
"""


@pytest.mark.parametrize(
    "moment",
    [
        "os, 'dup2', lambda *_: os.abort()",
        "subprocess.Popen, 'wait', lambda *_: os.abort()",
        "os, '_exit', lambda status: os.abort()",
    ],
)
def test_what_jax_prints_as_it_aborts_does_not_hide_the_sentence(moment):
    """Whenever it does so."""
    script = ABORTED.format(moment=moment)
    command = [sys.executable, "-c", script, f"localhost:{free_port()}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT)
    assert ended.returncode == -signal.SIGABRT
    assert ("Fatal Python error: Aborted" in ended.stderr) == ("dup2" in moment)
    assert ended.stderr.splitlines()[-1] == "Error: the first of two lines"


def test_a_signal_to_one_process_stops_all(history):
    (said, _), (silent, _) = history["stopped"]
    assert history["ended"] == [0, 0]
    assert "2 × cpu (cpu) in 2 processes" in said
    assert re.search(r"Stopped by SIGTERM in epoch \d+ at step \d+; the state is saved", said)
    assert "Epoch" not in silent  # one process writes the log


def test_one_process_goes_on_where_two_have_stopped(history, volumes_folder, tmp_path):
    """As if it had trained alone all the time."""
    workdir = history["workdir"]
    epoch = int(re.search(r"SIGTERM in epoch (\d+)", history["stopped"][0][0])[1])
    config = tiny_shared.get_config(volumes_folder)
    config.train.epochs = epoch + 1
    weights, scored = [], []
    for folder in (workdir, tmp_path / "alone"):
        training.run(config, folder)
        variables, _, step = checkpoints.read_variables(folder, "latest")
        assert step == 2 * (epoch + 1)
        events = [e for e in read_events(folder) if e["kind"] == "volumes"]
        scored.append([event["accuracy"] for event in events])
        weights.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables)]))
    assert len(scored[0]) == epoch + 1
    assert scored[0] == pytest.approx(scored[1], abs=2e-3)  # voxels at the threshold may differ
    shared, alone = weights
    # Rounding grows with the updates, whose number is that of the moment; a gradient of half of a
    # batch changes a hundred times as much at once.
    assert np.abs(shared - alone).max() < 1e-4 * np.abs(alone).max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h:1", None, 2), r"--process is missing: give --coordinator, --process, --processes"),
        ((None, 1, None), r"--coordinator is missing"),
        (("node1", 0, 2), r"--coordinator is node1: give HOST:PORT"),
        (("h:1", 2, 2), r"--process is 2 and --processes 2: number .* from 0 to 1\."),
    ],
)
def test_what_does_not_name_a_process(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.connect(*arguments)


def test_a_coordinator_that_is_not_there(monkeypatch):
    monkeypatch.setattr(processes, "WAIT_SECONDS", 0)
    said, address = [], f"localhost:{free_port()}"
    with pytest.raises(ValueError, match=rf"No coordinator answers at {address} within 0 s"):
        processes._require_answer(address, said.append)
    assert said == [""]  # the reporter has nothing to add


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NODELIST": "a", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_STEP_NODELIST": "a", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, False),  # in a job, but not by srun
        ({"OMPI_MCA_orte_hnp_uri": "x", "OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "h"}, False),
        ({"KUBERNETES_SERVICE_HOST": "h", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_a_cluster_says_whether_a_process_is_one_of_several(environment, several, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM", "OMPI", "KUBERNETES", "JOB_", "TPU_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processes._started_among_several() == several


SLURM = {"SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2),3", "SLURM_NODEID": "1"}
OPEN_MPI = {"OMPI_COMM_WORLD_LOCAL_RANK": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "3"}


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, []),  # one process on its machine takes all
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [2, 3]),  # the second of two tasks
        (SLURM | {"CUDA_VISIBLE_DEVICES": "3"}, []),  # one of its own
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, []),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_TRES_PER_TASK": "cpu:4"}, [2, 3]),
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_TRES_PER_TASK": "cpu:4,gres/gpu:2"}, []),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1", "CUDA_VISIBLE_DEVICES": "0,1"}, []),
        (SLURM | {"SLURM_NODEID": "2", "CUDA_VISIBLE_DEVICES": "a,b,c"}, [1]),
        (SLURM | {"JAX_LOCAL_DEVICE_IDS": "1"}, None),
        (OPEN_MPI | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}, [4, 5]),
    ],
)
def test_a_task_takes_the_gpus_that_are_its_own(environment, gpus):
    assert processes._own_gpus(environment) == gpus


def test_processes_exchange_what_they_have(tmp_path):
    """Long texts, and whether they see one folder; a vote is waited for."""
    port, started = free_port(), []
    for number in range(2):
        command = [sys.executable, "-m", "tests.exchanging", f"localhost:{port}", str(number)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([*command, str(tmp_path)], cwd=ROOT, **pipes))
    told = [one.communicate(timeout=TIME_LIMIT) for one in started]
    for number, (said, errors) in enumerate(told):
        assert started[number].returncode == 0, errors
        found = json.loads(said.splitlines()[-1])
        assert found["from_lead"] == "0" * 5000
        assert found["from_all"] == ["0" * 5000, "1" * 7]
        assert found["shared"] == [True, False]
        assert found["stop"] == [None, "SIGTERM"]
    assert not list(tmp_path.glob("**/.seen*"))


def test_processes_that_were_started_differently(monkeypatch):
    lead = {"data.batch": 8, "seed": 0}
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    monkeypatch.setattr(processes, "from_lead", lambda value: lead)
    differ = np.array([0, 0, 1])
    gather = processes.multihost_utils, "process_allgather"
    monkeypatch.setattr(*gather, lambda own: differ)
    message = r"Process 2 has another data\.batch than process 0 \(4 instead of 8\): do so\."
    with pytest.raises(ValueError, match=message):
        processes.require_same(lead | {"data.batch": 4}, "do so")
    with pytest.raises(ValueError, match=r"Process 2 was started with something else than"):
        processes.require_same(lead, "do so")
    differ[:] = 0
    processes.require_same(lead, "do so")
