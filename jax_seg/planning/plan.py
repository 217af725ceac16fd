"""A plan: facts of the data, decisions in order, and a configuration that carries them."""

from typing import NamedTuple

import jax

from jax_seg.planning import rules
from jax_seg.planning.facts import Facts, gather
from jax_seg.planning.machine import machine
from jax_seg.planning.rules import Decision
from jax_seg.system import configuration
from jax_seg.training.find_batch import step_bytes

SHRUNK = 0.75  # of the patch's sides, where not even one fits
SMALLEST = 16  # voxels of the longest side of a patch that is tried


class Plan(NamedTuple):
    """What was chosen.

    Attributes:
      facts: `Facts`.
      decisions: list of `Decision`; fields that the user has set are in none.
    """

    facts: Facts
    decisions: list

    @property
    def fields(self):
        """{dotted path: value} of all decisions."""
        return {path: value for one in self.decisions for path, value in one.fields.items()}


def make_plan(config, *, device="", minutes=60.0, given=None):
    """Choose the settings of a run on volumes.

    Args:
      config: ConfigDict of `configs/base.py` with the data's root, and what the user has set.
      device: of `machine.machine`.
      minutes: that the run may take.
      given: {dotted path: value} that the user has set: nothing replaces these.

    Returns:
      Plan.

    Raises:
      ValueError, FileNotFoundError: bad input, naming the file or the field, or a device that is
        too small for any patch.
    """
    if minutes <= 0:
        raise ValueError(f"train.minutes is {minutes}; give a plan the time that the run may take.")
    given = dict(given or {})
    facts, here = gather(config, given), machine(device)
    shape = rules.geometry(facts, here)
    width, updates = rules.width(here, shape.fields | given, minutes)
    decisions = [
        rules.labels(facts),
        rules.validation(facts),
        rules.preprocessing(facts),
        rules.augmentation(facts),
        shape,
        width,
        rules.sampling(facts),
        rules.training(minutes, updates),
        rules.device(here),
    ]
    decisions = [_without(one, given) for one in decisions if one]
    if here.is_gpu:
        decisions.append(_batch(config, decisions, here, given))
    return Plan(facts, [one for one in decisions if one.fields])


def _without(decision, given):
    fields = {path: value for path, value in decision.fields.items() if path not in given}
    return decision._replace(fields=fields)


def _batch(config, decisions, here, given):
    """The largest batch that fits, by the compiled program; a smaller patch where not even 1 does.

    Its memory grows in proportion to the batch, so two compilations say how many fit.
    """
    config = config.copy_and_resolve_references()
    configuration.override(config, Plan(None, decisions).fields)
    if here.card:  # a plugin that has looked for its device in vain compiles for none
        jax.config.update("jax_platforms", "cpu")
        config.devices.update(count=1, space=1)
    fields = {}
    while True:
        needed = _bytes(config, here, 1)
        if needed <= here.memory:
            break
        patch = tuple(max(int(n * SHRUNK) // 8 * 8, 8) for n in config.data.patch)
        if "data.patch" in given or max(patch) < SMALLEST or patch == config.data.patch:
            raise ValueError(
                f"{here.name} gives training {here.memory / 2**30:.1f} GiB, and a single patch of "
                f"{config.data.patch} voxels needs {needed / 2**30:.1f}; choose a larger device, "
                "fewer model.filters, or model.rematerialise=True."
            )
        config.data.patch = fields["data.patch"] = patch
    each = max(_bytes(config, here, 2) - needed, 1)
    fits = 1 + int((here.memory - needed) / each)
    batch = min(fits, rules.LARGEST_BATCH)
    if "data.batch" not in given:
        fields["data.batch"] = batch
    return Decision(
        "batch",
        fields,
        f"a patch takes {each / 2**30:.2g} GiB as compiled for {here.name}, which gives training "
        f"{here.memory / 2**30:.3g}; more than {rules.LARGEST_BATCH} wait for larger patches",
    )


def _bytes(config, here, batch):
    config.data.batch = batch
    return step_bytes(config, here.card)
