"""The benchmarks of speed run and print a line for every contestant."""

import re
import shutil
import subprocess
import time
import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from benchmarks import (
    conv,
    detector_step,
    gpu,
    input,
    losses,
    own_step,
    scale,
    timing,
    train_step,
)
from tests.conftest import ROOT, TIME_LIMIT


def rehearsed(name):
    """The flags with which the rehearsal for a card starts a benchmark."""
    (one,) = (one for one in gpu.BENCHMARKS if one.name == name)
    return f"{one.command} {one.small}".split()[2:]


def test_conv(capsys):
    conv.main(["--small"])
    lines = capsys.readouterr().out.splitlines()
    assert sum("→" in line for line in lines) == len(conv.SMALL) * len(conv.PASSES)


def test_train_step(capsys):
    assert train_step.main(rehearsed("train_step_batch_2")) == 0
    output = capsys.readouterr().out
    assert "| ours  " in output and "matrix product" in output


def test_peers_are_timed_without_ours(capsys, monkeypatch):
    build = train_step.jax_contestant
    made = []

    def lacks_memory_at_first(*arguments):
        made.append(arguments)
        if len(made) == 1:
            raise MemoryError("no room")
        return build(*arguments)

    monkeypatch.setattr(train_step, "jax_contestant", lacks_memory_at_first)
    assert train_step.main(rehearsed("train_step_batch_2")) == 1
    output = capsys.readouterr().out
    assert "ours is left out (MemoryError: no room)" in output and "| ours  " not in output
    (row,) = (line for line in output.splitlines() if "| XLA's own " in line)
    assert row.count("nan×") == 2 and float(row.split("|")[3]) > 0


def test_detector_step(capsys):
    assert detector_step.main(rehearsed("detector_beside_torch")) == 0
    assert "| ours  " in capsys.readouterr().out


def test_input(capsys):
    assert input.main(rehearsed("input")) > 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(re.search(r"^(loader|steps) .* \d+\.\d+$", line) is not None for line in lines) == 3


def test_blocks_beside_the_whole_volume(capsys):
    sizes = "--size 32 --block 16 --patch 16 --filters 1 --overlap 0.25"
    assert scale.main(["overhead", *sizes.split()]) == 0
    # Windows start at 0, 8 and 16 along an axis; blocks are touched by 2 of the 3 each.
    assert "137 % of the windows computed again" in " ".join(capsys.readouterr().out.split())


def test_own_step(capsys):
    own_step.main(rehearsed("step_of_v6"))
    output = capsys.readouterr().out
    assert "batch 1, bfloat16" in output and " GB foretold" in output
    shares = [float(share) for share in re.findall(r"([\d.]+)% of the device's time", output)]
    assert len(shares) == own_step.KERNELS and sum(shares) <= 100 and shares[0] > 0


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


def test_losses(capsys):
    losses.main(rehearsed("losses"))
    rows = re.findall(r"^\| (.+?) +\| +[\d.]+ \|", capsys.readouterr().out, re.MULTILINE)
    assert {*losses.LOSSES} < {*rows} and sum(row.startswith("step: ") for row in rows) == 2


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


def test_a_peer_that_fails_costs_nothing_else(capsys):
    alive = []

    def build():
        held = np.zeros(3)
        alive.append(weakref.ref(held))

        def uncalled():
            raise MemoryError(f"no room\nfor {len(held)}")

        return int, uncalled, 3.0

    def fails():
        build()[1]()

    builders = {
        "good": lambda: (int, int, 3.0),
        "unbuilt": fails,
        "uncalled": build,
    }
    released = []
    found = timing.those_that_run(builders, lambda: released.append(alive[-1]() is None))
    assert [*found] == ["good"] and released == [True, True]
    said = capsys.readouterr().out
    assert said == (
        "unbuilt is left out (MemoryError: no room)\nuncalled is left out (MemoryError: no room)\n"
    )


def test_each_is_timed_alone_before_the_next_is_built(capsys):
    """Which may end the process, or take the time that is left."""
    printed, calls = [], []

    def build():
        printed.append(capsys.readouterr().out)
        return (lambda: calls.append("train")), (lambda: calls.append("infer")), 3.0

    timing.those_that_run({"ours": build, "peer": build}, int, alone=True)
    assert printed[0] == ""
    assert re.fullmatch(r"ours alone: train \d+\.\d{3} s, infer \d+\.\d{3} s\n", printed[1])
    assert calls[:6] == ["train", "infer", "train", "train", "infer", "infer"]


def test_on_a_card_ours_is_timed_alone(capsys, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(train_step, "matmul_speed", lambda dtype, repeats: 1e12)
    monkeypatch.setattr(train_step, "torch", None)
    assert train_step.main(rehearsed("train_step_batch_2")) == 0
    output = capsys.readouterr().out
    assert output.index("ours alone: train ") < output.index("| ours  ")


def test_inference_agrees_with_its_peer():
    pytest.importorskip("monai")
    pytest.importorskip("torch")
    from benchmarks import inference

    assert inference.main(rehearsed("inference")) < 1e-4


def test_operations_of_a_network_by_hand():
    # 2 filters, 1 pooling, 4³: encoder 1→2→2 and decoder 4→2→2 on 64 voxels, bottleneck 2→4→4 and
    # the transposed convolution 4→2 on 8 (8·8·4·2 products), output 2→1.
    products = 27 * 64 * (2 + 4 + 8 + 4) + 27 * 8 * (8 + 16) + 8 * 8 * 4 * 2 + 64 * 2
    network = train_step.Network("unet", 2, 1)
    assert train_step.network_operations(network, (4, 4, 4), 1) == 2 * products


def test_operations_of_a_planar_network_by_hand():
    # 2 filters, 1 pooling, 2×4×4 twice: kernels of 9 entries on 64 voxels, of 27 on 16.
    products = 9 * 64 * (2 + 4 + 8 + 4) + 27 * 16 * (8 + 16) + 64 * 4 * 2 + 64 * 2
    network = train_step.Network("unet", 2, 1, 1)
    assert train_step.network_operations(network, (2, 4, 4), 2) == 2 * products


def test_the_peer_of_a_planar_network_has_its_parameters_and_output():
    torch = pytest.importorskip("torch")
    network = train_step.Network("unet", 2, 2, 1)
    ours, peer = train_step.build(network, "float32"), train_step.build_torch(network)
    x = jnp.zeros((1, 2, 8, 8, 1))
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == sum(parameter.numel() for parameter in peer.parameters())
    assert peer(torch.zeros(1, 1, 2, 8, 8)).shape == (1, 1, 2, 8, 8)


def test_the_peer_of_the_detector_has_its_parameters_and_logits():
    torch = pytest.importorskip("torch")
    from benchmarks.torch_detector import EXPERTS, Detector, load

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    whole = detector_step.build("float32")
    shapes = jax.eval_shape(whole.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    with torch.device("meta"):
        assert count(shapes) == sum(p.numel() for p in Detector(whole, 32).parameters())

    # Every kind of layer: kernels and cascades of several sizes, all experts, one not chosen.
    every = {"depths": (1, 2, 1, 1), "kernel_sizes": (3, 5, 7, 9)}
    every |= {"experts": tuple(EXPERTS), "active": 6}
    model = detector_step.build("float32", **detector_step.SMALL | every)
    variables = detector_step.first_variables(model, 64)
    x = np.random.default_rng(1).standard_normal((2, 64, 64, 3), np.float32)
    with jax.default_matmul_precision("highest"):  # also on a GPU
        ours, gates = jax.jit(model.apply)(variables, x)
    assert (gates["expert_use"].max(0) > 0).all()  # those not chosen anywhere would not count
    peer = Detector(model, 64).eval()
    load(peer, variables)
    with torch.no_grad():
        theirs = peer(torch.from_numpy(x))
    for logits, same in zip(ours, theirs, strict=True):
        assert logits.std() > 0.1  # weights that faded on the way would agree as well
        np.testing.assert_allclose(logits, same.numpy(), atol=1e-4, rtol=0)


def test_alternate_takes_turns_and_skips_the_first_of_each(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    assert timing.alternate(calls, 2) == {"a": 1, "b": 1}
    assert "".join(order) == "aabbaabb"


def test_operations_of_a_residual_network_by_hand():
    """A stem, blocks of 2 and 4 channels, one decoder convolution; 64 and 8 voxels."""
    fine = 27 * 64 * (2 + 2 * 2 * 2)  # the stem, and one block
    coarse = 27 * 8 * (2 * 4 + 5 * 4 * 4) + 8 * 2 * 4  # three blocks, the first projects
    decoder = 8 * 4 * 2 * 8 + 27 * 64 * 4 * 2
    products = fine + coarse + decoder + 64 * 2
    network = train_step.Network("residual_unet", 2, 1)
    assert train_step.network_operations(network, (4, 4, 4), 1) == 2 * products
