"""Nothing is compiled again after the first epoch, whatever the epochs change."""

from types import SimpleNamespace

import jax
import pytest

from jax_seg import losses
from jax_seg.runs.events import read_events
from jax_seg.system import cards
from jax_seg.training import find_batch
from jax_seg.training import run as training
from tests.conftest import tiny_config
from tests.shared_programs import anew


def count_traces(monkeypatch):
    """A list that grows whenever a program that computes the loss is traced anew."""
    anew(monkeypatch)
    traces, combine = [], losses.combine

    def counted(*arguments, **options):
        traces.append(1)
        return combine(*arguments, **options)

    monkeypatch.setattr(losses, "combine", counted)
    return traces


def eventful(volumes_folder):
    """Warm-up, reductions, interventions, rollbacks, noise, averages and a last batch cut short."""
    config = tiny_config(volumes_folder)
    config.data.update(batch=3, patches_per_volume=1)
    config.schedule.update(name="plateau", learning_rate=0.3, warmup_epochs=1)
    config.reduction.update(patience=0, threshold=0.9)
    config.plateau.update(worse_epochs=1, noise_factor=0.0, rollback_fraction=0.0)
    config.average.update(swa_start=4, swa_every=1, ema_decay=0.9)
    config.noise.update(start_epoch=1, every=2, std=0.3)
    config.train.epochs = 6
    return config


def test_epochs_change_everything_and_compile_nothing(volumes_folder, tmp_path, monkeypatch):
    traces = count_traces(monkeypatch)
    config = eventful(volumes_folder)
    training.run(config, tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert "Intervention" in log and "Rollback" in log and "Val swa" in log and "Val ema" in log
    assert len(traces) == 2  # the training step and the loss of patches, once each

    config.train.epochs = 7  # a resumed run compiles its own programs once, too
    training.run(config, tmp_path)
    assert len(traces) == 4


def test_each_size_of_batch_compiles_once(volumes_folder, tmp_path, monkeypatch):
    traces = count_traces(monkeypatch)
    config = tiny_config(volumes_folder)
    config.data.random_batch = (1, 2)
    config.train.epochs = 6
    training.run(config, tmp_path)
    sizes = [e["batch"] for e in read_events(tmp_path) if e["kind"] == "train"]
    assert set(sizes) == {1, 2} and sizes != sorted(sizes)
    assert len(traces) == 2 + 1


def test_step_bytes_grow_with_the_batch(volumes_folder):
    config = tiny_config(volumes_folder)
    one = find_batch.step_bytes(config)
    config.data.batch = 4
    assert one < find_batch.step_bytes(config)


def test_step_bytes_of_several_classes(volumes_folder):
    config = tiny_config(volumes_folder)
    one = find_batch.step_bytes(config)
    config.data.update(classes=("sheet=1", "crust=2"), ignore=())
    config.model.out_channels = 2
    assert one < find_batch.step_bytes(config)


def test_find_batch_doubles_until_the_step_does_not_fit(volumes_folder, monkeypatch):
    def needed(config, card):
        assert card is None
        return config.data.batch * (60 if config.model.rematerialise else 100)

    monkeypatch.setattr(find_batch, "step_bytes", needed)
    monkeypatch.setattr(find_batch, "device_bytes", lambda: 480)
    lines = []
    assert find_batch.find_batch(tiny_config(volumes_folder), report=lines.append) == {
        False: 4,
        True: 8,
    }
    assert sum("does not fit" in line for line in lines) == 2


def test_a_batch_whose_compilation_lacks_memory_does_not_fit(volumes_folder, monkeypatch):
    """Kernels are timed as they are compiled, on the card's own memory."""
    said = ["RESOURCE_EXHAUSTED: out of memory", "INTERNAL: something else"]

    def programs(config, devices):
        def compile():
            if config.data.batch > 2:
                raise jax.errors.JaxRuntimeError(said[0])
            return SimpleNamespace(memory_analysis=lambda: "little")

        lowered = SimpleNamespace(compile=compile)
        return {"train": (SimpleNamespace(lower=lambda: lowered), ())}

    monkeypatch.setattr(find_batch, "abstract_programs", programs)
    monkeypatch.setattr(find_batch, "bytes_held", {"little": 1}.get)
    config, lines = tiny_config(volumes_folder), []
    assert find_batch.find_batch(config, report=lines.append) == {False: 2, True: 2}
    assert sum("inf   does not fit" in line for line in lines) == 2
    del said[0]
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        find_batch.find_batch(config, report=lines.append)


def test_find_batch_of_a_network_that_cannot_rematerialise(volumes_folder, monkeypatch):
    config = tiny_config(volumes_folder)
    with config.unlocked():
        del config.model.rematerialise
    monkeypatch.setattr(find_batch, "step_bytes", lambda config, card: config.data.batch * 100)
    monkeypatch.setattr(find_batch, "device_bytes", lambda: 480)
    assert find_batch.find_batch(config, report=lambda line: None) == {False: 4}


def test_find_batch_for_a_card_that_is_not_there(volumes_folder, monkeypatch):
    """JAX takes three quarters of a card's memory unless told otherwise."""
    card = cards.CARDS["l4"]

    def needed(config, given):
        assert given is card
        return config.data.batch * card.memory // 10

    monkeypatch.setattr(find_batch, "step_bytes", needed)
    name, former = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(former, raising=False)
    config, quiet = tiny_config(volumes_folder), lambda line: None
    assert find_batch.find_batch(config, card, report=quiet)[False] == 4
    monkeypatch.setenv(former, "0.9")
    assert find_batch.find_batch(config, card, report=quiet)[False] == 8
    monkeypatch.setenv(name, "0.3")
    assert find_batch.find_batch(config, card, report=quiet)[False] == 2
    monkeypatch.setenv(name, "")  # as good as not set
    assert find_batch.find_batch(config, card, report=quiet)[False] == 8
