"""Events of a run: one JSON line each, and the same metrics for TensorBoard."""

import contextlib
import json
import time
import warnings
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jax_seg.system.files import replacing, writing


class Events:
    """Appends events to `workdir/events.jsonl` and scalars to `workdir/tensorboard`.

    An event is {'kind': …, 'step': …, 'epoch': …, metrics}. A resumed run first drops the events
    that it will repeat: those of its epoch, except the updates already done.
    """

    def __init__(self, workdir, epoch, step):
        """Open the log of a run at `epoch` and `step`; OSError as of `writing`."""
        workdir = Path(workdir)
        self._path = workdir / "events.jsonl"
        kept = [
            event
            for event in read_events(workdir)
            if event["epoch"] < epoch or (event["kind"] == "update" and event["step"] <= step)
        ]
        with replacing(self._path) as beside:
            beside.write_text("".join(json.dumps(event) + "\n" for event in kept))
        with writing(self._path):
            self._file = self._path.open("a")
        self._board = _Board(workdir / "tensorboard", purge_step=step + 1 if step else None)

    def write(self, kind, *, step, epoch, **metrics):
        """Append one event; a decision's numbers become 'decision/KIND/NUMBER' in TensorBoard.

        Raises:
          OSError: of `writing`.
        """
        line = json.dumps({"kind": kind, "step": step, "epoch": epoch, **metrics}) + "\n"
        with writing(self._path):
            self._file.write(line)
            self._file.flush()
        of_an_update = kind == "update"
        if kind == "decision":
            metrics = metrics["decision"]
            kind = f"decision/{metrics['kind']}"
        scalars = {
            f"{kind}/{name}": value
            for name, value in metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._board.write(scalars, step, flush=not of_an_update)

    def close(self):
        """Flush and close both files."""
        with contextlib.closing(self._board), writing(self._path):
            self._file.close()


class _Board:
    """A file for TensorBoard, written by this thread so that a full disk raises here.

    `tensorboardX.SummaryWriter` writes in a thread of its own. On an error that thread prints a
    traceback and ends, and the run then waits for it forever.
    """

    def __init__(self, folder, purge_step):
        self._folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = EventsWriter(str(folder / "events"))
            if purge_step is not None:  # as SummaryWriter does
                self._file.write_event(Event(step=purge_step, file_version="brain.Event:2"))
                log = SessionLog(status=SessionLog.START)
                self._file.write_event(Event(step=purge_step, session_log=log))

    def write(self, scalars, step, flush):
        with writing(self._folder):
            for name, value in scalars.items():
                value = summary.scalar(name, value)
                self._file.write_event(Event(step=step, wall_time=time.time(), summary=value))
            if flush:
                self._file.flush()

    def close(self):
        with writing(self._folder):
            self._file.close()


def read_events(workdir):
    """The events of a run as a list of dicts; empty when there are none.

    A last line truncated by a crash is dropped; other damaged lines are skipped with a warning.
    """
    path = Path(workdir) / "events.jsonl"
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    events, damaged = [], []
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\n"):
            event = _parsed(line)
            events += [event] if event else []
            damaged += [] if event else [number]
    if damaged:
        warnings.warn(
            f"{path}: {len(damaged)} of {len(lines)} lines are damaged, the first is line "
            f"{damaged[0]}; skipping them.",
            stacklevel=2,
        )
    return events


def _parsed(line):
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict) and {"kind", "step", "epoch"} <= event.keys():
            return event
    return None
