"""What two processes tell one another, for tests/training/test_processes.py: one of them.

    python -m tests.exchanging HOST:PORT NUMBER FOLDER

prints JSON.
"""

import json
import sys
from pathlib import Path

from jax_seg.system import processes
from jax_seg.system.devices import arrange
from jax_seg.training.agreement import Agreement


def main(address, number, folder):
    """Exchange texts, look for files, and vote, of which the second process wants to stop."""
    processes.connect(address, number, 2)
    text = str(number) * (5000 if number == 0 else 7)
    apart = folder / text[0]
    apart.mkdir()
    wishes = iter([None, "SIGTERM" if number else None])
    agreement, stop = Agreement(arrange(), lambda: next(wishes), lambda: False), []
    for _ in range(2):
        agreement.settle()
        stop.append(agreement.stop())
    found = {
        "from_lead": processes.from_lead(text),
        "from_all": processes.from_all(text),
        "shared": [processes._shared(folder, 30), processes._shared(apart, 0.1)],
        "stop": stop,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
