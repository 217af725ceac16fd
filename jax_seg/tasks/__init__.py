"""Kinds of data that the one training loop works on: volumes, and images."""

from jax_seg.tasks import images, volumes

KINDS = {"folder": volumes, "synthetic": volumes, "images": images}


def prepare(read, workdir, preprocessing=None):
    """The `Task` of a configuration.

    Args:
      read: its `config.Reader`.
      workdir: folder of the run, where the cache and generated volumes lie by default.
      preprocessing: dict of the stored `Preprocessing`; None fits it to the training data.

    Raises:
      ValueError, FileNotFoundError: bad input, naming the file or the field.
    """
    return _kind(read).prepare(read, workdir, preprocessing)


def shape(read):
    """Shape of one sample's image, channels last, without a look at the data."""
    return _kind(read).shape(read)


def augmentation(read, preprocessing):
    """(key, batch) -> batch of images normalised by `preprocessing`, without a look at the data."""
    return _kind(read).augmentation(read, preprocessing)


def _kind(read):
    if read.data.name not in KINDS:
        raise ValueError(f"data.name is {read.data.name!r}; choose one of {', '.join(KINDS)}.")
    return KINDS[read.data.name]
