"""The passes of a job: each computes every block from blocks of the pass before, or from the image.

The first runs the network. Further ones carry out steps of post-processing, local ones on a block
with the halo that they reach, those on whole components in three passes (`components`), and the
last ones halve the resolution, level by level. A block of a pass is a pure function of its inputs.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jax_seg.data.readers.contract import channels_of
from jax_seg.infer import postprocess
from jax_seg.infer.blocks import components, states, store
from jax_seg.infer.blocks.cuts import Cuts
from jax_seg.infer.blocks.job import MASK, within_box
from jax_seg.infer.logits import require_numbers
from jax_seg.infer.part import Part, box
from jax_seg.system import memory

REFUSED = ("fill_holes_per_slice", "patch_sheets", "split_sheets", "smooth")
"""Steps that look any distance away, in a way that is not merged over blocks."""
LOCAL = {
    "close": lambda p: tuple(2 * p[axis] + 1 for axis in ("depth", "height", "width")),
    "open": lambda p: tuple(2 * p[axis] + 1 for axis in ("depth", "height", "width")),
    "plug_holes": lambda p: (1, 1, 1),
}
"""Steps that reach so far: parameters -> voxels along each axis."""
NETWORK = "network"


class Pass(NamedTuple):
    """One pass of a job.

    Attributes:
      name: of the folder of its records.
      cuts: its blocks.
      output: with `record(index)`: the checksum of what a block wrote, None where it is gone.
      run: index -> dict of JSON types about the block, which is written to `output`.
      needs: index -> the blocks of the pass before that it reads.
      kept: whether its output is part of the image, or only made on the way.
      alone: whether its only block is computed by the process that leads the job.
    """

    name: str
    cuts: Cuts
    output: object
    run: Callable
    needs: Callable
    kept: bool
    alone: bool = False


def plan(job, segment):
    """The list of `Pass`es of a job, in order.

    Args:
      job: `Job`.
      segment: (`Part` -> logits); None where no block of the network will be run.
    """
    levels = levels_of(job)
    groups = _groups(job)
    outputs = [_scratch(job, number) for number in range(len(groups))] + [levels[0]]
    passes = [
        Pass(
            NETWORK,
            job.cuts,
            outputs[0],
            lambda index: segment_block(job, segment, outputs[0], index),
            lambda index: (),
            kept=not groups,
        )
    ]
    for number, group in enumerate(groups):
        source, target = outputs[number : number + 2]
        kept = target is levels[0]
        if group.steps[0][0] in LOCAL:
            passes.append(_local(job, number + 1, group, source, target, kept))
        else:
            passes += components.passes(job, number + 1, group, source, target, kept, Pass)
    for number, (finer, level) in enumerate(itertools.pairwise(levels), 1):
        passes.append(_coarser(job, number, finer, level))
    return passes


def levels_of(job):
    """The `store.Level`s of a job's image."""
    dtype = states.label_type(job.classes).name if job.kind == MASK else job.kind
    return store.pyramid(job.store, job.cuts, chunk=job.chunk, dtype=dtype, version=job.version)


def scratch_of(job):
    """The arrays that a job makes on the way."""
    return [_scratch(job, number) for number in range(len(_groups(job)))]


def require_known(steps, whole):
    """Refuse steps that cannot be carried out block by block.

    Args:
      steps: texts.
      whole: whether every block of the volume is computed.

    Raises:
      ValueError: naming the step.
    """
    for name, _ in postprocess.parse_all(steps) if steps else ():
        if name in REFUSED:
            raise ValueError(
                f"The step '{name}' looks at the whole volume at once and cannot be carried out "
                "block by block: choose other steps with --postprocess, or 'none'."
            )
        if not whole and name in components.STEPS:
            raise ValueError(
                f"The step '{name}' needs the whole volume, since components may leave the region: "
                "drop --region, or choose other steps with --postprocess."
            )


def _scratch(job, number):
    folder = Path(job.records) / "arrays" / str(number)
    return store.Level(str(folder), job.cuts, job.chunk, states.state_type(job.classes).name, "0.5")


class Group(NamedTuple):
    """Steps that share a pass, or the three of one on components.

    Attributes:
      steps: [(name, parameters)].
      classes: numbers of those that they are carried out for.
    """

    steps: list
    classes: tuple


def _groups(job):
    """The `Group`s that follow the network's pass: local steps in a row share one, of all classes;
    components are those of one class."""
    first, *steps = postprocess.parse_all(job.steps) if job.steps else [("threshold", {})]
    if first[0] == "hysteresis":
        steps.insert(0, first)
    classes, groups = tuple(range(len(job.classes.names))), []
    for is_local, several in itertools.groupby(steps, lambda step: step[0] in LOCAL):
        if is_local:
            groups.append(Group(list(several), classes))
        else:
            groups += [Group([step], (number,)) for step in several for number in classes]
    return groups


def segment_block(job, segment, output, index):
    """Run the network on a block and write what its first step makes of the logits.

    Returns:
      dict: 'windows' that touch the block, 'empty' ones without input, 'seconds', and the
      'memory' that this process has taken at most, in bytes.
    """
    started = time.monotonic()
    start, size = job.cuts.box(index)
    inside = None
    if job.within is not None:
        inside = within_box(job.within, job.cuts.shape, start, size)
    if inside is not None and not inside.any():
        output.write(index, np.zeros(size, output.dtype))
        return {"windows": 0, "empty": 0, "seconds": time.monotonic() - started}
    reader = job.reader
    part = Part(
        read=reader.read,
        whole=tuple(reader.shape),
        channels=channels_of(reader),
        dtype=reader.dtype,
        start=start,
        size=size,
        cuts=job.cuts.spans,
        tally=Counter(),
        measured=job.measured.__getitem__,
    )
    logits = segment(part)
    require_numbers(logits, reader.path)
    voxels = decide(job, logits)
    if inside is not None:
        voxels = np.where(inside, voxels, 0).astype(voxels.dtype)
    output.write(index, voxels)
    return {
        "windows": part.tally["windows"],
        "empty": part.tally["empty"],
        "seconds": time.monotonic() - started,
        "memory": memory.peak(),
    }


def decide(job, logits):
    """What is stored of logits: probabilities, a mask, or what the further steps start from."""
    if job.kind == "float16":
        return np.asarray(jax.nn.sigmoid(logits), np.float16)
    if job.kind == "uint8":
        return np.rint(255 * np.asarray(jax.nn.sigmoid(logits))).astype(np.uint8)
    found = states.of_logits(logits, job.steps, job.threshold, job.classes)
    return found if _groups(job) else states.as_labels(found, job.classes)


def _local(job, number, group, source, target, kept):
    reach = [LOCAL[name](postprocess.defaults(name) | given) for name, given in group.steps]
    halo = tuple(map(sum, zip(*reach, strict=True)))

    def of_class(around, number):
        mask = states.has(around, number)
        for name, parameters in group.steps:
            mask = postprocess.apply_step(mask, name, parameters, None, None)
        return mask

    def run(index):
        first, size = job.cuts.around(index, halo)
        around = source.read(first, size)
        start, inner = job.cuts.box(index)
        inside = box([a - f for a, f in zip(start, first, strict=True)], inner)
        masks = {number: of_class(around, number)[inside] for number in group.classes}
        states.write(target, index, around[inside], masks, job.classes, kept)
        return {}

    def needs(index):
        return job.cuts.touching(*job.cuts.around(index, halo))

    name = f"{number}_{'_'.join(name for name, _ in group.steps)}"
    return Pass(name, job.cuts, target, run, needs, kept)


def _coarser(job, number, finer, level):
    """Half the resolution: a mask's voxel is foreground where one of its eight is, so that thin
    surfaces stay, of the class of most of those; a probability is their mean."""

    def children(index):
        start, size = level.cuts.box(index)
        return tuple(2 * a for a in start), tuple(2 * n for n in size)

    def run(index):
        start, size = children(index)
        shape = finer.cuts.shape
        depth, *plane = (min(n, s - a) for a, n, s in zip(start, size, shape, strict=True))
        values = states.values_of(job.classes) if job.kind == MASK else None
        slab, parts = 2 * finer.chunk[0], []  # the whole would be eight times as large as a block
        for z in range(0, depth, slab):
            here = (start[0] + z, *start[1:]), (min(slab, depth - z), *plane)
            parts.append(halved(finer.read(*here), values))
        level.write(index, np.concatenate(parts))
        return {}

    def needs(index):
        return finer.cuts.touching(*children(index))

    return Pass(f"level_{number}", level.cuts, level, run, needs, kept=True)


def halved(voxels, values=None):
    """Half the resolution; an odd last voxel counts twice.

    Args:
      voxels: [D, H, W].
      values: label values of masks, of which the most frequent of 2³ voxels stays, of equally
        frequent ones the last, and 0 only where all are. None for the mean, rounded where voxels
        are integers.
    """
    odd = [(0, n % 2) for n in voxels.shape]
    padded = np.pad(voxels, odd, mode="edge")
    shape = [part for n in padded.shape for part in (n // 2, 2)]
    blocks = padded.reshape(shape)
    if values is None:
        found = blocks.mean((1, 3, 5), dtype=np.float32)
        return (np.rint(found) if voxels.dtype.kind == "u" else found).astype(voxels.dtype)
    result = np.zeros([n // 2 for n in padded.shape], voxels.dtype)
    most = np.ones(result.shape, np.uint8)
    for value in values:
        count = (blocks == value).sum((1, 3, 5), dtype=np.uint8)
        result[count >= most] = value
        most = np.maximum(count, most)
    return result
