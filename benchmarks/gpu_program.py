"""What a graphics card that is not there will do, from the program compiled for it.

    python -m benchmarks.gpu_program           v6's training step at 128³ in bfloat16, for an H100
    python -m benchmarks.gpu_program --program predict --batch 4 --patch 192
    python -m benchmarks.gpu_program --card l4 --config configs/cod10k.py        the detector's

Needs the extra 'gpu-program' (XLA's plugin for CUDA), but no card. Prints memory and about how
large a batch would fit, traffic and operations by kind of kernel, the layouts of convolutions, what
is float32, and the time below which the card cannot go: for each kernel the longer of its
operations at the card's matrix rate and its bytes at the card's bandwidth. Traffic counts the
operands and results of each kernel; what is served from the cache costs less.
"""

import argparse
import collections
import os
import sys

if __name__ == "__main__":  # before JAX: a card that is there is not used
    os.environ["JAX_PLATFORMS"] = "cpu"

from benchmarks.program_text import kernels
from jax_seg.system import config_file
from jax_seg.system.cards import CARDS
from jax_seg.training import find_batch

LARGE = 64 * 2**20  # bytes; transposes, copies and float32 above it are counted
SHOWN = 12  # kernels with most traffic
MODELS = {  # of volumes, each with its usual levels
    "unet": {"downsample": "max", "affine": False},
    "residual_unet": {"downsample": "stride", "affine": True},
}


def main(argv=None):
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_program")
    parser.add_argument("--card", choices=CARDS, default="h100")
    parser.add_argument("--config", default="configs/v6.py", help="of volumes or images")
    parser.add_argument("--model", choices=MODELS, help="network (default: the configuration's)")
    parser.add_argument("--program", choices=("train", "validate", "predict"), default="train")
    parser.add_argument("--batch", type=int, help="per step (default: the configuration's)")
    parser.add_argument("--patch", type=int, help="voxels along an axis, or pixels of an image")
    parser.add_argument("--dtype", default="bfloat16", help="compute type")
    arguments = parser.parse_args(argv)
    card = CARDS[arguments.card]
    config = config_file.load(arguments.config)
    if arguments.model:
        if config.data.name == "images":
            parser.error("--model names networks of volumes, and --config is one for images")
        config.model.update(name=arguments.model, **MODELS[arguments.model])
    config.model.dtype = arguments.dtype
    config.data.batch = arguments.batch or config.data.batch
    if arguments.patch and "patch" in config.data:
        config.data.patch = (arguments.patch,) * 3
    elif arguments.patch:
        config.data.side = arguments.patch
    program = find_batch.abstract_programs(config)[arguments.program]
    parts = program[1][3] if arguments.program == "train" else 1
    try:
        compiled = find_batch.compile_for(card, program[0], *program[1])
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(
        f"{card.name}, {arguments.program}, {arguments.config}, {config.model.name}, "
        f"batch {config.data.batch}{f' × {parts}' if parts > 1 else ''}, {arguments.dtype}"
    )
    print("\n".join(report(compiled, card, config.data.batch, parts)))
    return 0


def report(compiled, card, batch, parts=1):
    """Lines on a compiled program for a `Card`, which takes `parts` batches one after another."""
    memory, found = compiled.memory_analysis(), kernels(compiled.as_text())
    peak = find_batch.bytes_held(memory)
    yield (
        f"memory: {memory.temp_size_in_bytes / 1e9:.2f} GB temporary, "
        f"{memory.argument_size_in_bytes / 1e9:.2f} GB arguments, {peak / 1e9:.2f} GB at the peak, "
        f"{peak / card.memory:.0%} of the card's {card.memory / 1e9:.0f} GB"
    )
    largest = int(find_batch.card_bytes(card) / (peak / batch))
    yield f"largest batch: at least about {largest}, were all memory in proportion to it"
    yield f"{'kind':20} {'kernels':>8} {'GB moved':>9} {'TFLOP':>7} {'floor, ms':>10}"
    for kind in dict.fromkeys(kernel.kind for kernel in found):
        yield _row(kind, [kernel for kernel in found if kernel.kind == kind], card)
    yield _row("all", found, card)
    floor = sum(_seconds(kernel, card) for kernel in found)
    yield f"at best {parts * batch / floor:.0f} samples per second"
    convolutions = [kernel for kernel in found if kernel.kind == "convolution"]
    layouts = collections.Counter((kernel.layout, kernel.type) for kernel in convolutions)
    yield "convolutions: " + ", ".join(
        f"{count} {layout} in {kind}" for (layout, kind), count in layouts.items()
    )
    large = [k for k in found if k.kind == "transpose or copy" and k.traffic / k.calls > LARGE]
    yield f"transposes and copies above 64 MB: {len(large)}"
    wide = [kernel for kernel in found if kernel.wide / kernel.calls > LARGE]
    yield (
        f"float32 traffic: {sum(kernel.wide for kernel in found) / 1e9:.2f} GB, of which "
        f"{sum(kernel.wide for kernel in wide) / 1e9:.2f} in {len(wide)} kernels above 64 MB"
    )
    for kernel in sorted(wide, key=lambda kernel: -kernel.wide)[:SHOWN]:
        yield f"  {kernel.wide / 1e9:6.2f} GB  {kernel.kind:18} {_place(kernel.source)}"
    yield "most traffic:"
    for kernel in sorted(found, key=lambda kernel: -kernel.traffic)[:SHOWN]:
        yield f"  {kernel.traffic / 1e9:6.2f} GB  {kernel.kind:18} {_place(kernel.source)}"


def _row(name, found, card):
    traffic = sum(kernel.traffic for kernel in found)
    operations = sum(kernel.operations for kernel in found)
    floor = 1e3 * sum(_seconds(kernel, card) for kernel in found)
    return f"{name:20} {len(found):8} {traffic / 1e9:9.2f} {operations / 1e12:7.2f} {floor:10.2f}"


def _seconds(kernel, card):
    return max(kernel.traffic / card.bandwidth, kernel.operations / card.matrix_rate)


def _place(source):
    """'backward encoder_0/conv_0': the part of the network that an operation belongs to."""
    direction = "backward " if "transpose(" in source else ""
    parts = [p for p in source.split("/") if "(" not in p and p not in ("cond", "while", "body")]
    return direction + "/".join(parts[:3])


if __name__ == "__main__":
    sys.exit(main())
