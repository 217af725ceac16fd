"""The running statistics that given weights have, of a network with any momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jax_seg.data.preprocess import Preprocessing
from jax_seg.training import validate
from jax_seg.training.step import make_statistics_pass


class Toy(nn.Module):
    """Two batch norms one after the other, as a network of any momentum has them."""

    batch_momentum: float

    @nn.compact
    def __call__(self, x_BHWC, train=False):
        for index in range(2):
            norm = nn.BatchNorm(not train, momentum=self.batch_momentum, name=f"norm_{index}")
            x_BHWC = jnp.square(norm(x_BHWC))
        return x_BHWC


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_statistics_are_the_mean_over_batches_whatever_they_were(momentum, monkeypatch):
    """Of the network's own momentum, whichever it is."""
    images = np.random.default_rng(0).normal(3, 2, (3, 4, 6, 6, 1)).astype(np.float32)
    batches = [({"image": image}, [0]) for image in images]
    monkeypatch.setattr(validate.pipeline, "batches", lambda *_, **__: batches)
    monkeypatch.setattr(validate.pipeline, "on_device", lambda reader, devices: reader)
    model = Toy(momentum)
    variables = model.init(jax.random.key(0), images[0])
    before = {
        "params": variables["params"],
        "batch_stats": jax.tree.map(lambda leaf: leaf + 100, variables["batch_stats"]),
    }
    see = make_statistics_pass(model, Preprocessing(-1e9, 1e9, 0, 1), jax.random.key(0))
    found = validate.measure_statistics(see, before, range(3), batch=1, threads=0)
    for index in range(2):
        if index:
            deviation = images - images.mean((1, 2, 3, 4), keepdims=True)
            variance = np.square(deviation).mean((1, 2, 3, 4), keepdims=True)
            images = np.square(deviation) / (variance + 1e-5)
        expected = {
            "mean": images.mean((1, 2, 3)).mean(0),
            "var": images.var((1, 2, 3)).mean(0),
        }
        for name, value in expected.items():
            measured = found["batch_stats"][f"norm_{index}"][name]
            np.testing.assert_allclose(measured, value, rtol=1e-4)
