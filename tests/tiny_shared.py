"""A configuration that several processes can share, as a file, for tests that start them."""

from tests.conftest import tiny_config


def get_config(root):
    config = tiny_config(root)
    config.data.update(batch=4, patches_per_volume=2)
    config.train.epochs = 10_000
    # Small rates: under large ones the rounding of sums in another order grows with the updates.
    config.schedule.learning_rate = 0.01
    config.average.update(swa_start=1, swa_every=1, swa_learning_rate=0.01)
    config.noise.update(start_epoch=1, every=1, std=0.001)
    return config
