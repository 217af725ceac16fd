"""The training step of a configuration as it trains: time, memory and its largest kernels.

    python -m benchmarks.own_step --config configs/v6.py --config.data.batch=8
    python -m benchmarks.own_step                             versions and device alone
    python -m benchmarks.own_step --card                      … and whether JAX trains on a GPU

Augmentation, losses, clipping, optimizer and averages included, on made-up data that lie on the
device. Prints the bytes that the compiler foretells beside those that were held, milliseconds and
samples per second, and what a profile says of the device's time.
"""

import argparse
import collections
import importlib.metadata
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # memory in use, not reserved

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import alternate, in_a_line
from jax_seg.system import config_file, configuration, startup
from jax_seg.training import find_batch

VERSIONS = (
    *("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "flax", "torch", "monai"),
)
KERNELS = 3
AROUND = ("ThunkExecutor::Execute",)  # on a CPU: the time of all kernels


def main(argv=None):
    """Run the command line.

    Raises:
      SystemExit: with --card, if JAX does not train on a GPU.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="of volumes or images; its fields may follow")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    parser.add_argument(
        "--card",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="end with status 1 unless JAX convolves on a GPU",
    )
    arguments, fields = parser.parse_known_args(argv)
    startup.prepare()
    print(", ".join(f"{name} {v}" for name in VERSIONS if (v := _version(name))))
    device = jax.local_devices()[0]
    print(f"{len(jax.local_devices())} × {device.device_kind} ({jax.default_backend()})")
    if arguments.card and (fault := _fault_of_card()):
        sys.exit(fault)
    if not arguments.config:
        return
    config = config_file.load(arguments.config)
    configuration.override(config, dict(configuration.parse_override(text) for text in fields))
    print(f"{arguments.config}, batch {config.data.batch}, {config.model.dtype}")
    jax.config.update("jax_enable_compilation_cache", False)  # reading it is no compiling
    _measure(config, arguments.steps, device)


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fault_of_card():
    """Why JAX does not train on a GPU, or ''. By itself it falls back to the CPU in silence."""
    if (backend := jax.default_backend()) != "gpu":
        return (
            f"JAX computes on the {backend}, not on a GPU: install the extra that "
            "'benchmarks/gpu.sh extras' names, in an environment of its own."
        )
    x = jnp.ones((1, 16, 16, 16, 16), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 3, 16, 16), jnp.bfloat16)

    def objective(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
        return y.astype(jnp.float32).sum()

    try:
        jax.block_until_ready(jax.jit(jax.grad(objective, (0, 1)))(x, kernel))
    except Exception as error:
        return (
            f"A convolution fails on the GPU ({in_a_line(error)}): install the extra that "
            "'benchmarks/gpu.sh extras' names, in an environment of its own."
        )
    return ""


def _measure(config, steps, device):
    step, (state, batch, knobs, accumulate) = find_batch.abstract_programs(config)["train"]
    began = time.perf_counter()
    compiled = step.lower(state, batch, knobs, accumulate).compile()
    print(f"compiled in {time.perf_counter() - began:.1f} s")
    generator = np.random.default_rng(0)
    kept = {"state": _filled(state, generator)}
    batch, knobs = _filled(batch, generator), jax.tree.map(lambda _: jnp.float32(1e-3), knobs)

    def call():
        kept["state"], metrics = compiled(kept["state"], batch, knobs)
        jax.block_until_ready((kept["state"], metrics))

    seconds = alternate({"step": call}, steps)["step"]
    samples = len(jax.tree.leaves(batch)[0])
    print(f"{1e3 * seconds:.1f} ms a step, {samples / seconds:.2f} samples/s (median of {steps})")
    memory = compiled.memory_analysis()
    foretold = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    held = (device.memory_stats() or {}).get("peak_bytes_in_use", float("nan"))
    print(f"memory: {foretold / 1e9:.2f} GB foretold, {held / 1e9:.2f} GB held at most")
    for name, share in _profile(call):
        print(f"  {share:5.1%} of the device's time  {name}")


def _filled(abstract, generator):
    """Arrays for shapes: small random numbers, or labels and grey values for integers."""

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(generator.normal(0, 0.02, leaf.shape), leaf.dtype)
        if leaf.ndim:
            return jnp.asarray(generator.integers(0, 2, leaf.shape), leaf.dtype)
        return jnp.zeros((), leaf.dtype)

    return jax.tree.map(fill, abstract)


def _profile(call):
    """[(kernel, share of the device's time)] of the largest in a profile of one call."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        (file,) = Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    on_device = [plane for plane in planes if "/device:GPU" in plane.name]
    times = collections.Counter()
    for plane in on_device or [plane for plane in planes if plane.name.startswith("/host:CPU")]:
        for line in plane.lines:
            if ("Stream" if on_device else "XLAEigen") in line.name:
                for event in line.events:
                    if event.name not in AROUND:
                        times[event.name] += event.duration_ns
    total = sum(times.values())
    return [(name, taken / total) for name, taken in times.most_common(KERNELS)]


if __name__ == "__main__":
    main()
