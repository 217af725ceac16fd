"""Several processes of one run, on one machine or many: how they meet, agree and end together.

Process 0 leads: it alone writes what belongs to the run, and where the processes could come to
different results, such as of a clock, its own count.
"""

import atexit
import contextlib
import hashlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
import traceback
import uuid
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache import compilation_cache

WAIT_SECONDS = 120  # for the other processes to start
SEEN_SECONDS = 60  # within which a file on a shared disk shows up on the other machines
EXCHANGED = 4096  # bytes: texts are exchanged in multiples of it
SILENT_SECONDS = 30  # without a sign of life, after which a process counts as dead
REPORT_SECONDS = 5  # for the sentence on why this process ends
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
        local_device_ids=_own_gpus(os.environ) if missing else None,
        cluster_detection_method=None if missing else "deactivate",
        initialization_timeout=WAIT_SECONDS,
        heartbeat_timeout_seconds=SILENT_SECONDS,
        shutdown_timeout_seconds=SILENT_SECONDS,
    )
    count = jax.process_count()
    _share_compiled_programs()
    report(
        f"Error: process {jax.process_index()} of {count} was ended, because it or another process "
        "of the run died or lost its connection: run the same command for all of them to resume."
    )
    atexit.register(report, "")


def leads():
    """Whether this process writes what belongs to the whole run."""
    # Asked of JAX alone, a process that computes nothing itself would open every GPU.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def from_lead(value):
    """What process 0 calls this with, in every process; JSON types."""
    if jax.process_count() == 1:
        return value
    text = json.dumps(value if leads() else None).encode()
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    sent = multihost_utils.broadcast_one_to_all(_padded(text if leads() else b"", length))
    return json.loads(bytes(np.asarray(sent, np.uint8)))


def from_all(value):
    """What every process calls this with, in their order; JSON types."""
    if jax.process_count() == 1:
        return [value]
    text = json.dumps(value).encode()
    longest = int(multihost_utils.process_allgather(np.int32(len(text))).max())
    everyone = multihost_utils.process_allgather(_padded(text, longest))
    return [json.loads(bytes(np.asarray(one, np.uint8))) for one in everyone]


def _padded(text, length):
    """Text as bytes, blanks added: for each length that is exchanged a program is compiled."""
    length = EXCHANGED * -(-length // EXCHANGED)
    return np.frombuffer(text.ljust(length), np.uint8)


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


def require_shared(folder, flag):
    """Refuse processes that do not see the same folder.

    Raises:
      ValueError: in every process.
    """
    if jax.process_count() > 1 and not _shared(folder, SEEN_SECONDS):
        raise ValueError(
            f"{flag} {folder} is not the same folder for all processes: give one on a disk that "
            "they share."
        )


def _shared(folder, seconds):
    """Whether what process 0 writes in a folder shows up there in all of them within a time."""
    file = Path(folder) / f".seen_by_all_{from_lead(uuid.uuid4().hex)}"
    with contextlib.suppress(OSError):
        if leads():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    wait_for_all("a file to be seen")
    until = time.monotonic() + seconds
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.1)
    everywhere = multihost_utils.process_allgather(np.array(file.exists())).all()
    if leads():
        with contextlib.suppress(OSError):
            file.unlink()
    return bool(everywhere)


def _share_compiled_programs():
    """Keep no compiled programs where the processes do not share the folder of them.

    Process 0 alone writes it. On a later start a process that finds a program there would compile
    nothing, and another wait for what the first was to measure for it.
    """
    if jax.process_count() == 1:
        return
    folder = jax.config.jax_compilation_cache_dir
    wanted = bool(folder) and jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)  # to ask, programs are compiled too
    if all(from_all(wanted)) and _shared(folder, 5):
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()  # JAX has noted that there is none


def _own_gpus(environment):
    """Which of the GPUs that it sees a task of Slurm or Open MPI takes, as numbers; [] for all.

    None where JAX_LOCAL_DEVICE_IDS says it.

    Left to itself, JAX takes one alone: that of the task's number on its machine, which it may not
    even see where every task was given GPUs of its own.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    tasks, number = _tasks_here(environment)
    bound = "SLURM_GPUS_PER_TASK" in environment
    bound |= "gpu" in environment.get("SLURM_TRES_PER_TASK", "")
    visible = gpus(environment)
    if tasks == 1 or bound or len(visible) < tasks:
        return []
    share = len(visible) // tasks
    return list(range(number * share, (number + 1) * share))


def _tasks_here(environment):
    """(tasks on this machine, number of this one) as Slurm or Open MPI say, else (1, 0)."""
    if "SLURM_LOCALID" in environment:
        # '4(x2),3': four tasks on each of two machines, three on the third.
        counts = []
        for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
            count, _, times = part.rstrip(")").partition("(x")
            counts += [int(count)] * int(times or 1)
        node = int(environment.get("SLURM_NODEID", 0))
        return counts[min(node, len(counts) - 1)], int(environment["SLURM_LOCALID"])
    number = int(environment.get("OMPI_COMM_WORLD_LOCAL_RANK", 0))
    return int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1)), number


def gpus(environment=os.environ):
    """Names of the NVIDIA GPUs that a process may use, as CUDA_VISIBLE_DEVICES has them."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(n) for n, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    # CUDA reads as far as the first that there is not.
    return [*itertools.takewhile(lambda one: one not in ("", "-1"), named.split(","))]


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


def end_of_bug(error):
    """Raise an error that nobody expected; among several processes, end so that the others do."""
    if not jax.distributed.is_initialized():
        raise error
    traceback.print_exception(error)
    end(f"process {jax.process_index()} failed, as printed above; a later start resumes the run.")


def end(error):
    """End this process for an error; among several at once, so that the others end too."""
    if not jax.distributed.is_initialized():
        sys.exit(f"Error: {error}")
    sentence = str(error)
    if is_lost(error):
        sentence = (
            f"process {jax.process_index()} of {jax.process_count()} lost another one, which ended "
            f"or cannot be reached ({sentence.splitlines()[0]}): run the same command for all "
            "of them to resume."
        )
    sys.stdout.flush()
    # JAX may abort this process at any moment and print pages: the reporter's word is the last.
    if not _tell_reporter(f"Error: {sentence}"):
        print(f"Error: {sentence}", file=sys.stderr, flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # What started this process may end the reporter with it.
    for reporter in _reporters:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            reporter.stdin.close()
            reporter.wait(REPORT_SECONDS)
    # Python would first wait for the others, which wait for this one.
    os._exit(1)


_reporters = []


def _tell_reporter(sentence):
    """Whether it is there to hear it."""
    try:
        for reporter in _reporters:
            reporter.stdin.write(sentence.replace("\n", " ") + "\n")
            reporter.stdin.flush()
    except OSError:
        return False
    return True


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
