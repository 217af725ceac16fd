"""Time of each loss, and the cost of clDice and boundary in a training step of a U-Net.

python benchmarks/losses.py --size 64       on the CPU
python benchmarks/losses.py --size 128      on a GPU
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import alternate
from jax_seg.losses import LOSSES, combine
from jax_seg.models.forward import forward
from jax_seg.models.unet import Model
from jax_seg.system import startup

OPTIONS = {"focal": {"alpha": 0.5, "gamma": 2.0}}


def loss_gradient(name, logits, label, mask):
    """() -> (total, gradient) of one loss, compiled; label and mask arguments, not constants."""

    @jax.jit
    @jax.value_and_grad
    def total(logits, label, mask):
        return combine(logits, label, mask, {name: 1.0}, options=OPTIONS)[0]

    return lambda: jax.block_until_ready(total(logits, label, mask))


def training_step(model, variables, terms, image, label, mask):
    """() -> parameters and momentum after a step of SGD on the sum of `terms`, compiled."""
    weights = dict.fromkeys(terms, 1.0)
    optimizer = optax.sgd(1e-3, momentum=0.99, nesterov=True)
    momentum = optimizer.init(variables)

    @jax.jit
    def step(variables, momentum, image, label, mask):
        def total(variables):
            logits, _, _ = forward(model, variables, image)
            return combine(logits, label, mask, weights, options=OPTIONS)[0]

        updates, momentum = optimizer.update(jax.grad(total)(variables), momentum, variables)
        return optax.apply_updates(variables, updates), momentum

    return lambda: jax.block_until_ready(step(variables, momentum, image, label, mask))


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="side of the patch in voxels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--poolings", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--small",
        action="store_true",
        help="smoke test: takes seconds, its timings are meaningless",
    )
    arguments = parser.parse_args(argv)
    startup.convolve_channels_last()
    if arguments.small:
        arguments.size, arguments.filters, arguments.poolings, arguments.repeats = 8, 2, 0, 1

    model = Model(filters=arguments.filters, poolings=arguments.poolings)
    shape = (arguments.batch, *(arguments.size,) * 3, 1)
    random = np.random.default_rng(0)
    image = jnp.asarray(random.normal(size=shape), jnp.float32)
    sheets = sum(np.indices(shape)[1:4]) % 16 < 2  # tilted, two voxels thin
    label = jnp.asarray(sheets, jnp.uint8)
    mask = jnp.asarray(random.random(shape) < 0.6)

    times = alternate(
        {name: loss_gradient(name, image, label, mask) for name in LOSSES}, arguments.repeats
    )
    plain, more = ("dice", "focal"), ("dice", "focal", "boundary", "cldice")
    variables = jax.jit(model.init)(jax.random.key(0), image[:, :16, :16, :16])
    steps = alternate(
        {
            terms: training_step(model, variables, terms, image, label, mask)
            for terms in (plain, more)
        },
        arguments.repeats,
    )

    print(f"{jax.devices()[0].device_kind}, patch {shape}, U-Net with {arguments.filters} filters:")
    print("median of alternating runs, forward and backward; share of the step with dice and focal")
    print(f"\n| {'loss or step':38} | {'ms':>9} | {'share':>8} |")
    print(f"|{'-' * 40}|{'-' * 11}|{'-' * 10}|")
    rows = times | {f"step: {' + '.join(terms)}": value for terms, value in steps.items()}
    for name, value in rows.items():
        print(f"| {name:38} | {1e3 * value:9.2f} | {value / steps[plain]:8.1%} |")


if __name__ == "__main__":
    main()
