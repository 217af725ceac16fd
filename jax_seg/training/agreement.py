"""What the processes of a run agree on at each update: whether to stop, and whether to save."""

import signal

import jax
import numpy as np


class Agreement:
    """The signal that asked the run to stop and the clock that asks for a save, in all processes.

    One process asks for itself. Several vote at each update, on the devices, and act on the vote
    before it, which has been counted by then: all of them after the same update, and none waits.
    """

    def __init__(self, devices, stop_asked, save_is_due):
        """The agreement of a run.

        Args:
          devices: `Devices`.
          stop_asked: () -> name of the signal that asked this process to stop, or None.
          save_is_due: () -> whether it is time to save.
        """
        self._devices, self._stop_asked, self._save_is_due = devices, stop_asked, save_is_due
        self._alone = devices.processes == 1
        self._vote, self._asked_to_save = None, False
        self._stop, self._save = None, False
        self._count = jax.jit(lambda votes: votes.max(0), out_shardings=devices.replicated)

    def renew(self):
        """Vote, and take the result of the vote before; once per update, in every process."""
        if self._alone:
            return
        # Once for each save: the clock runs on until the vote is counted.
        self._asked_to_save = (
            self._devices.leads and not self._asked_to_save and bool(self._save_is_due())
        )
        before, self._vote = self._vote, self._cast(self._asked_to_save)
        if before is not None:
            number, save = np.asarray(before)
            self._stop, self._save = _named(number), bool(save)

    def settle(self):
        """Vote on whether to stop, and wait for the result: between updates, in every process."""
        if not self._alone:
            self._stop = _named(np.asarray(self._cast(save=False))[0])

    def _cast(self, save):
        name = self._stop_asked()
        vote = [signal.Signals[name].value if name else 0, int(save)]
        own = np.tile(np.array(vote, np.int32), (self._devices.local.size, 1))
        return self._count(self._devices.place(own))

    def stop(self):
        """Name of the signal that all processes stop for, or None."""
        return self._stop_asked() if self._alone else self._stop

    def save(self):
        """Whether all processes save now."""
        return self._save_is_due() if self._alone else self._save


def _named(number):
    return signal.Signals(number).name if number else None
