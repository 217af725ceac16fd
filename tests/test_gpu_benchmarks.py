"""The figures of a card: what is installed for it, what is started, and what ends it."""

import shutil
import subprocess
import time
from types import SimpleNamespace

import jax
import psutil
import pytest

from benchmarks import gpu, own_step
from tests.conftest import ROOT, TIME_LIMIT


def test_without_a_card_nothing_is_measured(tmp_path, capsys):
    with pytest.raises(SystemExit, match="JAX computes on the cpu, not on a GPU: install"):
        own_step.main(["--card"])
    assert f"jax {jax.__version__}" in capsys.readouterr().out
    assert gpu.BENCHMARKS[0].needed and "--card" in gpu.BENCHMARKS[0].command

    command = ["--output", str(tmp_path), "--minutes", "30", "--only", "machine", "losses"]
    assert gpu.main(command) == 1
    said = capsys.readouterr().out
    assert "machine: failed" in said and "losses" not in said and "machine.txt" in said
    assert "JAX computes on the cpu" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("works", [True, False])
def test_a_card_that_cannot_convolve_is_none(monkeypatch, works):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    if works:
        own_step.main(["--card"])
        return

    def grad(*_):
        raise jax.errors.JaxRuntimeError("FAILED_PRECONDITION: DNN library\nat a place")

    monkeypatch.setattr(jax, "grad", grad)
    with pytest.raises(SystemExit, match=r"on the GPU \(JaxRuntimeError: \S+ DNN library\): inst"):
        own_step.main(["--card"])


def test_a_rehearsal_starts_the_benchmarks_themselves(tmp_path, capsys):
    command = ["--output", str(tmp_path), "--small", "--minutes", "30", "--only", "machine"]
    assert gpu.main(command) == 0
    assert "machine: done" in capsys.readouterr().out
    assert f"jax {jax.__version__}" in (tmp_path / "machine.txt").read_text()
    assert "## Versions and card" in (tmp_path / "README.md").read_text()


def test_the_figures_of_a_card_come_one_by_one(tmp_path, monkeypatch):
    found = [
        gpu.Benchmark("good", "Good", "-c print('figure')"),
        gpu.Benchmark("broken", "Broken", "-c 1/0"),
        gpu.Benchmark("long", "Long", "-c input()", None),
        gpu.Benchmark("beside", "Beside a peer", "-c input()", peer="no_such_peer"),
        gpu.Benchmark("slow", "Slow", "-c __import__('time').sleep(600)"),
        gpu.Benchmark("late", "Late", "-c print('never')"),
    ]
    now, in_earnest = [0.0], gpu._run

    def run(one, folder, limit, small):
        if one.name != "slow":
            return in_earnest(one, folder, limit, small)
        now[0] += limit
        return in_earnest(one, folder, 0.1, small)

    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(gpu, "_run", run)
    states = gpu.run(found, tmp_path, minutes=30, small=True)
    assert states == {
        "good": "done",
        "broken": "failed",
        "beside": "left out without no_such_peer",
        "slow": "ended",
        "late": "left out for lack of time",
    }
    page = (tmp_path / "README.md").read_text()
    assert page.index("## Good") < page.index("figure") < page.index("ZeroDivisionError")
    assert "never" not in page and "Long" not in page


def test_a_benchmark_takes_no_time_of_those_after_it(tmp_path, monkeypatch):
    """What one saves the next may take, and no more."""
    limits = []

    def run(one, folder, limit, small):
        limits.append(limit)
        now[0] += 4 if one.name == "a" else limit
        return "done"

    now = [100.0]
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(gpu, "_run", run)
    found = [gpu.Benchmark(name, name, "", seconds=30) for name in "abcd"]
    states = gpu.run(found, tmp_path, minutes=1.75)
    assert limits == [30, 56, 30, 15] and [*states.values()] == ["done"] * 4
    assert sum(one.seconds for one in gpu.BENCHMARKS) <= 60 * gpu.MINUTES


@pytest.mark.parametrize("reason", [subprocess.TimeoutExpired("it", 1), KeyboardInterrupt()])
def test_a_benchmark_ends_with_all_that_it_has_started(tmp_path, monkeypatch, reason):
    class Impatient(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            while not (tmp_path / "number").exists():
                time.sleep(0.01)
            raise reason

    script = tmp_path / "starts_another.py"
    script.write_text(
        "import pathlib, subprocess, sys, time\n"
        f"code = 'import time; time.sleep({TIME_LIMIT})'\n"
        "other = subprocess.Popen([sys.executable, '-c', code])\n"
        "part = pathlib.Path(__file__).with_name('part')\n"
        "part.write_text(str(other.pid))\n"
        "part.rename(part.with_name('number'))\n"
        f"time.sleep({TIME_LIMIT})\n"
    )
    monkeypatch.setattr(gpu.subprocess, "Popen", Impatient)
    found = [gpu.Benchmark("long", "Long", str(script))]
    if isinstance(reason, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            gpu.run(found, tmp_path)
    else:
        assert gpu.run(found, tmp_path) == {"long": "ended"}
    number, end = int((tmp_path / "number").read_text()), time.monotonic() + TIME_LIMIT / 2
    while time.monotonic() < end and runs(number):  # a signal takes its time to arrive
        time.sleep(0.01)
    assert not runs(number)


def runs(number):
    """Whether a process is there and not merely waiting to be buried."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gpu_sh(folder, *arguments, **tools):
    """`gpu.sh` where nothing but `tools` {name: shell code} can be run."""
    (folder / "benchmarks").mkdir(parents=True)
    script = shutil.copy(ROOT / "benchmarks" / "gpu.sh", folder / "benchmarks")
    for name in ("bash", "dirname"):
        (folder / name).symlink_to(shutil.which(name))
    for name, code in tools.items():
        file = folder / name.replace("_", "-")
        file.write_text(f"#!/bin/bash\n{code}\n")
        file.chmod(0o755)
    environment = {"PATH": str(folder), "PYTHON": "python"}
    return subprocess.run(
        ["bash", script, *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("driver", "extras", "said"),
    [
        ("echo 580.65; echo 580.65", "cuda13,bench", ""),
        ("echo 600.1", "cuda13,bench", ""),
        ("echo 550.54", "cuda12", "Without PyTorch and MONAI: their build needs a driver of 580"),
        (
            "echo 'No devices were found'; exit 9",
            "",
            "nvidia-smi finds no card: install NVIDIA's driver, 580 or newer.",
        ),
    ],
)
def test_one_cuda_for_jax_and_its_peers(tmp_path, driver, extras, said):
    process = gpu_sh(tmp_path, "extras", nvidia_smi=driver)
    assert process.stdout.strip() == extras and process.stderr.startswith(said)
    assert process.returncode == (not extras) and bool(process.stderr) == bool(said)


def test_without_a_driver_there_is_no_card(tmp_path):
    process = gpu_sh(tmp_path, "extras")
    assert process.returncode == 1
    assert process.stderr == "nvidia-smi finds no card: install NVIDIA's driver, 580 or newer.\n"


def test_wheels_say_what_they_are_for(tmp_path):
    def fetched(name, *cuda, **tools):
        wheels = tmp_path / name / "WHEELS"
        wheels.mkdir(parents=True)
        tools |= {"uname": "echo Linux x86_64"}
        assert gpu_sh(tmp_path / name, "fetch", str(wheels), *cuda, **tools).returncode == 0
        return (wheels / "for").read_text()

    assert fetched("both", python="echo 3.11") == "cuda13,bench 3.11\n"
    assert fetched("older", "cuda12", python="echo 3.12") == "cuda12 3.12\n"
    no_peers = "case $* in *bench*) exit 1 ;; *) echo 3.11 ;; esac"
    assert fetched("ours", python=no_peers) == "cuda13 3.11\n"


@pytest.mark.parametrize(
    ("arguments", "tools", "said"),
    [
        ("fetch WHEELS", {"uname": "echo Darwin arm64"}, "Fetch on Linux x86_64, as the card's"),
        (
            "fetch WHEELS cuda15",
            {"uname": "echo Linux x86_64"},
            "Wheels are for cuda12 or cuda13, not",
        ),
        (
            "run WHEELS OUT",
            {"python": "echo 3.12"},
            "The wheels are for Python 3.11, unlike python: ",
        ),
        (
            "run WHEELS OUT",
            {"python": "echo 3.11", "nvidia_smi": "echo 550.54"},
            "The wheels are for CUDA 13, which needs a driver of 580 or newer: fetch them with",
        ),
    ],
)
def test_wheels_of_another_machine_are_refused(tmp_path, arguments, tools, said):
    (tmp_path / "WHEELS").mkdir()
    (tmp_path / "WHEELS" / "for").write_text("cuda13,bench 3.11\n")
    process = gpu_sh(tmp_path, *arguments.split(), **tools)
    assert process.returncode == 1 and not process.stdout
    assert process.stderr.startswith(said) and process.stderr.count("\n") == 1
