"""Rules that carry a learning rate from one setting to another, as the training notes use them.

They are for configurations (`configs/cod10k.py`); the loop only checks for the warning sign.
"""

import itertools

BATCH_SAFETY = 0.8
DEEP_SUPERVISION = 0.72
LEAST_RISK = 1.5e-4
"""Learning rate of the second stage that the notes fall back to at the warning sign."""
ADVICE = f"lower schedule.learning_rate (the notes fall back to {LEAST_RISK:g}) before it explodes"


def effective_batch(batch, accumulation):
    """Images that one update sees: those of a step times the steps that are summed."""
    return batch * accumulation


def for_batch(learning_rate, batch, new_batch, safety=BATCH_SAFETY):
    """The rate for another effective batch: linear (Goyal et al. 2017, §2.1), times a safety.

    2.5e-4 at batch 8 becomes 4e-4 at batch 16. At the same batch the rate is unchanged.

    Args:
      learning_rate: that worked at `batch`.
      batch, new_batch: images per update, `effective_batch`.
      safety: factor on a rate that grows or shrinks.

    Raises:
      ValueError: a batch is not positive.
    """
    if batch <= 0 or new_batch <= 0:
        raise ValueError(f"A batch of {min(batch, new_batch)} images cannot train; give 1 or more.")
    if batch == new_batch:
        return learning_rate
    return learning_rate * new_batch / batch * safety


def for_deep_supervision(learning_rate, factor=DEEP_SUPERVISION):
    """The rate under deep supervision, whose extra losses add to the gradient: 28 % less.

    2.5e-4 becomes 1.8e-4.
    """
    return learning_rate * factor


def warning_sign(losses, ious, epochs=2):
    """Whether the loss fell while IoU fell, `epochs` times in a row: the start of an explosion.

    The notes' advice is then a second-stage rate of `LEAST_RISK`.

    Args:
      losses, ious: one number per epoch, oldest first.
      epochs: falls in a row.

    Raises:
      ValueError: the two have different lengths.
    """
    if len(losses) != len(ious):
        raise ValueError(
            f"There are {len(losses)} losses and {len(ious)} values of IoU; give one of each per "
            "epoch."
        )

    def falls(values):
        last = values[-epochs - 1 :]
        return len(last) == epochs + 1 and all(b < a for a, b in itertools.pairwise(last))

    return falls(losses) and falls(ious)
