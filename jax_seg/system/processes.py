"""Several processes of one run, on one machine or many: how they meet, agree and end together.

Process 0 leads: it alone writes what belongs to the run, and where the processes could come to
different results, such as of a clock, its own count.
"""

import atexit
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

WAIT_SECONDS = 120  # for the other processes to start
SILENT_SECONDS = 30  # without a sign of life, after which a process counts as dead
SOURCE = Path(__file__).resolve().parents[1]
# Prints the last line that it was told when the process that told it has ended.
REPORTER = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
last = ""
for last in sys.stdin:
    pass
sys.stderr.write(last.lstrip("\\n"))
"""


def connect(coordinator=None, process=None, processes=None):
    """Join the other processes of the run; before JAX computes anything.

    Without arguments, a process that Slurm, Open MPI, Kubernetes (an indexed job) or a TPU pod has
    started among several learns from its environment where the others are; any other stays alone.

    Args:
      coordinator: 'HOST:PORT', an address of process 0 that all can reach.
      process: number of this one, from 0.
      processes: how many there are.

    Raises:
      ValueError: the arguments are incomplete or wrong, or nobody answers at the address.
    """
    given = {"--coordinator": coordinator, "--process": process, "--processes": processes}
    missing = [flag for flag, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ValueError(f"{missing[0]} is missing: give {', '.join(given)} together, or none.")
    if missing and not _started_among_several():
        return
    if not missing:
        _check(coordinator, process, processes)
    jax.config.update("jax_enable_preemption_service", False)  # signals are ours
    # Where one process fails JAX aborts the others, and nobody could say why.
    report = _start_reporter()
    report(
        f"Error: not all processes of the run came together within {WAIT_SECONDS} s: start the "
        "same command for each of them, with the same --coordinator and --processes."
    )
    if process:
        _require_answer(coordinator, report)
    jax.distributed.initialize(
        coordinator,
        processes,
        process,
        cluster_detection_method=None if missing else "deactivate",
        initialization_timeout=WAIT_SECONDS,
        heartbeat_timeout_seconds=SILENT_SECONDS,
        shutdown_timeout_seconds=SILENT_SECONDS,
    )
    count = jax.process_count()
    report(
        f"Error: process {jax.process_index()} of {count} was ended, because it or another process "
        "of the run died or lost its connection: run the same command for all of them to resume."
    )
    atexit.register(report, "")


def leads():
    """Whether this process writes what belongs to the whole run."""
    return jax.process_index() == 0


def from_lead(value):
    """What process 0 calls this with, in every process; JSON types."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value if leads() else None).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = text if leads() else np.zeros(length, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(text), np.uint8)))


def from_all(value):
    """What every process calls this with, in their order; JSON types, at most 1000 characters."""
    if jax.process_count() == 1:
        return [value]
    text = json.dumps(value).ljust(1000).encode()
    if len(text) > 1000:
        raise ValueError(f"{len(text)} characters are too long to exchange.")
    everyone = multihost_utils.process_allgather(np.frombuffer(text, np.uint8))
    return [json.loads(bytes(np.asarray(one, np.uint8))) for one in everyone]


def wait_for_all(what):
    """Return once every process has come here; `what` names the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def lead_first(what):
    """Run a block in process 0, then in the others: they find what it has left on the disk."""
    if not leads():
        wait_for_all(what)
    yield
    if leads():
        wait_for_all(what)


def require_same(facts, advice):
    """Refuse processes that differ in something that all of them must have in common.

    Args:
      facts: {name: value}, JSON types.
      advice: what to do, as the end of a sentence.

    Raises:
      ValueError: in every process; the one that differs names what.
    """
    if jax.process_count() == 1:
        return
    expected, own = from_lead(facts), json.loads(json.dumps(facts))
    names = sorted(expected.keys() | own.keys())
    differing = [name for name in names if expected.get(name) != own.get(name)]
    differ = multihost_utils.process_allgather(np.array(len(differing)))
    if differing:
        raise ValueError(
            f"Process {jax.process_index()} has another {differing[0]} than process 0 "
            f"({own.get(differing[0])} instead of {expected.get(differing[0])}): {advice}."
        )
    if differ.any():
        raise ValueError(
            f"Process {int(np.flatnonzero(differ)[0])} was started with something else than "
            f"process 0, as it says itself: {advice}."
        )


def code():
    """A digest of the program's own source files."""
    digest = hashlib.sha256()
    for file in sorted(SOURCE.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def is_lost(error):
    """Whether an error says that the connection to another process has ended."""
    return jax.distributed.is_initialized() and any(
        sign in str(error) for sign in ("Gloo", "NCCL", "coordination", "peer")
    )


def end(error):
    """End this process for an error; among several at once, so that the others end too."""
    if not jax.distributed.is_initialized():
        sys.exit(f"Error: {error}")
    sentence = str(error)
    if is_lost(error):
        sentence = (
            f"process {jax.process_index()} of {jax.process_count()} lost another one, which ended "
            "or cannot be reached: run the same command for all of them to resume."
        )
    # Python would first wait for the others, which wait for this one.
    print(f"Error: {sentence}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    _tell_reporter("")
    os._exit(1)


_reporters = []


def _tell_reporter(sentence):
    for reporter in _reporters:
        with contextlib.suppress(OSError):
            reporter.stdin.write(f"{sentence}\n")
            reporter.stdin.flush()


def _start_reporter():
    _reporters.append(
        subprocess.Popen([sys.executable, "-S", "-c", REPORTER], stdin=subprocess.PIPE, text=True)
    )
    return _tell_reporter


def _started_among_several():
    """Whether a cluster's own program has started this process as one of several."""
    environment = os.environ
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        return int(environment.get("SLURM_NTASKS", 1)) > 1
    if "OMPI_MCA_orte_hnp_uri" in environment:
        return int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return True
    return "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def _check(coordinator, process, processes):
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"--coordinator is {coordinator}: give HOST:PORT, an address of process 0, such as "
            "node1:4242."
        )
    if not 0 <= process < processes:
        raise ValueError(
            f"--process is {process} and --processes {processes}: number the processes from 0 to "
            f"{max(processes - 1, 0)}."
        )


def _require_answer(coordinator, report):
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                report("")
                raise ValueError(
                    f"No coordinator answers at {coordinator} within {WAIT_SECONDS} s ({error}): "
                    "start process 0 there, and check the address and the firewall."
                ) from error
        time.sleep(0.5)
