"""Batches of patches, read ahead by Grain's threads and on the device before they are needed."""

import collections

import jax
import numpy as np

AHEAD = 2  # batches on their way to the device


class _From:
    """Patches `start` to `stop` of a sampler, numbered from 0 as Grain wants them."""

    def __init__(self, sampler, start, stop):
        self._sampler, self._start, self._stop = sampler, start, stop

    def __len__(self):
        return self._stop - self._start

    def __getitem__(self, index):
        return self._sampler[self._start + index]


def batches(sampler, *, batch, start, count, threads):
    """Iterate over `count` batches, from patch number `start` of the sampler.

    The position in the data is a patch number, so a run resumes at any batch, with any number of
    threads, and sees the same patches as without the interruption.

    Args:
      sampler: `PatchSampler` or `ImageSampler`.
      batch: patches per batch.
      start: number of the first patch.
      count: batches.
      threads: that read ahead; 0 reads in the caller's thread.

    Yields:
      Dict of numpy arrays, the batch's axis first.

    Raises:
      ValueError: `threads` is negative.
    """
    if threads < 0:
        raise ValueError(f"data.threads is {threads}; set it to 0 or more.")
    import grain  # late: it takes a fifth of a second to start, and prediction does not need it

    source = _From(sampler, start, start + batch * count)
    dataset = grain.MapDataset.source(source).batch(batch)
    ahead = min(2 * threads, 16)
    yield from dataset.to_iter_dataset(grain.ReadOptions(threads, ahead))


def first_epoch(sampler, *, batch, threads):
    """The batches of a sampler's first epoch, `on_device`; the next samples fill up the last one.

    Args:
      sampler, batch, threads: of `batches`.
    """
    count = -(-len(sampler) // batch)
    return on_device(batches(sampler, batch=batch, start=0, count=count, threads=threads))


def on_device(iterator):
    """Keep AHEAD batches on the device: the transfer runs while the step before computes.

    Args:
      iterator: of dicts of numpy arrays.

    Yields:
      (batch on the device, its 'volume' numbers as a numpy array).
    """
    waiting = collections.deque()
    for batch in iterator:
        volumes = np.asarray(batch.pop("volume"))
        waiting.append((jax.device_put(batch), volumes))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting
