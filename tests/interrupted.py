"""A configuration whose run sends itself a signal at one file operation, whatever else is slow.

`launch.py --config tests/interrupted.py:SIGNAL|EVENT|PATTERN|FILE.py:ARGUMENT` trains what
FILE.py:ARGUMENT says, until Python's audit event EVENT (as 'os.mkdir' or 'os.rename') is about to
happen at a path that PATTERN finds.
"""

import os
import re
import signal
import sys

from jax_seg.system import config_file


def at(moment, source, number=signal.SIGKILL):
    """The value of --config for a moment (EVENT, PATTERN) in the run of `source`."""
    return "tests/interrupted.py:" + "|".join((str(int(number)), *moment, source))


def get_config(argument):
    number, event, pattern, source = argument.split("|")
    sent = []

    def watch(name, arguments):
        if name == event and not sent and re.search(pattern, str(arguments[0])):
            sent.append(name)
            os.kill(os.getpid(), int(number))

    sys.addaudithook(watch)
    return config_file.load(source)
