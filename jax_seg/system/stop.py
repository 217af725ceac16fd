"""Remember signals that ask a run to stop, so that it can save its state first."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def stop_signal():
    """Catch SIGTERM and SIGINT; a second one acts at once, as usual.

    Yields:
      `seen()` -> name of the signal, or None.
    """
    names = []
    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
        yield lambda: None
        return

    def remember(number, _frame):
        names.append(signal.Signals(number).name)
        for number, handler in previous.items():
            signal.signal(number, handler)

    previous = {n: signal.signal(n, remember) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: names[0] if names else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
