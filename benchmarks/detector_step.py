"""Training step and inference of the detector of camouflaged objects: ours beside PyTorch.

    python -m benchmarks.detector_step --dtype bfloat16     batch 8 of 384² images, on a GPU
    python -m benchmarks.detector_step --batch 1 --side 128 --repeats 3     on a CPU
    python -m benchmarks.detector_step --small              a smoke test of a minute and a half

The network of configs/cod10k.py with the same layers and first weights for all. The loss is binary
cross entropy summed over the logits of all four levels, so that every parameter learns; SGD with
momentum 0.9. The gates' losses are left out: they cost nothing beside the network. Alternates the
contestants and prints medians, how many times faster ours is than PyTorch's eager mode (channels
last in memory; bfloat16 by autocast), and memory.

On a GPU PyTorch also runs compiled, and each contestant is first timed alone, in a line of its own.
PyTorch needs the extra 'bench' and is skipped without it. What cannot run is left out; without ours
the exit status is 1.
"""

import argparse
import functools
import os
import sys
from math import prod

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peers share the device

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import alternate, those_that_run
from configs import cod10k
from jax_seg import models
from jax_seg.models.forward import forward
from jax_seg.system import startup

try:
    import torch

    from benchmarks import torch_device
    from benchmarks.torch_detector import Detector, load
except ImportError:
    torch = None

RATE, MOMENTUM = 1e-3, 0.9
SMALL = {
    "depths": (1, 1, 1, 1),
    "dims": (8, 16, 24, 32),
    "heads": (2, 2, 2, 2),
    "kernel_sizes": (3, 3, 3, 3),
    "experts": ("attention", "context"),
    "active": 1,
    "last_features": 4,
}
"""Fields of the smoke test's network."""


def build(dtype, **fields):
    """Our network: that of configs/cod10k.py but for the given fields."""
    model = cod10k.get_config().model.to_dict()
    return models.build(**model | fields | {"dtype": dtype})


def first_variables(model, side):
    """Random 'params' and 'batch_stats' that keep the features' size, as NumPy arrays."""
    generator = np.random.default_rng(0)  # the model's own initialisation compiles for a minute
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)

    def fill(path, leaf):
        if path[-1].key == "kernel":
            drawn = generator.normal(0, prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        else:
            drawn = generator.uniform(0.5, 1.5, leaf.shape)
        return drawn.astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(fill, shapes)


def jax_contestant(x, label, model, variables):
    """(training call, inference call, bytes of the training program)."""
    optimizer = optax.sgd(RATE, momentum=MOMENTUM)
    params, stats = jax.tree.map(jnp.array, (variables["params"], variables["batch_stats"]))
    x, label, key = jnp.asarray(x), jnp.asarray(label), jax.random.key(0)
    state = {"now": (params, stats, optimizer.init(params))}

    def step(params, stats, moments, x, label, key):
        def objective(params):
            logits, _, new = forward(model, {"params": params, "batch_stats": stats}, x, key)
            losses = (optax.sigmoid_binary_cross_entropy(level, label).mean() for level in logits)
            return sum(losses), new

        (loss, stats), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), stats, moments, loss

    def logits_of(params, stats, x):
        return forward(model, {"params": params, "batch_stats": stats}, x)[0]

    step = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*state["now"], x, label, key).compile()
    infer = jax.jit(logits_of).lower(params, stats, x).compile()
    used = step.memory_analysis()

    def train():
        *state["now"], loss = step(*state["now"], x, label, key)
        jax.block_until_ready((state["now"], loss))

    def inference():
        jax.block_until_ready(infer(*state["now"][:2], x))

    return train, inference, used.temp_size_in_bytes + used.argument_size_in_bytes


def torch_contestant(x, label, model, variables, compiled=False):
    """As `jax_contestant`; the bytes are the peak of a step on a GPU, nan on a CPU."""
    device = torch_device.device()
    x, label = torch.from_numpy(x).to(device), torch.from_numpy(label).to(device)
    peer = Detector(model, x.shape[1])
    load(peer, variables)
    peer = peer.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(peer.parameters(), RATE, momentum=MOMENTUM)
    run = torch.compile(peer) if compiled else peer
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits

    def logits_of(training):
        if peer.training != training:  # which walks over hundreds of layers
            peer.train(training)
        with torch.autocast(device, torch.bfloat16, enabled=model.dtype == "bfloat16"):
            return run(x)

    def train():
        optimizer.zero_grad(set_to_none=True)
        sum(loss_of(level.float(), label) for level in logits_of(training=True)).backward()
        optimizer.step()
        torch_device.synchronise(device)

    @torch.no_grad()
    def inference():
        logits_of(training=False)
        torch_device.synchronise(device)

    return train, inference, torch_device.peak_memory(train, device)


def contestants(x, label, model):
    """name -> (training call, inference call, bytes), ours first if it runs."""
    alone = jax.default_backend() == "gpu"
    variables = first_variables(model, x.shape[1])
    ours = functools.partial(jax_contestant, x, label, model, variables)
    result = those_that_run({"ours": ours}, jax.clear_caches, alone)
    if torch is not None:
        peer = functools.partial(torch_contestant, x, label, model, variables)
        result |= torch_device.contestants(peer, alone)
    return result


def main(argv=None):
    """Print the table; returns 1 if ours is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=384, help="pixels, a multiple of 32")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--small", action="store_true", help="smoke test: its timings are meaningless"
    )
    arguments = parser.parse_args(argv)
    if arguments.side % 32:
        parser.error(f"--side is {arguments.side}; give a multiple of 32")
    startup.convolve_channels_last()
    fields = {}
    if arguments.small:
        fields, arguments.batch, arguments.side, arguments.repeats = SMALL, 2, 32, 1

    model = build(arguments.dtype, **fields)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((arguments.batch, arguments.side, arguments.side, 3), np.float32)
    label = (x[..., :1] > 0).astype(np.float32)
    peers = contestants(x, label, model)
    train = alternate({name: peer[0] for name, peer in peers.items()}, arguments.repeats)
    infer = alternate({name: peer[1] for name, peer in peers.items()}, arguments.repeats)
    ours = [seconds.get("ours", float("nan")) for seconds in (train, infer)]
    print(
        f"detector, {jax.default_backend()}, {arguments.dtype}, batch {arguments.batch} of "
        f"{arguments.side}², median of {arguments.repeats} runs\n"
    )
    print("| contestant       | train s | ours is | infer s | ours is | images/s  | memory GB |")
    print("|" + "|".join("-" * n for n in (18, 9, 9, 9, 9, 11, 11)) + "|")
    for name, (_, _, memory) in peers.items():
        print(
            f"| {name:16} "
            f"| {train[name]:7.3f} | {train[name] / ours[0]:6.2f}× "
            f"| {infer[name]:7.3f} | {infer[name] / ours[1]:6.2f}× "
            f"| {arguments.batch / train[name]:9.2f} | {memory / 1e9:9.2f} |"
        )
    return int("ours" not in peers)


if __name__ == "__main__":
    sys.exit(main())
