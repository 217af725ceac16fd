"""The device that a plan is for: its memory, and how fast it trains."""

import math
import os
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_seg.ops.conv import conv
from jax_seg.system import cards
from jax_seg.training.find_batch import card_bytes, device_bytes, machine_bytes

SIDE = 32  # voxels along an axis of the volume whose convolution is timed
TIMED = 0.5  # seconds for each width
WIDTHS = (32, 24, 16, 8)  # filters that are considered, the widest first
UTILISATION = 0.4
"""Share of a convolution's rate that a training step reaches on a CPU, counted for direct
convolution: 16 filters on 16×96×96 train at 120 GFLOP/s where that convolution runs at 300."""


class Machine(NamedTuple):
    """A device.

    Attributes:
      name: for sentences.
      memory: bytes for training.
      rates: {filters: floating-point operations per second of a training step}, by WIDTHS; None if
        unknown.
      card: `cards.Card` to compile for, which need not be there; None for the device at hand.
    """

    name: str
    memory: int
    rates: dict | None
    card: cards.Card | None = None

    @property
    def is_gpu(self):
        """Whether convolutions run on tensor cores."""
        return self.rates is None


def machine(device=""):
    """The `Machine` of a name.

    Args:
      device: 'cpu'; a card of `cards.CARDS`; memory of a card, such as '24 GB'; '' for the device
        at hand.

    Raises:
      ValueError: none of these.
    """
    if device in ("", "cpu"):
        if device == "" and jax.default_backend() != "cpu":
            return Machine(jax.devices()[0].device_kind, device_bytes(), None)
        with jax.default_device(jax.devices("cpu")[0]):  # though there may be a card
            rates = {filters: UTILISATION * _rate(filters) for filters in WIDTHS}
        return Machine(f"{os.cpu_count()} CPU cores", machine_bytes(), rates)
    if device in cards.CARDS:
        card = cards.CARDS[device]
        return Machine(card.name, card_bytes(card), None, card)
    size = re.fullmatch(r"(\d+(?:\.\d+)?) ?G(i?)B", device, re.IGNORECASE)
    if not size or float(size[1]) == 0:
        raise ValueError(
            f"There is no device '{device}'; choose cpu, {', '.join(cards.CARDS)}, or memory such "
            "as '24 GB'."
        )
    memory = int(float(size[1]) * (2**30 if size[2] else 1e9))
    card = cards.CARDS["rtx4090"]._replace(name=f"a card of {device}", memory=memory)
    return Machine(card.name, card_bytes(card), None, card)


def _rate(filters):
    """Operations per second of a 3×3×3 convolution on this machine, the best of many.

    Wider ones use a processor better. One takes milliseconds, in which other programs may hold the
    processor: a few in a row say little.
    """
    x_BDHWC = jnp.ones((1, SIDE, SIDE, SIDE, filters))
    kernel = jnp.ones((3, 3, 3, filters, filters))
    run = jax.jit(conv)
    run(x_BDHWC, kernel).block_until_ready()
    best, end = math.inf, time.perf_counter() + TIMED
    while (began := time.perf_counter()) < end or math.isinf(best):
        run(x_BDHWC, kernel).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * 27 * filters**2 * SIDE**3 / best
