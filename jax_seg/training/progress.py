"""The position of a run, and how it is saved."""

import dataclasses
import time

from jax_seg.runs import checkpoints
from jax_seg.system import processes


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved."""


@dataclasses.dataclass
class Progress:
    """The position of a run, as JSON types; saved with every checkpoint.

    Attributes:
      epoch: the running epoch, from 0.
      batches: updates already done in it.
      drawn: samples handed out before this epoch.
      updates: of this epoch where train.minutes decide how long it is, else 0.
      pace: seconds, as last measured: 'sample' of training on one, 'patches' and 'wholes' of
        judging all weights once; empty before the first epoch.
      sums: the epoch's training metrics, added up.
      seconds: training time, over all starts of the run.
      plateau: fields of `plateau.State`.
      reduction: fields of `schedule.ReduceOnPlateau`.
      best_step: the checkpoint with the lowest validation loss.
      return_to: set when the next epoch starts from that checkpoint.
      averaged: trees of weights in the SWA average.
      judged: [training loss, IoU] of each evaluation of the whole validation part, the last three.
      finished: whether early stopping has ended the run.
    """

    epoch: int = 0
    batches: int = 0
    drawn: int = 0
    updates: int = 0
    pace: dict = dataclasses.field(default_factory=dict)
    sums: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    plateau: dict = dataclasses.field(default_factory=dict)
    reduction: dict = dataclasses.field(default_factory=dict)
    best_step: int | None = None
    return_to: int | None = None
    averaged: int = 0
    judged: list = dataclasses.field(default_factory=list)
    finished: bool = False

    def restore(self, stored):
        """Set the fields from those stored in a checkpoint."""
        for name, value in stored.items():
            setattr(self, name, value)


class Clock:
    """Counts the seconds that a run takes, and those since its last save."""

    def __init__(self):
        self._counted = self._saved = time.monotonic()

    def count(self):
        """Seconds since the last call."""
        before, self._counted = self._counted, time.monotonic()
        return self._counted - before

    def saved(self):
        """Record that the run has just been saved."""
        self._saved = time.monotonic()

    def save_is_due(self, every):
        """Whether more than `every` seconds have passed since the last save; never if 0."""
        return 0 < every < time.monotonic() - self._saved


def save(run, state, progress, metrics=None):
    """Write a checkpoint; `metrics` are the validation metrics of a whole epoch."""
    progress.seconds += processes.from_lead(run.clock.count())  # so that all end in one epoch
    position = {"epoch": progress.epoch, "loop": dataclasses.asdict(progress)}
    checkpoints.save(run.checkpoints, state, run.to_store | position, metrics)
    run.clock.saved()


def stop_if_asked(run, state, progress):
    """Save and raise `Stopped` if a signal has asked for it."""
    if signal := run.asked.stop():
        save(run, state, progress)
        checkpoints.wait(run.checkpoints)
        raise Stopped(
            f"Stopped by {signal} in epoch {progress.epoch} at step {int(state.step)}; the state "
            "is saved. Run the same command to resume."
        )
