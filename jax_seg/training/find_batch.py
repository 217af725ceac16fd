"""The largest batch that fits, from the memory of the compiled step without running it.

Compiled for the device at hand, or for a card that is not there.
"""

import math
import os

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_seg.data.preprocess import Preprocessing
from jax_seg.runs import held_out
from jax_seg.system import cards, configuration, startup
from jax_seg.system.devices import ONE, arrange
from jax_seg.training import programs
from jax_seg.training.settings import read_settings


def abstract_programs(config, devices=ONE):
    """{name: (jitted function, its arguments as shapes and types)}, without the data.

    Of a ConfigDict: the training step, the scores of validation patches and the network's
    inference, 'train', 'validate' and 'predict'. The arguments of the first two say which of the
    `devices` hold them.
    """
    settings = read_settings(config, devices)
    kind, task, plan = settings.kind, settings.task, settings.plan
    channels = settings.programs["model"].get("in_channels") or kind.channels(task["data"])
    shape = kind.sample_shape(task["data"], channels)
    preprocessing = Preprocessing(0.0, 1.0, 0.0, 1.0)
    classes = held_out.table_of(configuration.flat(config)).classes
    compiled = programs.build(
        **settings.programs,
        shape=shape,
        preprocessing=preprocessing,
        augment=kind.augmentation(preprocessing, exclusive=classes.exclusive, **task),
        classes=classes,
        devices=devices,
    )

    def images(count):
        return jax.ShapeDtypeStruct((count, *shape), kind.sample_type(task["data"]))

    def batch(count):
        label = jax.ShapeDtypeStruct((count, *shape[:-1], 1), np.uint8)
        return devices.abstract({"image": images(count), "label": label}, devices.samples)

    one = jax.ShapeDtypeStruct((), np.float32)
    weights = dict.fromkeys(plan[0].loss_weights, one)
    knobs = {"learning_rates": dict.fromkeys(plan[0].rates, one), "loss_weights": weights}
    state = jax.eval_shape(compiled.fresh_state)
    held = devices.abstract(state, devices.replicated)
    size, accumulated = settings.batch, plan[0].accumulate
    return {
        "train": (compiled.train_step, (held, batch(size * accumulated), knobs, accumulated)),
        "validate": (compiled.evaluate, (held.variables, batch(size), weights)),
        "predict": (compiled.network, (state.variables, images(size))),
    }


def compile_for(card, function, *arguments):
    """A jitted function compiled for a card that need not be there; it can be read, not run.

    Kernels are not chosen by timing, which needs the card.

    Args:
      card: `cards.Card`.
      function: jitted.
      arguments: as it takes them; arrays as `jax.ShapeDtypeStruct`.

    Returns:
      `jax.stages.Compiled`.

    Raises:
      ValueError: XLA's plugin for CUDA is not installed.
    """
    try:
        topology = topologies.get_topology_desc(
            "", platform="cuda", target_config=cards.target_config(card), topology="1x1x1"
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"Cannot compile for {card.name} ({error}); install XLA's plugin for CUDA with "
            "pip install '.[gpu-program]', which needs no card."
        ) from error
    sharding = NamedSharding(Mesh(np.array(topology.devices), ("device",)), PartitionSpec())
    placed = [
        argument
        if isinstance(argument, int)
        else jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), argument
        )
        for argument in arguments
    ]
    lowered = function.trace(*placed).lower(lowering_platforms=("cuda",))
    options = {"xla_gpu_autotune_level": 0, startup.CHANNELS_LAST: True}
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        # Untried, Triton's tiles do not fit some small matrix products, such as the detector's.
        return lowered.compile(compiler_options=options | {"xla_gpu_enable_triton_gemm": False})


def step_bytes(config, card=None, devices=None):
    """Bytes that a training step of the configuration holds on each device, as compiled.

    Weights, optimizer state, the batches of one update and all intermediate results, as reported by
    the compiler: of the device at hand, or of a `cards.Card`; of the run's devices, or of others.
    Infinite where the device has too little memory to compile it.
    """
    devices = devices or (ONE if card else read_settings(config).devices)
    step, arguments = abstract_programs(config, devices)["train"]
    if card:
        return bytes_held(compile_for(card, step, *arguments).memory_analysis())
    lowered = step.lower(*arguments)
    try:
        return bytes_held(lowered.compile().memory_analysis())
    except jax.errors.JaxRuntimeError as error:
        # A card's kernels are chosen by timing them, in its own memory.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return math.inf


def bytes_held(memory):
    """Bytes that a program holds at most, of the `memory_analysis` of a `jax.stages.Compiled`."""
    return (
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


def find_batch(config, card=None, report=print):
    """Double the batch while the training step fits, with and without rematerialisation.

    The batch of a run is shared by the devices that `config.devices` chooses.

    Args:
      config: ConfigDict; data.batch and, if the network has it, model.rematerialise are varied.
      card: `cards.Card` that need not be there; None for the device at hand.
      report: called with each line of the table.

    Returns:
      {rematerialise: largest batch that fits, 0 if none does}.
    """
    if card:  # a plugin that has looked for its device in vain compiles for none
        jax.config.update("jax_platforms", "cpu")
        config = config.copy_and_resolve_references()
        config.devices.update(count=1, space=1)
    limit_bytes = card_bytes(card) if card else device_bytes()
    smallest = arrange(**config.devices).size
    report(f"{'batch':>6} {'rematerialise':>14} {'GiB':>8}   of {limit_bytes / 2**30:.1f} GiB")
    largest = {}
    for rematerialise in (False, True) if "rematerialise" in config.model else (False,):
        batch, largest[rematerialise] = smallest, 0
        while True:
            tried = config.copy_and_resolve_references()
            tried.data.batch = batch
            if "rematerialise" in tried.model:
                tried.model.rematerialise = rematerialise
            needed = step_bytes(tried, card)
            fits = needed <= limit_bytes
            report(
                f"{batch:>6} {rematerialise!s:>14} {needed / 2**30:>8.2f}"
                + ("" if fits else "   does not fit")
            )
            if not fits:
                break
            largest[rematerialise] = batch
            batch *= 2
    return largest


def device_bytes():
    """Memory of the first device in bytes; on a CPU, of the machine."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return machine_bytes()


def machine_bytes():
    """Memory of the machine in bytes, whatever devices it has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def card_bytes(card):
    """Bytes of a card that JAX takes: the share XLA_CLIENT_MEM_FRACTION says, else 75 %.

    Its former name, XLA_PYTHON_CLIENT_MEM_FRACTION, still counts, as it does for JAX.
    """
    said = os.environ.get("XLA_CLIENT_MEM_FRACTION")
    share = said or os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or 0.75
    return int(card.memory * float(share))
