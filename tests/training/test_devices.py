"""Eight devices compute what one does, divide what they should, and share a run in any number."""

import json
import os
import re
import subprocess
import sys

import pytest

from jax_seg.system.devices import arrange
from jax_seg.training.settings import read_settings
from tests.conftest import ROOT, TIME_LIMIT, tiny_config
from tests.training.test_lowering import convolutions

# More threads would only wait for one another, on a busy machine for long.
EIGHT = (
    "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false "
    "--xla_cpu_collective_call_terminate_timeout_seconds=1800"
)


@pytest.fixture(scope="module")
def seen(volumes_folder, tmp_path_factory):
    """What `tests.on_devices` has computed."""
    output = tmp_path_factory.mktemp("on_devices")
    flags = f"{os.environ.get('XLA_FLAGS', '')} {EIGHT}"
    command = [sys.executable, "-m", "tests.on_devices", str(volumes_folder), str(output)]
    subprocess.run(
        command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, check=True, timeout=TIME_LIMIT
    )
    return json.loads((output / "results.json").read_text())


@pytest.mark.parametrize("shared", ["8 1", "4 2"])
def test_loss_and_gradients_are_those_of_one_device(seen, shared):
    """Of two parts, with clipping and an EMA, and a variance over the whole part."""
    assert seen["metrics"][shared] == pytest.approx(seen["metrics"]["1"], rel=1e-5)
    assert seen["distance"][shared] < 1e-5


def test_shared_samples_move_between_devices_once_to_form_the_parts(seen):
    moved = {key: n for key, n in seen["moved"]["8 1"].items() if n}
    assert all(re.search(r"16,16,16,1\]", key) for key in moved)
    assert sum(moved.values()) <= 6  # image, label and mask


def test_a_shared_depth_exchanges_neighbouring_slices_and_gathers_nothing(seen):
    moved = seen["moved"]["4 2"]
    assert not [key for key in moved if "all-gather" in key]
    activations = [key for key in moved if re.search(r"\[4,\d+,\d+,\d+,[248]\]", key)]
    assert len(activations) >= 4  # convolutions of either resolution, forward and backward
    assert all(re.search(r"\[4,1,", key) for key in activations)  # a slice of a kernel of three


@pytest.mark.parametrize("program", ["train", "validate"])
@pytest.mark.parametrize("shared", ["8 1", "4 2"])
def test_shared_programs_lower_for_gpus(seen, shared, program):
    text = seen["for_gpu"][shared][program]
    assert f"num_partitions = {shared[0]}" in text
    found = convolutions(text)
    # Equal layers share a function; in training each has two gradients more.
    assert set(found) == {frozenset(["bf16"])} and found.total() >= 5
    assert set(re.findall(r"custom_call @(\w+)", text)) <= {"Sharding"}  # nothing of a CPU's forms


def test_a_run_resumed_on_other_devices_is_the_run_on_one(seen):
    one, several = seen["runs"]["dice"]
    assert one > 0.3  # it has learned
    assert several == pytest.approx(one, abs=5e-4)
    assert seen["runs"]["distance"] < 1e-5


def test_windows_of_a_volume_that_is_normalised_by_itself(seen):
    assert seen["normalised_by_itself"] < 1e-5


def test_devices_that_are_not_there(volumes_folder):
    with pytest.raises(ValueError, match=r"devices\.count is 2, but this process has 1 device:"):
        arrange(count=2)
    with pytest.raises(ValueError, match=r"devices\.space is 2, .* set it to 1\."):
        arrange(space=2)
    config = tiny_config(volumes_folder)
    config.devices.count = -1
    with pytest.raises(ValueError, match=r"devices\.count is -1"):
        read_settings(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data.batch": 4}, "data.batch is 4, which cannot be divided over 8 devices: set it to a"
         " multiple of 8, or devices.count so that 1, 2 or 4 of them share the samples."),
        ({"data.random_batch": (12, 8)}, "data.random_batch is 12, which cannot"),
        ({"devices.space": 3}, "devices.space is 3, but it has to divide the 8 devices of a"
         " process: set it to 1, 2, 4 or 8."),
        ({"devices.space": 8, "data.patch": (12, 16, 16)}, "devices.space is 8, but data.patch is"
         " 12 voxels deep, which cannot be divided over them: set it to 1, 2, 3, 4, 6 or 12."),
    ],
)  # fmt: skip
def test_what_the_devices_do_not_divide(fields, message, volumes_folder, monkeypatch):
    monkeypatch.setattr("jax.local_devices", lambda: [FakeDevice(n) for n in range(8)])
    monkeypatch.setattr("jax.devices", lambda: [FakeDevice(n) for n in range(8)])
    config = tiny_config(volumes_folder)
    config.data.batch = config.devices.count = 8
    config.update_from_flattened_dict(fields)
    with pytest.raises(ValueError) as refused:
        read_settings(config)
    assert str(refused.value).startswith(message)


def test_as_many_devices_as_divide_every_batch(monkeypatch):
    monkeypatch.setattr("jax.local_devices", lambda: [FakeDevice(n) for n in range(8)])
    monkeypatch.setattr("jax.devices", lambda: [FakeDevice(n) for n in range(8)])
    for batches, space, size in (((2,), 1, 2), ((12, 8), 1, 4), ((3,), 2, 3), ((16,), 1, 8)):
        assert arrange(space=space, batches=batches).size == size, batches
    assert arrange(batches=(2,)).words("gpu") == "2 of 8 × gpu"
    assert arrange(batches=(8,)).words("gpu") == "8 × gpu"


class FakeDevice:
    """As much of a device as a mesh looks at."""

    process_index, platform = 0, "cpu"

    def __init__(self, id):
        self.id = id
