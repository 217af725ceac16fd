"""The tiny configuration as a file, for tests that start `launch.py` in a process of its own."""

from tests.conftest import tiny_config


def get_config(root):
    config = tiny_config(root)
    config.train.update(epochs=3, log_every=1)
    config.average.update(swa_start=1, swa_every=1, ema_decay=0.9)
    config.noise.update(start_epoch=1, every=1, std=0.01)
    config.checkpoint.minutes = 1e-9  # save at every step: kills then also hit saves
    return config
