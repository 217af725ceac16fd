"""EdgeNeXt against published numbers."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_seg.models.edgenext import PRESETS, Model, Patches, position_encoding
from jax_seg.ops import depthwise as ops
from jax_seg.weights.timm import edgenext_from_timm, timm_name
from tests.conftest import GOLDEN

WEIGHTS = GOLDEN / "edgenext_small_public.safetensors"
TINY = {
    "depths": (1, 1, 2, 1),
    "dims": (4, 8, 8, 12),
    "heads": (1, 2, 2, 3),
    "kernel_sizes": (3, 5, 7, 9),
    "scales": (2, 2, 3, 4),
}


def shapes_of(num_classes=1000, **fields):
    model = Model(num_classes=num_classes, **fields)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def filled(module, *inputs, seed=0, **options):
    """Variables of a module drawn by NumPy: compiling JAX's generators takes longer than a test."""
    shapes = jax.eval_shape(
        lambda *arrays: module.init(jax.random.key(0), *arrays, **options), *inputs
    )
    generator = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name in ("scale", "var", "temperature"):
            return jnp.ones(leaf.shape)
        if name in ("bias", "mean"):
            return jnp.zeros(leaf.shape)
        fan_in = max(math.prod(leaf.shape[:-1]), 1)
        return jnp.asarray(generator.normal(0, fan_in**-0.5, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def test_features_and_logits_agree_with_the_published_network():
    golden = np.load(GOLDEN / "edgenext_small_public.npz")
    model, params = edgenext_from_timm(WEIGHTS)
    assert (model.depths, model.dims) == ((2, 2, 3, 2), (16, 32, 48, 96))
    assert (model.heads[1:], model.kernel_sizes) == ((4, 4, 4), (3, 5, 7, 9))
    assert (model.scales[1:], model.num_classes) == ((2, 3, 4), 5)
    image = jnp.asarray(np.moveaxis(golden["image"], 1, -1))
    logits, features = jax.jit(model.apply)({"params": params}, image)
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-5, rtol=0)
    for stage, feature in enumerate(features):
        expected = np.moveaxis(golden[f"feature{stage}"], 1, -1)
        np.testing.assert_allclose(feature, expected, atol=1e-4, rtol=0)
    half = model.clone(dtype="bfloat16")
    logits, features = jax.eval_shape(half.apply, {"params": params}, image)
    assert logits.dtype == jnp.float32
    assert {feature.dtype for feature in features} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("xx_small", 1.33e6), ("x_small", 2.34e6), ("small", 5.59e6), ("base", 18_511_292)],
)
def test_published_sizes(preset, parameters):
    # Maaz et al. 2022, table 1 and 2, count in units of 10 000.
    found = count(shapes_of(**PRESETS[preset]))
    assert found == parameters or (preset != "base" and abs(found - parameters) < 5_001)


def test_base_has_the_published_tensors():
    tree = shapes_of(**PRESETS["base"])
    ours = {timm_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    published = json.loads((GOLDEN / "edgenext_base_keys.json").read_text())
    assert ours.keys() == published.keys()
    for name, shape in published.items():
        assert math.prod(ours[name].shape) == math.prod(shape), name
    assert count({k: v for k, v in tree.items() if k != "head"}) == 17_925_124


def test_encoder_without_classes_has_no_head():
    assert "head" not in shapes_of(num_classes=0, **TINY)


def test_position_encoding_by_hand():
    encoding = position_encoding(2, 3, hidden=4, temperature=100)
    angle = 2 * 2 * math.pi / (3 + 1e-6)  # x = 2 of 3; the y half comes first
    np.testing.assert_allclose(
        encoding[0, 1, 4:],
        [math.sin(angle), math.cos(angle), math.sin(angle / 10), math.cos(angle / 10)],
        atol=1e-6,
    )
    np.testing.assert_allclose(encoding[1, :, 0], math.sin(4 * math.pi / (2 + 1e-6)), atol=1e-6)


def test_odd_sides_lose_their_remainder():
    model = Model(num_classes=2, **TINY)
    x = jnp.zeros((1, 45, 70, 3))
    _, features = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x))[0]
    assert [f.shape[1:3] for f in features] == [(11, 17), (5, 8), (2, 4), (1, 2)]


def test_patches_are_a_strided_convolution():
    x = jax.random.normal(jax.random.key(1), (2, 9, 7, 3))
    layer = Patches(5, 2, "float32")
    variables = layer.init(jax.random.key(0), x)
    kernel, numbers = variables["params"]["kernel"], ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=numbers)
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "shape", "words"),
    [
        ({"depths": (1, 1)}, (1, 32, 32, 3), r"model\.depths is"),
        ({"depths": (1, 1, 0, 1)}, (1, 32, 32, 3), r"model\.depths is"),
        ({"dims": (4, 8, 8, 0)}, (1, 32, 32, 3), r"model\.dims is \(4, 8, 8, 0\)"),
        ({"heads": (1, 2, 2, -1)}, (1, 32, 32, 3), r"model\.heads is \(1, 2, 2, -1\)"),
        ({"heads": (1, 3, 2, 3)}, (1, 32, 32, 3), r"model\.heads gives 3 heads"),
        (
            {"kernel_sizes": (3, 4, 3, 3)},
            (1, 32, 32, 3),
            r"model\.kernel_sizes is .*; make each odd",
        ),
        ({"scales": (2, 1, 2, 2)}, (1, 32, 32, 3), r"model\.scales gives 1 groups"),
        ({"dtype": "float16"}, (1, 32, 32, 3), r"model\.dtype is 'float16'"),
        ({}, (1, 31, 32, 3), "sides of at least 32"),
        ({}, (32, 32, 3), "B, H, W"),
    ],
)
def test_what_does_not_fit_is_one_sentence(fields, shape, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(Model(**TINY | fields).init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize("size", [(3, 3), (5, 3), (9, 9)])
def test_depthwise_agrees_with_the_platforms_own(size):
    x, g = jax.random.normal(jax.random.key(0), (2, 2, 7, 6, 5))
    kernel = jax.random.normal(jax.random.key(1), (*size, 5))
    expected, transpose = jax.vjp(ops._xla, x, kernel)
    found, backward = jax.vjp(ops.depthwise, x, kernel)
    for ours, theirs in zip((found, *backward(g)), (expected, *transpose(g)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_bfloat16_depthwise_is_rounded_once():
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 3)).astype(jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (5, 5, 3)).astype(jnp.bfloat16)
    exact = ops.shift_and_add(x.astype(jnp.float32), kernel.astype(jnp.float32))
    np.testing.assert_array_equal(ops.shift_and_add(x, kernel), exact.astype(jnp.bfloat16))
    gradient = jax.grad(lambda x, k: ops.depthwise(x, k).sum().astype(jnp.float32), (0, 1))
    assert all(g.dtype == jnp.bfloat16 for g in gradient(x, kernel))


def test_summed_is_a_convolution_to_one_channel():
    x = jax.random.normal(jax.random.key(0), (2, 9, 6, 4))
    kernel = jax.random.normal(jax.random.key(1), (7, 7, 4))
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(
        x, kernel[..., None], (1, 1), "SAME", dimension_numbers=numbers
    )
    np.testing.assert_allclose(ops.summed(x, kernel), expected, atol=2e-5)
    _, transposed = jax.vjp(
        lambda x, k: lax.conv_general_dilated(
            x, k[..., None], (1, 1), "SAME", dimension_numbers=numbers
        ),
        x,
        kernel,
    )
    weights = jax.random.normal(jax.random.key(2), expected.shape)
    ours = jax.vjp(ops.summed, x, kernel)[1](weights)
    for gradient, exact in zip(ours, transposed(weights), strict=True):
        np.testing.assert_allclose(gradient, exact, atol=5e-5)
