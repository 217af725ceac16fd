"""Copies of a run's folder at chosen moments, as the process would leave it if killed there.

As Python's audit event EVENT is first about to happen at a path that PATTERN finds, the folder is
copied. The whole process stands still meanwhile: its files are what it has handed to the system
until then, which is all that SIGKILL leaves.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def take(moments, workdir):
    """Have a folder copied, once for each of {copy: (EVENT, PATTERN)}, from now on."""
    left = dict(moments)

    def watch(name, arguments):
        for copy, (event, pattern) in list(left.items()):
            if name == event and re.search(pattern, str(arguments[0])) and left.pop(copy, None):
                command = [sys.executable, __file__, str(os.getpid()), workdir, copy]
                subprocess.run(command, check=True)

    sys.addaudithook(watch)


def copy_of_stopped(process, workdir, copy):
    """Copy a folder while all threads of the process that writes it stand still."""
    os.kill(process, signal.SIGSTOP)
    try:
        while not all(map(_stands_still, Path(f"/proc/{process}/task").iterdir())):
            time.sleep(0.001)
        shutil.copytree(workdir, copy, symlinks=True)
    finally:
        os.kill(process, signal.SIGCONT)


def _stands_still(thread):
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return False


if __name__ == "__main__":
    copy_of_stopped(int(sys.argv[1]), *sys.argv[2:])
