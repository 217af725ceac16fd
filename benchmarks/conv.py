"""Convolution: ours beside XLA's own and PyTorch's, in GFLOP/s of the direct form, per layer.

    python -m benchmarks.conv            the layers of a U-Net of 32 filters on 64³, four minutes
    python -m benchmarks.conv --small    a smoke test of seconds

Alternates the three and prints medians for the forward pass and both gradients, and our speed-up.
PyTorch needs the extra 'bench' and is skipped without it. On an accelerator ours is XLA's own.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import alternate, those_that_run
from jax_seg.ops.conv import XLA, conv

try:
    import torch

    from benchmarks import torch_device
except ImportError:
    torch = None

# side of the volume, channels in, channels out, side of the kernel
LAYERS = (
    (64, 1, 32, 3),
    (64, 32, 32, 3),
    (64, 64, 32, 3),
    (32, 32, 64, 3),
    (32, 64, 64, 3),
    (32, 128, 64, 3),
    (16, 64, 128, 3),
    (16, 128, 128, 3),
    (16, 256, 128, 3),
    (8, 128, 256, 3),
    (8, 256, 256, 3),
    (8, 512, 256, 3),
    (4, 256, 512, 3),
    (4, 512, 512, 3),
    (64, 32, 1, 1),
)
SMALL = ((12, 8, 8, 3), (4, 4, 4, 3), (4, 4, 2, 1))
PASSES = ("forward", "input", "kernel")


def jax_calls(function, x, kernel, gradient):
    """Pass -> call of `function(x, kernel)` or of one of its gradients."""

    def input_gradient(x, kernel, gradient):
        return jax.vjp(lambda x: function(x, kernel), x)[1](gradient)[0]

    def kernel_gradient(x, kernel, gradient):
        return jax.vjp(lambda kernel: function(x, kernel), kernel)[1](gradient)[0]

    def call(function, *arrays):
        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(*arrays))

    return {
        "forward": call(function, x, kernel),
        "input": call(input_gradient, x, kernel, gradient),
        "kernel": call(kernel_gradient, x, kernel, gradient),
    }


def torch_calls(x, kernel, gradient):
    """The same calls of PyTorch's convolution, its tensors channels last in memory."""
    device = torch_device.device()

    def tensor(array, axes):
        array = torch.from_numpy(np.array(array.transpose(axes)))
        return array.to(device, memory_format=torch.channels_last_3d)

    x, gradient = tensor(x, (0, 4, 1, 2, 3)), tensor(gradient, (0, 4, 1, 2, 3))
    kernel = tensor(kernel, (4, 3, 0, 1, 2))
    ones, half = (1, 1, 1), [kernel.shape[-1] // 2] * 3

    def done(result):
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    def backward(*mask):
        return done(
            torch.ops.aten.convolution_backward(
                gradient, x, kernel, None, ones, half, ones, False, (0, 0, 0), 1, (*mask, False)
            )
        )

    return {
        "forward": lambda: done(torch.nn.functional.conv3d(x, kernel, padding=half)),
        "input": lambda: backward(True, False),
        "kernel": lambda: backward(False, True),
    }


def measure(layer, repeats):
    """(pass, peer) -> GFLOP/s, peers 'ours', 'XLA' and, where it is importable, 'PyTorch'."""
    side, channels, features, size = layer
    generator = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(generator.standard_normal(shape, np.float32))

    x, gradient = (normal(1, side, side, side, width) for width in (channels, features))
    kernel = normal(size, size, size, channels, features)
    peers = {
        "ours": jax_calls(conv, x, kernel, gradient),
        "XLA": jax_calls(XLA.convolve, x, kernel, gradient),
    }
    if torch is not None:
        build = functools.partial(torch_calls, x, kernel, gradient)
        found = those_that_run({"PyTorch": lambda: [*build().values()]}, torch.cuda.empty_cache)
        peers |= {name: dict(zip(PASSES, calls, strict=True)) for name, calls in found.items()}
    work = 2 * channels * features * size**3 * side**3 / 1e9
    rates = {}
    for name in PASSES:
        seconds = alternate({peer: calls[name] for peer, calls in peers.items()}, repeats)
        rates |= {(name, peer): work / taken for peer, taken in seconds.items()}
    return rates


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--small",
        action="store_true",
        help="smoke test: takes seconds, its timings are meaningless",
    )
    arguments = parser.parse_args(argv)
    layers, repeats = (SMALL, 1) if arguments.small else (LAYERS, arguments.repeats)

    print(f"float32, batch 1, {jax.default_backend()}, GFLOP/s, median of {repeats} runs\n")
    print("| layer             | pass    |   ours |    XLA | PyTorch | ours/XLA | ours/PyTorch |")
    print("|-------------------|---------|--------|--------|---------|----------|--------------|")
    for layer in layers:
        rates = measure(layer, repeats)
        side, channels, features, size = layer
        title = f"{side}³ {channels}→{features} {size}³"
        for name in PASSES:
            ours, own = rates[name, "ours"], rates[name, "XLA"]
            peer = rates.get((name, "PyTorch"), float("nan"))
            print(
                f"| {title:17} | {name:7} | {ours:6.1f} | {own:6.1f} | {peer:7.1f} "
                f"| {ours / own:8.2f} | {ours / peer:12.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
