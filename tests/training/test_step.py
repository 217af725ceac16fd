import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg import losses
from jax_seg.data.preprocess import Preprocessing
from jax_seg.models.unet import Model
from jax_seg.training import optimizers, state, step

MODEL = Model(filters=2, poolings=1)
WEIGHTS = {"dice": np.float32(0.7), "boundary": np.float32(0.3)}
KNOBS = {"learning_rates": {"all": np.float32(1.0)}, "loss_weights": WEIGHTS}


def patches(count):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (count, 8, 8, 8, 1), np.uint8)
    return {"image": jnp.asarray(image), "label": jnp.asarray((image > 128).astype(np.uint8))}


def make(clip_norm=0.0):
    """(fresh state, step): plain gradient descent at rate 1, so an update is the gradient."""

    def loss(logits, label, mask, weights, gates):
        return losses.combine(logits, label, mask, weights, gates=gates, terms=tuple(weights))

    def augment(key, batch):
        shift = jax.random.normal(key, (len(batch["image"]), 1, 1, 1, 1))
        return batch | {"image": batch["image"] + 0.1 * shift}

    optimizer = optimizers.make_optimizer(
        "sgd", momentum=0.0, nesterov=False, weight_decay=0.0, clip_norm=0.0
    )
    params = MODEL.init(jax.random.key(0), jnp.zeros((1, 8, 8, 8, 1)))["params"]
    train_step = step.make_train_step(
        MODEL,
        optimizer,
        loss,
        augment,
        Preprocessing(0.0, 255.0, 0.0, 255.0),
        jax.random.key(1),
        part_of=jax.tree.map(lambda _: "all", params),
        clip_norm=clip_norm,
    )
    return lambda: state.create({"params": jax.tree.map(jnp.copy, params)}, optimizer), train_step


def test_accumulated_gradients_are_those_of_the_large_batch():
    fresh, train_step = make()
    whole, figures = train_step(fresh(), patches(6), KNOBS)
    for parts in (2, 3, 6):
        accumulated, same = train_step(fresh(), patches(6), KNOBS, parts)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            accumulated.params,
            whole.params,
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), same, figures)
        assert accumulated.step == 1


def test_accumulation_differs_from_a_smaller_batch():
    """The test above would pass if only the first part were used of equal patches: it is not."""
    fresh, train_step = make()
    whole, _ = train_step(fresh(), patches(6), KNOBS)
    first = jax.tree.map(lambda x: x[:2], patches(6))
    part, _ = train_step(fresh(), first, KNOBS)
    differences = jax.tree.map(lambda a, b: float(abs(a - b).max()), whole.params, part.params)
    assert max(jax.tree.leaves(differences)) > 1e-4


@pytest.mark.parametrize(("clip_norm", "share"), [(1e-6, 1.0), (1e6, 0.0)])
def test_clipped_steps_are_counted(clip_norm, share):
    fresh, train_step = make(clip_norm)
    _, figures = train_step(fresh(), patches(2), KNOBS)
    assert figures["clipped_share"] == share
    assert 1e-6 < figures["gradient_norm"] < 1e6
