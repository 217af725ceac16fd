"""What the training loop asks of a kind of data."""

from collections.abc import Callable
from typing import NamedTuple

from jax_seg.data.preprocess import Preprocessing


class Task(NamedTuple):
    """A data set made ready to train on and to be judged by.

    Attributes:
      train: random-access source of training samples, for `pipeline.batches`.
      fixed: the same of validation samples, whose first epoch is judged after every epoch.
      names: ids of what the training samples' 'volume' numbers mean.
      held_out: ids of what the validation part holds.
      shape: of one sample's image, channels last.
      preprocessing: `Preprocessing`.
      augment: (key, batch) -> batch, of normalised images.
      segment: (network, variables) -> yields (volume or example, Confusion, its result), one by
        one, over the whole validation part.
      evaluate_last: ({name: (step, variables)}, segment: variables -> what `segment` yields,
        workdir=…, log=…) -> {name: pooled scores with their 'step'}; writes what was seen.
      samples, wholes: what the log calls them: 'patches' of 'volumes', or 'images'.
      about: the data in words, for the opening line.
      remarks: sentences on what is unusual about the data, for the log.
    """

    train: object
    fixed: object
    names: list
    held_out: list
    shape: tuple
    preprocessing: Preprocessing
    augment: Callable
    segment: Callable
    evaluate_last: Callable
    samples: str
    wholes: str
    about: str
    remarks: list
