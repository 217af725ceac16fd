"""Training step and inference of the 3-D U-Nets: ours beside PyTorch, with the same layers.

    python -m benchmarks.train_step                 16 filters on 48³ and 32 on 64³, three minutes
    python -m benchmarks.train_step --model residual_unet       beside nnU-Net's own, ten minutes
    python -m benchmarks.train_step --filters 32 --size 128 --batch 2 --dtype bfloat16     on a GPU
    python -m benchmarks.train_step --filters 16 --patch 16 96 96 --batch 2 [--planar 2]
    python -m benchmarks.train_step --small         a smoke test of half a minute

Binary cross entropy, SGD with momentum 0.9. Alternates the contestants and prints medians, how many
times faster ours is than PyTorch's eager mode (channels last in memory; bfloat16 by autocast),
memory, the processor time of compiling ours, and the share of a floor: the time of as many
operations, of the direct convolutions alone, at the speed of a large matrix product. Winograd's
form needs fewer, so on a CPU it can pass 1. What cannot run is left out; without ours the exit
status is 1.

On a CPU ours also runs with XLA's own convolution. On a GPU PyTorch also runs channels first and
compiled (not with --eager), and each contestant is first timed alone, in a line of its own. PyTorch
needs the extra 'bench' and is skipped without it. The residual network's peer is that of nnU-Net's
package dynamic-network-architectures, channels doubled up to ten times the filters.
"""

import argparse
import functools
import os
import sys
import time
from math import prod
from typing import NamedTuple
from unittest import mock

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peers share the device

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_seg.ops.conv as convolution
from benchmarks.timing import alternate, those_that_run
from jax_seg.models import residual_unet, unet
from jax_seg.models.forward import forward
from jax_seg.system import startup

try:
    import torch

    from benchmarks import torch_device
    from benchmarks.torch_unet import UNet
except ImportError:
    torch = None

WIDEST = 10  # times the filters of the finest level: 320 for 32, as nnU-Net limits it


class Network(NamedTuple):
    """A network to compare, ours and its peer.

    Attributes:
      name: 'unet' or 'residual_unet'.
      filters: channels of the finest level.
      poolings: number of levels below the finest.
      planar: number of finest levels that do not change depth, `planar_levels` of our models.
    """

    name: str
    filters: int
    poolings: int
    planar: int = 0


def features_of(network):
    """Channels of each level, finest first."""
    doubled = (network.filters << level for level in range(network.poolings + 1))
    if network.name == "unet":
        return tuple(doubled)
    return tuple(min(features, WIDEST * network.filters) for features in doubled)


def kernels_of(network):
    """Size of each level's kernels, finest first."""
    return [(1 if n < network.planar else 3, 3, 3) for n in range(network.poolings + 1)]


def strides_of(network):
    """Strides of each level from the one above, finest first."""
    below = [(1 if n < network.planar else 2, 2, 2) for n in range(network.poolings)]
    return [(1, 1, 1), *below]


def build(network, dtype):
    """Our network."""
    _, filters, poolings, planar = network
    options = {"filters": filters, "poolings": poolings, "planar_levels": planar, "dtype": dtype}
    if network.name == "unet":
        return unet.Model(**options)
    return residual_unet.Model(features=features_of(network), **options)


def build_torch(network):
    """The same network in PyTorch."""
    levels = network.poolings + 1
    if network.name == "unet":
        return UNet(network.filters, network.poolings, network.planar)
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    blocks = [residual_unet.BLOCKS[min(n, len(residual_unet.BLOCKS) - 1)] for n in range(levels)]
    return ResidualEncoderUNet(
        1,
        levels,
        features_of(network),
        torch.nn.Conv3d,
        kernels_of(network),
        strides_of(network),
        blocks,
        1,
        1,
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def network_operations(network, patch, batch):
    """Multiplications and additions of one inference's convolutions, in their direct form.

    Args:
      network: a `Network`.
      patch: voxels along each axis.
      batch: number of patches.
    """
    features, residual = features_of(network), network.name == "residual_unet"
    size, voxels = tuple(patch), []
    for stride in strides_of(network):
        size = tuple(length // step for length, step in zip(size, stride, strict=True))
        voxels.append(batch * prod(size))
    entries = [prod(kernel) for kernel in kernels_of(network)]
    stem = residual * entries[0] * voxels[0] * features[0]
    total, before = stem + voxels[0] * features[0], features[0] if residual else 1
    for level, width in enumerate(features):
        convolved = entries[level] * voxels[level] * width
        if residual:
            blocks = residual_unet.BLOCKS[min(level, len(residual_unet.BLOCKS) - 1)]
            total += convolved * (before + (2 * blocks - 1) * width)
            total += voxels[level] * before * width * (before != width)
        else:
            total += convolved * (before + width)
        if level < network.poolings:  # the decoder and, from the level below, its upsampling
            total += convolved * (2 * width if residual else 3 * width)
            total += voxels[level] * features[level + 1] * width
        before = width
    return 2 * total


def matmul_speed(dtype, repeats):
    """Operations per second of a large matrix product on the default device."""
    side = 8192 if jax.default_backend() == "gpu" else 2048
    a = jnp.ones((side, side), dtype)
    product = jax.jit(jnp.matmul)
    call = {"product": lambda: jax.block_until_ready(product(a, a))}
    return 2 * side**3 / alternate(call, repeats)["product"]


def jax_contestant(x, label, network, dtype):
    """(training call, inference call, bytes of the training program, seconds of compiling it)."""
    model = build(network, dtype)
    optimizer = optax.sgd(1e-3, momentum=0.9)
    generator = np.random.default_rng(0)  # the model's own initialisation compiles for seconds
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(0, 0.02, leaf.shape), leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), x),
    )
    state = {"now": (variables, optimizer.init(variables))}

    def logits_of(variables, x):
        return forward(model, variables, x)[0]

    def step(variables, moments, x, label):
        def objective(variables):
            return optax.sigmoid_binary_cross_entropy(logits_of(variables, x), label).mean()

        loss, gradient = jax.value_and_grad(objective)(variables)
        updates, moments = optimizer.update(gradient, moments, variables)
        return optax.apply_updates(variables, updates), moments, loss

    began = time.process_time()
    step = jax.jit(step, donate_argnums=(0, 1)).lower(*state["now"], x, label).compile()
    compiling = time.process_time() - began
    infer = jax.jit(logits_of).lower(variables, x).compile()
    used = step.memory_analysis()

    def train():
        *state["now"], loss = step(*state["now"], x, label)
        jax.block_until_ready((state["now"], loss))

    def inference():
        jax.block_until_ready(infer(state["now"][0], x))

    held = used.temp_size_in_bytes + used.argument_size_in_bytes
    return train, inference, held, compiling


def torch_contestant(x, label, network, dtype, compiled=False, channels_first=False):
    """As `jax_contestant`, compiling not measured; bytes: the peak of a step on a GPU, else nan."""
    device, layout = torch_device.device(), torch_device.layout(channels_first)

    def tensor(array):
        array = torch.from_numpy(np.array(jnp.moveaxis(array, -1, 1)))
        return array.to(device, memory_format=layout)

    x, label = tensor(x), tensor(label)
    model = build_torch(network).to(device, memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    run = torch.compile(model) if compiled else model
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits

    def forward():
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return run(x)

    def train():
        optimizer.zero_grad(set_to_none=True)
        loss_of(forward().float(), label).backward()
        optimizer.step()
        torch_device.synchronise(device)

    @torch.no_grad()
    def inference():
        forward()
        torch_device.synchronise(device)

    return train, inference, torch_device.peak_memory(train, device), float("nan")


def contestants(x, label, network, dtype, eager=False):
    """name -> (training call, inference call, bytes, seconds of compiling), ours first if it runs.

    Args:
      x, label: of the step.
      network, dtype: a `Network` and its type.
      eager: leave out the compiled peer.
    """
    alone = jax.default_backend() == "gpu"
    ours = functools.partial(jax_contestant, x, label, network, dtype)
    result = those_that_run({"ours": ours}, jax.clear_caches, alone)
    if not alone:
        jax.clear_caches()  # a traced convolution keeps its form
        with (
            mock.patch.object(convolution, "cpu_form", lambda *_: convolution.XLA),
            mock.patch.object(convolution, "strided_form", lambda *_: None),
        ):
            result |= those_that_run({"XLA's own": ours}, jax.clear_caches)
        jax.clear_caches()
    if torch is not None:
        peer = functools.partial(torch_contestant, x, label, network, dtype)
        result |= torch_device.contestants(peer, alone, not eager, channels_first=True)
    return result


def main(argv=None):
    """Print the table; returns 1 if ours is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("unet", "residual_unet"), default="unet")
    parser.add_argument(
        "--filters", type=int, help="filters of the finest level (default: both cases)"
    )
    parser.add_argument("--size", type=int, default=64, help="voxels along each axis")
    parser.add_argument(
        "--patch",
        type=int,
        nargs=3,
        metavar=("D", "H", "W"),
        help="voxels along the axes, if unequal",
    )
    parser.add_argument(
        "--planar", type=int, default=0, help="number of finest levels that do not change depth"
    )
    parser.add_argument("--poolings", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), help="device to run on (default: JAX's own choice)"
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--eager", action="store_true", help="leave PyTorch compiled out, which takes long to build"
    )
    parser.add_argument(
        "--small", action="store_true", help="smoke test: its timings are meaningless"
    )
    arguments = parser.parse_args(argv)
    startup.convolve_channels_last()
    patch = tuple(arguments.patch or (arguments.size,) * 3)
    cases = [(16, (48,) * 3), (32, (64,) * 3)]
    if arguments.patch or arguments.filters:
        cases = [(arguments.filters or 16, patch)]
    if arguments.small:
        cases, arguments.poolings, arguments.repeats = [(4, (8,) * 3)], 1, 1
    if arguments.device:
        jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[arguments.device])

    speed, missing = matmul_speed(arguments.dtype, arguments.repeats), False
    print(
        f"{arguments.model}, {jax.default_backend()}, {arguments.dtype}, batch {arguments.batch}, "
        f"{arguments.planar} planar levels, "
        f"median of {arguments.repeats} runs; matrix product {speed / 1e12:.2f} TFLOP/s\n"
    )
    for filters, patch in cases:
        generator = np.random.default_rng(0)
        shape = (arguments.batch, *patch, 1)
        x = jnp.asarray(generator.standard_normal(shape, np.float32))
        label = (x > 0).astype(jnp.float32)
        network = Network(arguments.model, filters, arguments.poolings, arguments.planar)
        peers = contestants(x, label, network, arguments.dtype, arguments.eager)
        print_table(peers, network, patch, arguments.batch, speed, arguments.repeats)
        missing |= "ours" not in peers
    return int(missing)


def print_table(peers, network, patch, batch, speed, repeats):
    """Time the contestants of a case and print its table.

    Args:
      peers: of `contestants`.
      network: a `Network`.
      patch: voxels along each axis.
      batch: number of patches.
      speed: operations per second of the floor.
      repeats: turns of each.
    """
    train = alternate({name: peer[0] for name, peer in peers.items()}, repeats)
    infer = alternate({name: peer[1] for name, peer in peers.items()}, repeats)
    ours = [seconds.get("ours", float("nan")) for seconds in (train, infer)]
    # A training step has two gradients where inference has one product.
    operations = 3 * network_operations(network, patch, batch)
    size = f"{patch[0]}³" if len(set(patch)) == 1 else "×".join(map(str, patch))
    print(
        "| filters, size | contestant             | train s | ours is | infer s | ours is ", end=""
    )
    print("| patches/s | share of floor | memory GB | compiled in s |")
    print("|" + "|".join("-" * n for n in (15, 24, 9, 9, 9, 9, 11, 16, 11, 15)) + "|")
    title = f"{network.filters}, {size}"
    for name, (_, _, memory, compiling) in peers.items():
        print(
            f"| {title:13} | {name:22} "
            f"| {train[name]:7.3f} | {train[name] / ours[0]:6.2f}× "
            f"| {infer[name]:7.3f} | {infer[name] / ours[1]:6.2f}× "
            f"| {batch / train[name]:9.2f} "
            f"| {operations / speed / train[name]:14.2f} | {memory / 1e9:9.2f} "
            f"| {compiling:13.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
