"""A plan: facts of the data, decisions in order, and a configuration that carries them."""

import math
from typing import NamedTuple

import jax

from jax_seg.planning import geometry, rules
from jax_seg.planning.facts import Facts, gather
from jax_seg.planning.machine import machine
from jax_seg.planning.rules import Decision
from jax_seg.system import configuration, devices
from jax_seg.training.find_batch import step_bytes

SMALLEST = 16**3  # voxels of a patch that is tried


class Plan(NamedTuple):
    """What was chosen.

    Attributes:
      facts: `Facts`.
      decisions: list of `Decision`; fields that the user has set are in none.
      device: name of the device.
    """

    facts: Facts
    decisions: list
    device: str

    @property
    def fields(self):
        """{dotted path: value} of all decisions."""
        return {path: value for one in self.decisions for path, value in one.fields.items()}


def make_plan(config, *, device="", minutes=60.0, given=None, cache=""):
    """Choose the settings of a run on volumes.

    Args:
      config: ConfigDict of `configs/base.py` with the data's root, and what the user has set.
      device: of `machine.machine`.
      minutes: that the run may take.
      given: {dotted path: value} that the user has set: nothing replaces these.
      cache: of `facts.gather`.

    Returns:
      Plan.

    Raises:
      ValueError, FileNotFoundError: bad input, naming the file or the field, or a device that is
        too small for any patch.
    """
    if minutes <= 0:
        raise ValueError(f"train.minutes is {minutes}; give a plan the time that the run may take.")
    given = dict(given or {})
    given = _of_levels(config.model) | given
    facts, here = gather(config, given, cache), machine(device)
    shape = geometry.patch_and_levels(facts, geometry.CPU_VOXELS, given)
    width, updates = rules.width(here, shape.fields | given, minutes)
    decisions = [
        rules.labels(facts),
        rules.validation(facts),
        rules.preprocessing(facts, _per_volume(config, given)),
        rules.augmentation(facts),
        width,
        rules.sampling(facts),
        rules.loss(given),
        rules.optimizer(given),
        rules.schedule(minutes, updates, given),
        rules.device(here),
        rules.postprocessing(),
    ]
    decisions = [_without(one, given) for one in decisions if one]
    if here.is_gpu:
        decisions += _that_fits(config, decisions, facts, here, given)
    else:
        decisions.append(_without(shape, given))
    return Plan(facts, [one for one in decisions if one.fields], here.name)


def _of_levels(model):
    """{dotted path: value} of what a section `model` fixes where it sets levels one by one."""
    names = ["poolings", "filters"] if model.get("features", ()) else []
    if model.get("kernels", ()) or model.get("strides", ()):
        names += ["poolings", "planar_levels"]
    return {f"model.{name}": model[name] for name in names}


def _per_volume(config, given):
    """Whether each volume is normalised by itself, where that is set; else None."""
    return given.get("preprocess.per_volume", config.preprocess.per_volume or None)


def _without(decision, given):
    fields = {path: value for path, value in decision.fields.items() if path not in given}
    return decision._replace(fields=fields)


def _that_fits(config, decisions, facts, here, given):
    """(decision on patch and poolings, decision on the batch) that fit a GPU, as compiled.

    The patch is halved until one fits. Memory grows in proportion to the batch, so two compilations
    say how many fit on one device; several share the batch.
    """
    config = config.copy_and_resolve_references()
    for one in decisions:
        configuration.override(config, one.fields)
    if here.card:  # a plugin that has looked for its device in vain compiles for none
        jax.config.update("jax_platforms", "cpu")
        config.devices.update(count=1, space=1)
    sharing = devices.arrange(**config.devices).size
    voxels = geometry.GPU_VOXELS
    while True:
        shape = geometry.patch_and_levels(facts, voxels, given)
        shape = _without(shape, given)
        configuration.override(config, shape.fields)
        needed = _bytes(config, here, 1)
        if needed <= here.memory:
            break
        voxels //= 2
        if "data.patch" in given or voxels < SMALLEST:
            size = "×".join(map(str, config.data.patch))
            needs = f"needs {needed / 2**30:.1f}" if math.isfinite(needed) else "needs more"
            raise ValueError(
                f"{here.name} gives training {here.memory / 2**30:.1f} GiB, and a single patch of "
                f"{size} voxels {needs}; choose a larger device, fewer "
                "model.filters, or model.rematerialise=True."
            )
    each = max(_bytes(config, here, 2) - needed, 1)
    fits = min(1 + int((here.memory - needed) / each), max(rules.LARGEST_BATCH // sharing, 1))
    reason = (
        f"a patch takes {each / 2**30:.2g} GiB as compiled for {here.name}, which gives training "
        f"{here.memory / 2**30:.3g}; more than {rules.LARGEST_BATCH} are not needed"
    )
    if math.isinf(each):
        reason = f"{here.name} has too little memory to compile a step of two patches"
    if sharing > 1:
        reason += f"; {sharing} devices share them"
    return shape, _without(Decision("batch", {"data.batch": fits * sharing}, reason), given)


def _bytes(config, here, batch):
    config.data.batch = batch
    return step_bytes(config, here.card, devices.ONE)
