"""Seconds from the start of `launch.py` to its first training step, for a first and a second start.

    python -m benchmarks.startup [--config configs/demo.py --root FOLDER]

Each start is a process of its own on one small generated folder; the compilation cache is empty
before the first. A start is timed until the metrics of the first update are written, which happens
during the second update.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start(config, root, folder, name):
    """Seconds until the first update's metrics."""
    command = [
        sys.executable,
        "launch.py",
        f"--config={config}",
        f"--config.data.root={root}",
        f"--config.data.cache={folder}/cache",
        f"--workdir={folder}/{name}",
        "--config.data.batch=1",
        "--config.train.log_every=1",
    ]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    events = Path(folder) / name / "events.jsonl"
    while process.poll() is None:
        if events.exists() and "update" in events.read_text():
            seconds = time.perf_counter() - started
            process.kill()
            process.wait()
            return seconds
        time.sleep(0.01)
    sys.exit(process.stdout.read())


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--root", help="folder of volumes (default: generated ones)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or Path(folder) / "data"
        if not arguments.root:
            command = [sys.executable, "-m", "jax_seg.data.synthetic", str(root)]
            subprocess.run([*command, "--volumes", "8", "--size", "64"], check=True)
        taken = [start(arguments.config, root, folder, f"run{i}") for i in range(2)]
    print(f"{'':14}{'seconds to the first step':>28}")
    for name, seconds in zip(("first start", "second start"), taken, strict=True):
        print(f"{name:14}{seconds:>28.1f}")


if __name__ == "__main__":
    main()
