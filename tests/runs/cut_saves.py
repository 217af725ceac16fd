"""A save that is cut off at one file operation after the other, each in a process of its own.

`python -m tests.runs.cut_saves FOLDER`: FOLDER/before is a run; FOLDER/N becomes what a process
leaves that dies as its N-th operation is about to happen, and FOLDER/operations.json says which.
The processes are forked from one that has imported and compiled everything. JAX's threads do not
come along, so arrays are copied in the thread that asks for it; Orbax has started none by then.
"""

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp

from jax_seg.runs import checkpoints
from tests.runs.states import position, state_of

OPERATIONS = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree")


jax.config.update("jax_cpu_enable_async_dispatch", False)
STATE = state_of(3, 4)


def main(folder):
    """Fork until a save comes to its end."""
    jax.block_until_ready(jax.tree.map(jnp.copy, STATE))
    last, seen = 1, []
    while True:
        run, note = folder / str(last), folder / f"{last}.txt"
        shutil.copytree(folder / "before", run)
        child = os.fork()
        if not child:
            sys.addaudithook(_death(str(run), last, os.open(note, os.O_WRONLY | os.O_CREAT)))
            _save(run)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        seen.append(note.read_text().split("|"))
        last += 1
    (folder / "operations.json").write_text(json.dumps(seen))


def _save(run):
    manager = checkpoints.open_checkpoints(run, metric="loss", pinned=lambda: 4)
    checkpoints.save(manager, STATE, position(3), {"loss": 0.5})
    checkpoints.wait(manager)
    manager.close()


def _death(folder, last, note):
    lock, count = threading.Lock(), 0

    def audit(event, arguments):
        nonlocal count
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event in OPERATIONS:
            path = arguments[0]
        else:
            return
        if not isinstance(path, str | os.PathLike) or folder not in str(Path(path).absolute()):
            return
        with lock:
            count += 1
            if count == last:
                os.write(note, f"{event}|{Path(path).relative_to(folder)}".encode())
                os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait()

    return audit


if __name__ == "__main__":
    main(Path(sys.argv[1]))
