"""Events of a run: one JSON line each, and the same figures for TensorBoard."""

import json
from pathlib import Path

import tensorboardX

from jax_seg.system.files import replacing


class Events:
    """Appends events to `workdir/events.jsonl` and scalars to `workdir/tensorboard`.

    An event is {'kind': …, 'step': …, 'epoch': …, figures}. A resumed run drops first what
    it will live through again: the events of its epoch, but for the updates that are done.
    """

    def __init__(self, workdir, epoch, step):
        """Open the log of a run that stands in `epoch` at `step`."""
        workdir = Path(workdir)
        path = workdir / "events.jsonl"
        kept = [
            event
            for event in read_events(workdir)
            if event["epoch"] < epoch or (event["kind"] == "update" and event["step"] <= step)
        ]
        with replacing(path) as beside:
            beside.write_text("".join(json.dumps(event) + "\n" for event in kept))
        self._file = path.open("a")
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1 if step else None
        )

    def write(self, kind, *, step, epoch, **figures):
        """Append one event; a decision's numbers become 'decision/KIND/NUMBER' in TensorBoard."""
        self._file.write(json.dumps({"kind": kind, "step": step, "epoch": epoch, **figures}) + "\n")
        self._file.flush()
        if kind == "decision":
            figures = figures["decision"]
            kind = f"decision/{figures['kind']}"
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self):
        """Flush and close both files."""
        self._file.close()
        self._board.close()


def read_events(workdir):
    """The events of a run as a list of dicts; empty when there are none.

    A last line cut short by a crash is left out.
    """
    path = Path(workdir) / "events.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
