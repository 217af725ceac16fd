"""One output, from its settings to its last block: what is missing is computed, no more."""

import functools
import math
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from jax_seg.infer.blocks import passes, records, states, store
from jax_seg.infer.blocks.job import MASK
from jax_seg.infer.blocks.loaded import Loaded, Task
from jax_seg.infer.sidecar import MEMBER, TOGETHER, changes
from jax_seg.infer.sliding_window import count_windows
from jax_seg.system import engine
from jax_seg.system.files import read_json, write_json
from jax_seg.system.outputs import marked

SAID_EVERY = 10  # seconds between two lines of progress
OWN = {
    "mask_stamp": "--mask",
    "measured": "intensities of the image",
    "image_stamp": "image",
    "shape": "shape of the image",
    "kind": "--dtype",
    "block": "--block",
    "chunk": "--chunk",
    "version": "--ome version",
    "windows_per_call": "--windows",
    "threads": "number of threads (set NPROC to the earlier one)",
}
"""The settings of a job beside those of a prediction, with their names in messages."""


def run(job, open_engine, *, region=None, part=None, overwrite=False, grids=()):
    """Compute the blocks of a job that are missing, pass by pass.

    Args:
      job: `Job`.
      open_engine: of `engine.opener`.
      region: (start, size) in voxels; None for the whole volume. Every block that it touches is
        computed in full.
      part: (k, n): compute only the k-th of n shares of the network's blocks.
      overwrite: begin anew.
      grids: [(patch, overlap, passes, spans)] of the networks, to count their windows: spans are
        the (start, stop) along each axis of what counts as input.

    Returns:
      Exit status: 0, or 1 where blocks are missing that were to be computed.

    Raises:
      ValueError, OSError: other settings, another writer, or a store that cannot be written.
    """
    region = region or ((0, 0, 0), job.cuts.shape)
    plan = passes.plan(job, None)
    share = f"{part[0]}_of_{part[1]}" if part else None
    with records.locked(job.records, share):
        _prepare(job, overwrite, alone=part is None)
        book = _Book(job, plan, region)
        to_do = book.missing()
        final = next(number for number, one in enumerate(plan) if one.kept)
        wanted = book.wanted[final]
        if part:  # what follows needs the blocks of all parts
            wanted, plan, final = _share(book.wanted[0], part), plan[:1], 0
            missing = set(to_do[0])
            to_do = [[index for index in wanted if index in missing]]
        done = len(wanted) - len(to_do[final])
        _announce(job, book, to_do[0], f"{len(wanted)} wanted, {done} done", region, grids)
        failed = {}
        if any(to_do):
            with open_engine(_work(job)) as workers:
                print(f"Computing on {workers.where}.", flush=True)
                failed = _run_passes(job, plan, book, to_do, workers)
        if failed or part:
            return _unfinished(job, book, failed, part)
        _finish(job, book)
    return 0


def _work(job):
    return engine.Work(functools.partial(Loaded, job), job.threads)


def _prepare(job, overwrite, alone):
    """Check the settings and the store, and create both where they are missing."""
    folder, settings = Path(job.store), Path(job.records) / records.SETTINGS
    if overwrite and alone:
        store.remove(folder)
        for child in Path(job.records).iterdir():
            if child.name == records.PARTS:  # this process holds a lock there
                continue
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    if settings.is_file():
        require_same(read_json(settings), job)
    else:
        records.write_settings(job.records, job.settings)
    levels = passes.levels_of(job)
    for scratch in passes.scratch_of(job):
        scratch.create()
    if alone:
        store.remove_locks(folder)
    if not store.is_own(folder):
        top = {"uint8": 255, "float16": 1}.get(job.kind) or max(states.values_of(job.classes))
        spacing, unit = job.reader.spacing, getattr(job.reader, "unit", None)
        several = "mode" if len(job.classes.names) > 1 else "maximum"
        halved = several if job.kind == MASK else "mean"
        store.create(folder, levels, spacing=spacing, unit=unit, top=top, halved=halved)


def require_same(made, job):
    """Raise a ValueError where an output was begun with other settings, naming them."""
    now = job.settings
    changed = [word for key, word in OWN.items() if made.get(key) != now.get(key)]
    changed += changes(made, now)
    if changed:
        raise ValueError(
            f"{job.store} was begun with a different {', '.join(dict.fromkeys(changed))}: pass "
            "--overwrite to begin anew, or choose another --output."
        )


class _Book:
    """Which blocks of each pass are wanted and which are done.

    Attributes:
      done: for each pass {index: record}, as read at the start and added since.
      wanted: for each pass the blocks that a request for the region means, in raster order.
    """

    def __init__(self, job, plan, region):
        self._job, self._plan = job, plan
        self.done = [records.read_all(f"{job.records}/{p.name}", job.digest) for p in plan]
        self.wanted = self._wanted(region)

    def _wanted(self, region):
        """The blocks of the kept passes that the region touches, and all that those need."""
        wanted = [None] * len(self._plan)
        start, size = region
        for number, one in enumerate(self._plan):
            if one.kept:
                wanted[number] = list(one.cuts.touching(start, size))
                start = tuple(a // 2 for a in start)
                size = tuple(-(-n // 2) + 1 for n in size)
        for number in reversed(range(len(self._plan) - 1)):
            if wanted[number] is None:
                following = self._plan[number + 1]
                needed = {n for index in wanted[number + 1] for n in following.needs(index)}
                wanted[number] = sorted(needed)
        return wanted

    def sources(self, number, index):
        """Digest of what a block is made from."""
        if not number:
            return ""
        return records.sources_of(self.done[number - 1], self._plan[number].needs(index))

    def missing(self):
        """For each pass the blocks to compute: what is made on the way only where it is needed."""
        missing = [[] for _ in self._plan]
        needed = set()
        for number in reversed(range(len(self._plan))):
            one = self._plan[number]
            asked = self.wanted[number]
            if not one.kept:
                asked = [index for index in asked if index in needed]
            missing[number] = [index for index in asked if not self._is_done(number, index)]
            needed = {n for index in missing[number] for n in one.needs(index)}
        return missing

    def stale(self, number):
        """The wanted blocks of a kept pass whose sources have changed."""
        one, done = self._plan[number], self.done[number]
        if not one.kept:
            return []
        return [
            index
            for index in self.wanted[number]
            if done.get(index, {}).get("sources") != self.sources(number, index)
        ]

    def _is_done(self, number, index):
        written = functools.partial(self._plan[number].output.record, index)
        return records.is_done(self.done[number].get(index), self.sources(number, index), written)


def _share(wanted, part):
    """The blocks of a part: an even share of all, whatever is already done, in one piece."""
    k, n = part
    return wanted[(k - 1) * len(wanted) // n : k * len(wanted) // n]


def _run_passes(job, plan, book, to_do, workers):
    """Run the passes in order; stops after one with failures. Returns {(pass name, index): words}.

    What a pass changes decides what the next one has to do, so that is asked again.
    """
    failed = {}
    for number, one in enumerate(plan):
        indices = to_do[number]
        if number:
            chosen = {*indices, *book.stale(number)}
            indices = [index for index in book.wanted[number] if index in chosen]
        if not indices:
            continue
        tasks = [Task(number, index, book.sources(number, index)) for index in indices]
        if number == 0 and len(tasks) > 2:  # from the middle, where there is most likely input
            tasks.insert(0, tasks.pop(len(tasks) // 2))
        leader = engine.Here(_work(job)) if one.alone else workers
        progress = _Progress(one, tasks, leader)
        for task, result in leader.run(tasks):
            if isinstance(result, engine.Failure):
                failed[one.name, task.index] = result.sentence
                if result.fatal:
                    raise OSError(f"{result.sentence} (block {task.index} of {one.name})")
            else:
                book.done[number][task.index] = result
                progress.add(task, result)
        if failed:
            break
    return failed


class _Progress:
    """Lines on how far a pass is; of the network's, an estimate after the first block."""

    def __init__(self, one, tasks, workers):
        self._pass, self._total, self._workers = one, len(tasks), workers
        self._started = self._said = time.monotonic()
        self._done = self._voxels = self._windows = self._idle = 0
        self._all = sum(math.prod(one.cuts.box(task.index)[1]) for task in tasks)

    def add(self, task, record):
        """Count a finished block."""
        self._done += 1
        self._voxels += math.prod(self._pass.cuts.box(task.index)[1])
        self._windows += record.get("windows", 0) - record.get("empty", 0)
        self._idle += record.get("windows") == record.get("empty") and "windows" in record
        if self._pass.name == passes.NETWORK and self._done == 1 and self._total > 1:
            self._estimate(record)
        now = time.monotonic()
        if now - self._said > SAID_EVERY or self._done == self._total:
            self._said = now
            self._say(now - self._started)

    def _estimate(self, record):
        seconds = record["seconds"] * self._total / self._workers.workers
        size = record["bytes"] * self._total
        print(
            f"Estimate from one block: {duration(seconds)}, {gigabytes(size)} of output at full "
            f"resolution, {gigabytes(record.get('memory', 0))} of memory for each worker.",
            flush=True,
        )

    def _say(self, seconds):
        rate = self._voxels / max(seconds, 1e-6)
        left = (self._all - self._voxels) / rate
        ending = f"{duration(left)} left" if self._done < self._total else duration(seconds)
        words = f"[{self._done}/{self._total}] {self._pass.name}: {rate / 1e6:.3g} Mvoxel/s"
        if self._idle:
            words += f", blocks without input: {self._idle}"
        print(f"{words}, {ending}", flush=True)


def _announce(job, book, to_do, counted, region, grids):
    """Say what will be computed: the blocks `to_do` of the network."""
    blocks, missing = len(book.wanted[0]), len(to_do)
    shape = " × ".join(map(str, job.cuts.shape))
    block = " × ".join(map(str, job.cuts.block))
    print(
        f"{job.reader.path}: {shape} voxels in {math.prod(job.cuts.counts)} blocks of {block}; "
        f"{counted}."
    )
    if not missing:
        return
    computed, distinct = _windows(job, to_do, grids), _distinct(job, region, grids)
    share = missing / blocks
    repeated = max(computed / max(distinct * share, 1) - 1, 0)
    size = np.dtype(passes.levels_of(job)[0].dtype).itemsize
    voxels = sum(math.prod(job.cuts.box(index)[1]) for index in to_do)
    print(
        f"The network runs on {missing} blocks with {computed} windows, {100 * repeated:.0f} % of "
        f"them again for a neighbouring block; at most {gigabytes(8 / 7 * size * voxels)} of "
        f"output, {gigabytes(shutil.disk_usage(Path(job.store).parent).free)} are free.",
        flush=True,
    )


def _windows(job, indices, grids):
    """Windows that touch the blocks, each counted for every block."""
    total = 0
    for patch, overlap, times, limits in grids:
        along = [
            [_along(limit, p, overlap, a, b) for a, b in spans]
            for limit, p, spans in zip(limits, patch, job.cuts.spans, strict=True)
        ]
        total += times * sum(
            math.prod(one[i] for one, i in zip(along, index, strict=True)) for index in indices
        )
    return total


def _distinct(job, region, grids):
    """Windows that touch the blocks of a region, each counted once."""
    total = 0
    for patch, overlap, times, limits in grids:
        sides = []
        for limit, p, b, a, s in zip(limits, patch, job.cuts.block, *region, strict=True):
            sides.append(_along(limit, p, overlap, a // b * b, -(-(a + s) // b) * b))
        total += times * math.prod(sides)
    return total


def _along(limit, patch, overlap, first, last):
    """Windows along an axis within `limit`, a (start, stop), that touch the voxels up to `last`."""
    low, high = max(first, limit[0]), min(last, limit[1])
    if low >= high:
        return 0
    return count_windows(limit[1] - limit[0], patch, overlap, low - limit[0], high - low)


def _unfinished(job, book, failed, part):
    """Say what is missing; the exit status."""
    for (name, index), words in sorted(failed.items()):
        start, size = job.cuts.box(index) if len(index) == 3 else ((), ())
        stop = [a + n for a, n in zip(start, size, strict=True)]
        place = ",".join(f"{a}:{b}" for a, b in zip(start, stop, strict=True))
        print(f"Error: block {index} of {name} ({place}): {words}", file=sys.stderr)
    if failed:
        print(
            f"{len(failed)} blocks are missing in {job.store}; the others are done. Run the same "
            "command to try these again.",
            file=sys.stderr,
        )
        return 1
    print(
        f"Part {part[0]}/{part[1]} is done. When all parts are, run the command without --part to "
        f"finish {job.store}."
    )
    return 0


def identity(settings):
    """The settings of a job that decide its result, as one digest."""
    made = [[one.get(key) for key in MEMBER] for one in settings.get("members", [settings])]
    own = {key: settings.get(key) for key in (*OWN, *TOGETHER)}
    return records.digest_of([made, own])


def _finish(job, book):
    """Write the sidecar, and remove what was made on the way."""
    network = [book.done[0][i] for i in book.wanted[0] if i in book.done[0]]
    facts = {
        "blocks": len(network),
        "windows": sum(one["windows"] for one in network),
        "empty_windows": sum(one["empty"] for one in network),
        "seconds": round(sum(one["seconds"] for one in network), 2),
    }
    idle = sum(one["windows"] == one["empty"] for one in network)
    path = Path(job.store)
    os.sync()  # blocks did not wait for the disk, see `records.write`
    write_json(path.with_suffix(".json"), marked(job.settings | facts, "predict"))
    for folder in ("arrays", "components"):
        shutil.rmtree(Path(job.records) / folder, ignore_errors=True)
    print(
        f"{path}: finished, blocks: {facts['blocks']}, without input or outside the mask: {idle}, "
        f"windows with input: {facts['windows'] - facts['empty_windows']}."
    )


def duration(seconds):
    """'45 s', '12 min' or '3.2 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gigabytes(number):
    """'0.53 GiB'."""
    return f"{number / 2**30:.2g} GiB"
