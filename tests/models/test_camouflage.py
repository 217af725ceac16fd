"""The detector: published size, sizes of images, norms, and the pretrained encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.losses import GATE_TERMS
from jax_seg.models import edgenext
from jax_seg.models.camouflage import (
    ConvNormReLU,
    Model,
    double,
    pad_to_stride,
    with_encoder,
)
from jax_seg.ops.conv import conv
from tests.models.test_edgenext import count, filled

SMALL = {
    "depths": (1, 1, 1, 1),
    "dims": (8, 8, 8, 16),
    "heads": (1, 2, 2, 2),
    "kernel_sizes": (3, 3, 3, 3),
    "experts": ("contrast", "hybrid"),
    "active": 1,
    "last_features": 4,
}


def test_published_size():
    model = Model()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    sizes = {name: count(tree) for name, tree in shapes["params"].items()}

    def part(*prefixes):
        return sum(size for name, size in sizes.items() if name.startswith(prefixes))

    assert sizes["encoder"] == 17_925_124
    assert part("attention_") == 169_743
    assert part("experts_") == 8_641_490
    assert part("up_") == 4_199_136
    assert part("head_") == 531
    assert part("output_") == 18_561
    assert sum(sizes.values()) == 30_954_585


@pytest.fixture(scope="module")
def batch_norm():
    """A tiny detector with batch norm: prediction, variables, images, training's forward pass."""
    model = Model(**SMALL)
    x = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    variables = filled(model, x)

    @jax.jit
    def train(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    return jax.jit(model.apply), variables, x, train


def test_logits_and_gates(batch_norm):
    _, variables, x, train = batch_norm
    (logits, gates), _ = train(variables, x)
    assert [level.shape for level in logits] == [(2, 64, 64, 1)] * 4
    assert {level.dtype for level in logits} == {jnp.dtype("float32")}
    assert gates["expert_use"].shape == (4, 2)
    np.testing.assert_allclose(gates["expert_use"].sum(1), 1)
    assert gates["gate_entropy"].shape == (4,)
    assert (gates["gate_entropy"] <= np.log(2) + 1e-6).all()
    assert all(gates[name].shape == () for name in GATE_TERMS)


def test_running_statistics_are_state(batch_norm):
    predict, variables, x, train = batch_norm
    _, new = train(variables, x)
    old = variables["batch_stats"]["output_0"]["norm"]
    np.testing.assert_array_equal(old["mean"], 0)
    np.testing.assert_array_equal(old["var"], 1)
    # After many equal batches the running statistics are the batch's, and the modes agree.
    state = variables
    for _ in range(120):
        (trained, _), changed = train(state, x)
        state = {**variables, **changed}
    predicted, _ = predict(state, x)
    np.testing.assert_allclose(predicted[0], trained[0], atol=1e-3)
    moved = new["batch_stats"]["output_0"]["norm"]["mean"]
    final = state["batch_stats"]["output_0"]["norm"]["mean"]
    np.testing.assert_allclose(moved, 0.1 * final, rtol=0.05, atol=1e-5)


def test_any_image_size():
    odd = jax.random.normal(jax.random.key(0), (2, 45, 33, 3))
    padded = np.pad(odd, ((0, 0), (0, 19), (0, 31), (0, 0)), mode="edge")
    np.testing.assert_array_equal(pad_to_stride(odd), padded)
    (logits, _), _ = jax.eval_shape(
        lambda x: Model(**SMALL).init_with_output(jax.random.key(0), x), odd
    )
    assert [level.shape for level in logits] == [(2, 45, 33, 1)] * 4


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_norms_that_look_at_one_image(norm):
    model = Model(**SMALL, norm=norm)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert set(shapes) == {"params"}
    layer = ConvNormReLU(8, norm, 0.9, "float32")
    x = jax.random.normal(jax.random.key(0), (3, 6, 6, 4))
    variables = filled(layer, x, train=True)
    alone, other = (layer.apply(variables, y, train=True) for y in (x, x.at[1:].multiply(5)))
    np.testing.assert_allclose(alone[0], other[0], atol=1e-5)
    before = conv(x, variables["params"]["kernel"])
    axes = (1, 2) if norm == "group" else 3  # 8 channels make 8 groups of one
    mean, std = before.mean(axes, keepdims=True), before.std(axes, keepdims=True)
    np.testing.assert_allclose(alone, jnp.maximum((before - mean) / std, 0), atol=1e-3)


def test_bfloat16_keeps_parameters_and_logits_in_float32():
    model = Model(**SMALL, dtype="bfloat16")
    x = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    logits, gates = jax.eval_shape(model.apply, variables, x)
    for tree in (variables, logits, gates):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


def test_double_is_bilinear():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    expected = jax.image.resize(x, (2, 6, 10, 4), "bilinear")
    np.testing.assert_allclose(double(x), expected, atol=1e-6)


def test_pretrained_encoder_takes_its_place(batch_norm):
    _, variables, _, _ = batch_norm
    fields = {name: SMALL[name] for name in ("depths", "dims", "heads", "kernel_sizes")}
    encoder = edgenext.Model(**fields, scales=(2, 2, 3, 4), num_classes=5)
    pretrained = filled(encoder, jnp.zeros((1, 32, 32, 3)), seed=7)["params"]
    params = with_encoder(variables["params"], pretrained)
    kernel = params["encoder"]["stem_0"]["kernel"]
    np.testing.assert_array_equal(kernel, pretrained["stem_0"]["kernel"])
    assert "head" not in params["encoder"]
    assert jax.tree.structure(params) == jax.tree.structure(variables["params"])

    wider = encoder.clone(dims=(16, 8, 8, 16))
    shapes = jax.eval_shape(wider.init, jax.random.key(7), jnp.zeros((1, 32, 32, 3)))["params"]
    with pytest.raises(ValueError, match=r"differs in size from the detector's: stages_0"):
        with_encoder(variables["params"], shapes)


@pytest.mark.parametrize(
    ("fields", "shape", "words"),
    [
        ({"norm": "instance"}, (1, 32, 32, 3), "norm is 'instance'"),
        ({"dims": (8, 8, 12, 16)}, (1, 32, 32, 3), r"model\.dims is .*multiple of 8"),
        ({"batch_momentum": 1.0}, (1, 32, 32, 3), r"model\.batch_momentum is 1\.0"),
        ({"last_features": 5}, (1, 32, 32, 3), "last_features is 5"),
        ({"dropout": 1.0}, (1, 32, 32, 3), r"model\.dropout is 1\.0"),
        ({"active": 3}, (1, 32, 32, 3), "active is 3, but there are 2 experts"),
        ({}, (32, 32, 3), "B, H, W, 3"),
    ],
)
def test_what_does_not_fit_is_one_sentence(fields, shape, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(Model(**SMALL | fields).init, jax.random.key(0), jnp.zeros(shape))
