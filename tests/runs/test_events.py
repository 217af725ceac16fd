"""The events of a run: what a resumed run keeps, damaged lines, TensorBoard, a full disk."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jax_seg.runs.events import Events, read_events
from tests.small_disk import files_of_at_most


def test_resumed_run_drops_the_events_of_its_epoch(tmp_path):
    events = Events(tmp_path, epoch=0, step=0)
    for epoch in range(3):
        events.write("train", step=4 * epoch + 4, epoch=epoch, loss=1.0 / (epoch + 1))
    events.close()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 16, "ep')  # cut by a crash
    Events(tmp_path, epoch=2, step=8).close()
    assert [(e["epoch"], e["loss"]) for e in read_events(tmp_path)] == [(0, 1.0), (1, 0.5)]


def test_no_events_is_an_empty_list(tmp_path):
    assert read_events(tmp_path) == []


def of_tensorboard(folder):
    """The events of TensorBoard's files: a length, its checksum, an event, its checksum, and on."""
    found = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def test_tensorboard_shows_each_figure_under_its_kind(tmp_path):
    events = Events(tmp_path, epoch=0, step=0)
    events.write("train", step=8, epoch=3, loss=0.5, stage="first", finite=True)
    decision = {"kind": "intervention", "epoch": 3, "scale": 32.5, "p": 2}
    events.write("decision", step=9, epoch=3, decision=decision)
    events.close()
    assert read_events(tmp_path)[1]["decision"] == decision
    first, *others = of_tensorboard(tmp_path / "tensorboard")
    assert first.file_version == "brain.Event:2"
    shown = [(v.tag, v.simple_value, e.step) for e in others for v in e.summary.value]
    assert shown == [
        ("train/loss", 0.5, 8),
        ("decision/intervention/epoch", 3, 9),
        ("decision/intervention/scale", 32.5, 9),
        ("decision/intervention/p", 2, 9),
    ]


def test_tensorboard_forgets_what_a_resumed_run_lives_through_again(tmp_path):
    Events(tmp_path, epoch=1, step=7).close()
    _, *purge = of_tensorboard(tmp_path / "tensorboard")
    assert [event.step for event in purge] == [8, 8]
    assert purge[1].session_log.status == SessionLog.START


@pytest.mark.parametrize(
    "damage", [bytes(60), b"{\xff", b"[1]", b'{"kind": "train"}', b"\x00\x00{}"]
)
def test_damaged_lines_are_skipped_and_counted(tmp_path, damage):
    events = Events(tmp_path, epoch=0, step=0)
    for epoch in range(3):
        events.write("train", step=epoch, epoch=epoch)
    events.close()
    path = tmp_path / "events.jsonl"
    first, _, last = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join((first, damage, last)) + b"\n")
    with pytest.warns(
        UserWarning, match=r"1 of 3 lines are damaged, the first is line 2; skipping"
    ):
        assert [event["epoch"] for event in read_events(tmp_path)] == [0, 2]
    with pytest.warns(UserWarning, match="skipped"):
        Events(tmp_path, epoch=9, step=9).close()  # a resumed run
    assert [event["epoch"] for event in read_events(tmp_path)] == [0, 2]


@pytest.mark.parametrize("content", [b"", bytes(500)])
def test_a_file_without_an_event_is_no_event(tmp_path, content):
    (tmp_path / "events.jsonl").write_bytes(content)
    assert read_events(tmp_path) == []


def test_a_full_disk_ends_the_run_in_a_sentence(tmp_path, capfd):
    """Nothing waits for a thread that has died of it, and nothing is printed between."""
    events = Events(tmp_path, epoch=0, step=0)
    with (
        pytest.raises(OSError, match=r"(events\.jsonl|tensorboard) could not be written"),
        files_of_at_most(2000),
    ):
        for step in range(100):
            events.write("update", step=step, epoch=0, loss=0.5, dice=0.5)
    events.close()
    assert len(read_events(tmp_path)) in range(10, 40)
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_of_tensorboard_is_named(tmp_path):
    events = Events(tmp_path, epoch=0, step=0)
    figures = {f"figure_{number}": 0.5 for number in range(100)}
    with pytest.raises(OSError, match="tensorboard could not be written"), files_of_at_most(4000):
        events.write("train", step=1, epoch=0, **figures)
    events.close()
