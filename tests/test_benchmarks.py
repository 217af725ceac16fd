"""The benchmarks of speed run and print a line for every contestant."""

import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
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


def test_losses(capsys):
    losses.main(rehearsed("losses"))
    rows = re.findall(r"^\| (.+?) +\| +[\d.]+ \|", capsys.readouterr().out, re.MULTILINE)
    assert {*losses.LOSSES} < {*rows} and sum(row.startswith("step: ") for row in rows) == 2


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
