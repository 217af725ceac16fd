"""What a process of its own does with a disk that is full, as its terminal then shows it."""

import itertools
import shutil
import sys
import warnings
from pathlib import Path

from jax_seg.runs import checkpoints
from jax_seg.system import startup
from tests.runs.states import ABSTRACT, assert_same_state, position, state_of
from tests.small_disk import files_of_at_most


def with_limits(run):
    """Save under limits on the size of a file, waiting for it and not, and show what is raised."""
    startup.prepare()
    warnings.simplefilter("always", UserWarning)
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
    cases = itertools.product((0, 10, 100, 300, 600, 1500), (True, False))
    # Each with a step of its own: threads of the save before may still write.
    for step, (limit, waits) in enumerate(cases, 4):
        manager = checkpoints.open_checkpoints(run, metric="loss", keep=2)
        with files_of_at_most(limit):
            _save(manager, waits, step)
            manager.close()


def with_pages(run):
    """Save with one page more on the disk each time, until it is enough."""
    startup.prepare()
    others = Path(run).parent / "others"
    for step in itertools.count(4):  # as above
        manager = checkpoints.open_checkpoints(run, metric="loss", keep=2)
        if not others.exists():
            others.write_bytes(bytes(shutil.disk_usage(run).free))
        saved = _save(manager, True, step)
        manager.close()
        if saved:
            break
        before = checkpoints.open_for_reading(run)
        assert before.latest_step() == 3
        assert_same_state(checkpoints.restore(before, ABSTRACT, 3)[0], state_of(3, 3))
        with others.open("r+b") as file:
            file.truncate(others.stat().st_size - 4 * 4096)
    print("saved")


def _save(manager, waits, step):
    try:
        checkpoints.save(manager, state_of(4, step), position(step) | {"about": "x" * 20_000})
        if waits:
            checkpoints.wait(manager)
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        return False
    return True
