"""A run that copies its folder at chosen moments, each as a process killed there would leave it.

`launch.py --config tests/snapshots.py:PLAN.json` trains the plan's "source" in its "workdir". As
Python's audit event EVENT is first about to happen at a path that PATTERN finds, the folder is
copied to where "moments", {copy: [EVENT, PATTERN]}, says. The whole process stands still meanwhile:
its files are what it has handed to the system until then, which is all that SIGKILL leaves.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from jax_seg.system import config_file


def at(moments, source, workdir, plan):
    """The value of --config for the run of `source` in `workdir`; writes the file `plan`."""
    moments = {str(copy): moment for copy, moment in moments.items()}
    content = {"source": source, "workdir": str(workdir), "moments": moments}
    Path(plan).write_text(json.dumps(content))
    return f"tests/snapshots.py:{plan}"


def get_config(plan):
    content = json.loads(Path(plan).read_text())
    left = dict(content["moments"])

    def watch(name, arguments):
        for copy, (event, pattern) in list(left.items()):
            if name == event and re.search(pattern, str(arguments[0])) and left.pop(copy, None):
                command = [sys.executable, __file__, str(os.getpid()), content["workdir"], copy]
                subprocess.run(command, check=True)

    sys.addaudithook(watch)
    return config_file.load(content["source"])


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
