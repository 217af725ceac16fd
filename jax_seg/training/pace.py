"""How many updates an epoch has: as said, or so many that epochs fill the minutes of a run."""

import contextlib
import time

from jax_seg.training import stages

LENGTHS = ("data", "minutes")
FIRST = 12  # updates of the first epoch, which measure an update; the first of them compiles
MARGIN = 0.02  # share of the time that is kept for a machine that slows down


def by_minutes(settings):
    """Whether the time that is left decides how long each epoch is."""
    # Runs from before there was the field are resumed and examined without it.
    return settings.train.get("epoch_length", "data") == "minutes"


def updates_given(settings):
    """The updates of each epoch where train.epoch_length is their number, else 0."""
    length = settings.train.get("epoch_length", "data")
    return int(length) if length.isdecimal() else 0


def require(train, first=0):
    """Refuse a section `train` whose epochs cannot be measured, of a run that begins with `first`.

    Raises:
      ValueError: an unknown epoch_length, no minutes to fill, or no epoch to fill them.
    """
    length = train.get("epoch_length", "data")
    if length not in LENGTHS and not (length.isdecimal() and int(length)):
        raise ValueError(
            f"train.epoch_length is '{length}'; choose one of {', '.join(LENGTHS)}, or a number of "
            "updates."
        )
    if length == "minutes" and train["minutes"] <= 0:
        raise ValueError(
            f"train.epoch_length is 'minutes', but train.minutes is {train['minutes']}; set it to "
            "the time that the whole run may take."
        )
    if length == "minutes" and train["epochs"] - first < 2:
        raise ValueError(
            f"train.epoch_length is 'minutes', but of train.epochs={train['epochs']} the run has "
            f"{train['epochs'] - first}; raise it, so that there are 2 or more, because the first "
            "one measures how long an update takes."
        )


@contextlib.contextmanager
def measured(seconds, name):
    """Set an entry of a dict of seconds to the time that the block takes.

    Of several blocks the last counts: the first compiles.
    """
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began


class Updates:
    """Measures an update, its data included, in a loop that dispatches ahead.

    `after(done)` is called when `done` updates have finished. Time counts from the first call, so
    that what the first update compiles does not.
    """

    def __init__(self):
        self._first = self._last = None

    def after(self, done):
        """Record that `done` updates have finished."""
        self._last = time.monotonic(), done
        self._first = self._first or self._last

    def seconds(self):
        """Seconds of an update, None where fewer than two came after the first."""
        if self._first is None or self._last[1] - self._first[1] < 2:
            return None
        return (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])


def note(run, progress, **seconds):
    """Keep what was measured, where the minutes decide: other checkpoints hold no times."""
    if by_minutes(run.settings):
        progress.pace |= seconds


def seconds_of_wholes(run, variables):
    """Seconds that one set of weights takes on the whole validation part, from its first two.

    The second is the measure, since the first compiles; it is the first where there is one alone.
    """
    found = run.data.segment(run.programs.network, run.settings.devices.here(variables))
    seconds = []
    for _ in range(min(len(run.data.validation_ids), 2)):
        began = time.monotonic()
        next(found)
        seconds.append(time.monotonic() - began)
    return seconds[-1] * len(run.data.validation_ids)


def updates_of_next(run, state, progress):
    """The updates of the next epoch of a run whose minutes decide, 1 or more.

    What is left of the time, without that for judging the remaining epochs and for the scores at
    the end, is shared evenly by the remaining epochs.

    Args:
      run: `start.Run`.
      state: `TrainState`.
      progress: `Progress` at the end of an epoch that is not the last. Where it lacks the time of
        a whole evaluation, that is measured and added.
    """
    settings, pace = run.settings, progress.pace
    if "sample" not in pace:  # stopped so late in the first epoch that too few updates were left
        return FIRST
    epochs = range(progress.epoch + 1, settings.train["epochs"])
    trees = 1 + len(state.averages)
    if "wholes" not in pace:
        pace["wholes"] = seconds_of_wholes(run, state.variables) * trees
    evaluations = 1 + sum(settings.judges_wholes(epoch) for epoch in epochs)
    judging = len(epochs) * pace["patches"] + evaluations * pace["wholes"]
    left = 60 * settings.train["minutes"] * (1 - MARGIN) - progress.seconds - judging
    stage = stages.at(settings.plan, progress.epoch + 1)
    samples = stage.batch(settings.seed, progress.epoch + 1) * stage.accumulate
    return max(int(left / len(epochs) / (pace["sample"] * samples)), 1)


def in_words(run, progress):
    """A line for the log, once the first epoch has measured the pace."""
    pace, train = progress.pace, run.settings.train
    return (
        f"Pace: {pace['sample']:.3g} s per sample, {pace['wholes']:.3g} s to judge the "
        f"{run.data.wholes}: {train['epochs']} epochs of about {progress.updates} updates fill "
        f"{train['minutes']:g} minutes"
    )
