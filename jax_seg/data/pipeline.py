"""Batches of patches, read ahead by Grain's threads and on the device before they are needed."""

import collections

import numpy as np

from jax_seg.system.devices import ONE

AHEAD = 2  # batches on their way to the device


class _Share:
    """The patches of some batches that one process reads, numbered from 0 as Grain wants them.

    Of every batch a process reads as many as the others, and those in succession.
    """

    def __init__(self, sampler, batch, start, count, devices):
        self._sampler, self._batch, self._start, self._count = sampler, batch, start, count
        self._own = batch // devices.processes
        self._first = start + devices.process * self._own

    def __len__(self):
        return self._own * self._count

    def __getitem__(self, index):
        number, place = divmod(index, self._own)
        return self._sampler[self._first + number * self._batch + place]


def batches(sampler, *, batch, start, count, threads, devices=ONE):
    """Iterate over `count` batches, from patch number `start` of the sampler.

    The position in the data is a patch number, so a run resumes at any batch, with any number of
    threads, and sees the same patches as without the interruption.

    Args:
      sampler: `PatchSampler` or `ImageSampler`.
      batch: patches per batch.
      start: number of the first patch.
      count: batches.
      threads: that read ahead; 0 reads in the caller's thread.
      devices: `Devices` that share every batch; each process reads its own part.

    Yields:
      Dict of numpy arrays, the batch's axis first: the part of this process. 'volume' is that of
      the whole batch.

    Raises:
      ValueError: `threads` is negative.
    """
    if threads < 0:
        raise ValueError(f"data.threads is {threads}; set it to 0 or more.")
    import grain  # late: it takes a fifth of a second to start, and prediction does not need it

    source = _Share(sampler, batch, start, count, devices)
    dataset = grain.MapDataset.source(source).batch(batch // devices.processes)
    ahead = min(2 * threads, 16)
    read = dataset.to_iter_dataset(grain.ReadOptions(threads, ahead))
    if devices.processes == 1:
        yield from read
        return
    for first, own in zip(range(start, start + batch * count, batch), read, strict=True):
        numbers = [sampler.volume_of(index) for index in range(first, first + batch)]
        yield own | {"volume": np.array(numbers, np.int32)}


def first_epoch(sampler, *, batch, threads, devices=ONE):
    """The batches of a sampler's first epoch, `on_device`; the next samples fill up the last one.

    Args:
      sampler, batch, threads, devices: of `batches`.
    """
    options = {"batch": batch, "threads": threads, "devices": devices}
    count = -(-len(sampler) // batch)
    return on_device(batches(sampler, start=0, count=count, **options), devices)


def on_device(iterator, devices=ONE):
    """Keep AHEAD batches on the device: the transfer runs while the step before computes.

    Args:
      iterator: of dicts of numpy arrays.
      devices: `Devices` that share every batch.

    Yields:
      (batch on the devices, its 'volume' numbers as a numpy array).
    """
    waiting = collections.deque()
    for batch in iterator:
        volumes = np.asarray(batch.pop("volume"))
        waiting.append((devices.place(batch), volumes))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting
