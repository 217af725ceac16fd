import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jax_seg.models import layers
from jax_seg.models.layers import ConvInstanceNorm, Upsample, max_pool, pointwise
from jax_seg.models.unet import Model
from tests.closeness import assert_close


def shapes_of(model, side=None):
    side = side or 2**model.poolings
    x = jnp.zeros((1, *(side,) * model.dimensions, model.in_channels))
    return jax.eval_shape(model.init, jax.random.key(0), x)["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def example(model, shape):
    """An input and random parameters; NumPy draws them, which needs no compilation."""
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=shape), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]

    def leaf(expected):
        fan_in = np.prod(expected.shape[:-1], initial=1)
        return jnp.asarray(generator.normal(size=expected.shape) / fan_in**0.5, jnp.float32)

    return x, jax.tree.map(leaf, shapes)


def numbers(rank):
    spatial = "DHW"[-rank:]
    return (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")


def plain_unet(params, x, poolings):
    """The network from the platform's own operations, every bias added."""
    rank = x.ndim - 2
    twos = (2,) * rank

    def block(block_params, x):
        for name in ("conv_0", "conv_1"):
            kernel, bias = block_params[name]["kernel"], block_params[name]["bias"]
            x = lax.conv_general_dilated(
                x, kernel, (1,) * rank, "SAME", dimension_numbers=numbers(rank)
            )
            x = nn.InstanceNorm(epsilon=1e-5, use_bias=False, use_scale=False).apply({}, x + bias)
            x = jnp.where(x > 0, x, 0.01 * x)
        return x

    skips = []
    for level in range(poolings):
        skips.append(block(params[f"encoder_{level}"], x))
        x = nn.max_pool(skips[-1], twos, twos)
    x = block(params["bottleneck"], x)
    for index in range(poolings):
        up = params[f"up_{index}"]
        x = conv_transpose(x, up["kernel"]) + up["bias"]
        x = block(params[f"decoder_{index}"], jnp.concatenate([x, skips.pop()], -1))
    return x @ params["output"]["kernel"] + params["output"]["bias"]


def conv_transpose(x, kernel):
    rank = x.ndim - 2
    return lax.conv_transpose(
        x,
        kernel.swapaxes(-1, -2),  # transpose_kernel exchanges them again and mirrors the window
        (2,) * rank,
        "VALID",
        dimension_numbers=numbers(rank),
        transpose_kernel=True,
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 22_575_329),
        # 20 encoder, 58 bottleneck, 9 up, 29 decoder, 2 output.
        ({"filters": 1, "poolings": 1, "dimensions": 2}, 118),
        # Heads on the levels of 64 and 128 channels: 65 + 129.
        ({"deep_supervision": 2}, 22_575_329 + 194),
    ],
)
def test_parameter_count(fields, expected):
    assert count(shapes_of(Model(**fields))) == expected


def test_parameter_tree():
    shapes = shapes_of(Model(filters=3, poolings=2, in_channels=2, deep_supervision=1))
    assert set(shapes) == {
        "encoder_0",
        "encoder_1",
        "bottleneck",
        "up_0",
        "up_1",
        "decoder_0",
        "decoder_1",
        "head_1",
        "output",
    }
    assert shapes["encoder_0"]["conv_0"]["kernel"].shape == (3, 3, 3, 2, 3)
    assert shapes["decoder_0"]["conv_0"]["kernel"].shape == (3, 3, 3, 12, 6)
    assert shapes["up_0"]["kernel"].shape == (2, 2, 2, 12, 6)
    assert shapes["head_1"]["kernel"].shape == (6, 1)
    assert shapes["output"]["kernel"].shape == (3, 1)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_initialisation_is_uniform_in_the_fan_in():
    x = jnp.zeros((1, 2, 2, 16))
    for layer, fan_in in [
        (ConvInstanceNorm(8), 9 * 16),
        (Upsample(8), 4 * 8),  # four pixels of the window, eight output channels
        (pointwise(64, fan_in=16, name=None), 16),
    ]:
        params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
        bound = fan_in**-0.5
        assert np.abs(params["bias"]).max() <= bound
        np.testing.assert_allclose(np.abs(params["kernel"]).max(), bound, rtol=0.02)
        np.testing.assert_allclose(params["kernel"].std(), bound / 3**0.5, rtol=0.06)


def test_logits_start_at_the_log_odds_of_the_foreground():
    x, fields = jnp.zeros((1, 4, 4, 4, 1)), {"filters": 2, "poolings": 2, "deep_supervision": 1}
    rare, half = (
        jax.jit(pointwise(1, fan_in=4, name=None, foreground_prior=prior).init)(
            jax.random.key(0), x
        )
        for prior in (1 / 9, 0.5)
    )
    np.testing.assert_array_equal(rare["params"]["kernel"], half["params"]["kernel"])
    shift = rare["params"]["bias"] - half["params"]["bias"]
    np.testing.assert_allclose(shift, -np.log(8), rtol=1e-5)
    # And so do both heads of a network.
    init = Model(**fields, foreground_prior=1 / 9).init
    assert str(jax.make_jaxpr(init)(jax.random.key(0), x)).count("-2.079441") == 2


@pytest.mark.parametrize("prior", [0.0, 1.0, -1.0, float("nan")])
def test_a_prior_that_is_no_share_is_refused(prior):
    with pytest.raises(ValueError, match=r"model\.foreground_prior is"):
        pointwise(1, fan_in=4, name=None, foreground_prior=prior)


def test_network_and_gradient_equal_the_platforms_operations():
    model = Model(filters=3, poolings=1, in_channels=2, out_channels=2, dimensions=2)
    x, params = example(model, (2, 4, 6, 2))
    expected, expected_gradient = jax.jit(
        jax.value_and_grad(lambda p: jnp.square(plain_unet(p, x, 1)).sum())
    )(params)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda p: jnp.square(model.apply({"params": p}, x)).sum())
    )(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    scale = max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradient))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * scale),
        gradient,
        expected_gradient,
    )


@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 4)])
def test_upsample_is_a_transposed_convolution(spatial):
    layer = Upsample(5)
    x, params = example(layer, (2, *spatial, 3))
    y, pull_back = jax.vjp(lambda p, x: layer.apply({"params": p}, x), params, x)
    expected, expected_pull_back = jax.vjp(
        lambda p, x: conv_transpose(x, p["kernel"]) + p["bias"], params, x
    )
    assert y.shape == (2, *(2 * size for size in spatial), 5)
    assert_close(y, expected)
    cotangent = jax.random.normal(jax.random.key(9), y.shape)
    assert_close(pull_back(cotangent), expected_pull_back(cotangent))


@pytest.mark.parametrize("spatial", [(4, 6), (4, 2, 6)])
def test_max_pool_and_its_gradient(spatial):
    x = jax.random.normal(jax.random.key(0), (2, *spatial, 3))
    twos = (2,) * len(spatial)
    y, pull_back = jax.vjp(max_pool, x)
    expected, expected_pull_back = jax.vjp(lambda x: nn.max_pool(x, twos, twos), x)
    np.testing.assert_array_equal(y, expected)
    cotangent = jax.random.normal(jax.random.key(1), y.shape)
    np.testing.assert_array_equal(pull_back(cotangent)[0], expected_pull_back(cotangent)[0])


def test_max_pool_shares_the_gradient_of_equal_maxima():
    x = jnp.array([[3.0, 3.0], [1.0, 3.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: max_pool(x).sum())(x)[0, :, :, 0]
    np.testing.assert_allclose(gradient, [[1 / 3, 1 / 3], [0, 1 / 3]], rtol=1e-6)


def test_bfloat16_is_close_and_returns_float32_logits():
    model = Model(filters=8, poolings=1, dimensions=2)
    x, params = example(model, (1, 64, 64, 1))
    logits = jax.jit(model.apply)({"params": params}, x)
    low = jax.jit(model.clone(dtype="bfloat16").apply)({"params": params}, x)
    assert low.dtype == jnp.float32
    difference = jnp.abs(low - logits)
    assert 0 < difference.max() < 0.3 * logits.std() + 0.05
    assert jnp.sqrt(jnp.square(difference).mean()) < 0.05 * logits.std()
    assert len(np.unique(low)) > 3000  # bfloat16 logits would repeat far more


def test_rematerialisation_changes_no_gradient():
    model = Model(filters=3, poolings=1, dimensions=2)
    x, params = example(model, (1, 8, 8, 1))

    def gradient(model):
        return jax.grad(lambda p: jnp.square(model.apply({"params": p}, x)).mean())

    again = model.clone(rematerialise=True)
    assert jax.tree.structure(shapes_of(again)) == jax.tree.structure(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        jax.jit(gradient(again))(params),
        jax.jit(gradient(model))(params),
    )
    levels = len(
        re.findall(
            r"(remat2|checkpoint)\[", str(jax.make_jaxpr(again.apply)({"params": params}, x))
        )
    )
    assert levels == 3  # encoder, bottleneck, decoder


def test_deep_supervision_adds_heads_on_coarser_levels():
    model = Model(filters=2, poolings=3, dimensions=2, deep_supervision=2)
    x, params = example(model, (1, 16, 24, 1))
    logits = jax.jit(model.apply)({"params": params}, x)
    assert [y.shape for y in logits] == [
        (1, 16, 24, 1),
        (1, 8, 12, 1),
        (1, 4, 6, 1),
    ]
    plain = {name: leaf for name, leaf in params.items() if not name.startswith("head")}
    finest = jax.jit(model.clone(deep_supervision=0).apply)({"params": plain}, x)
    np.testing.assert_allclose(logits[0], finest, atol=1e-6)


def test_planar_levels_leave_depth_alone():
    """One slice deep, a network whose levels are planar is the 2-D network on that slice."""
    flat = Model(filters=2, poolings=2, dimensions=2)
    planar = Model(filters=2, poolings=2, planar_levels=2)
    x, params = example(planar, (2, 1, 8, 12, 1))
    assert params["encoder_1"]["conv_0"]["kernel"].shape == (1, 3, 3, 2, 4)
    assert params["up_1"]["kernel"].shape == (1, 2, 2, 4, 2)
    assert params["bottleneck"]["conv_0"]["kernel"].shape == (3, 3, 3, 4, 8)
    middle = jax.tree.map(
        lambda leaf: leaf[len(leaf) // 2] if leaf.ndim == 5 else leaf, params
    )  # the kernel's other planes see only padding
    expected = flat.apply({"params": middle}, x[:, 0])
    np.testing.assert_allclose(planar.apply({"params": params}, x)[:, 0], expected, atol=1e-5)

    half = Model(filters=2, poolings=2, planar_levels=1)  # depth is pooled once
    assert half.apply({"params": example(half, (1, 2, 4, 4, 1))[1]}, x[:1, :, :4, :4].repeat(2, 1))[
        0
    ].shape == (2, 4, 4, 1)


def test_jit_equals_eager():
    model = Model(filters=2, poolings=1, dimensions=2)
    x, params = example(model, (2, 6, 4, 1))
    assert hash(model) == hash(Model(filters=2, poolings=1, dimensions=2))
    np.testing.assert_allclose(
        jax.jit(model.apply)({"params": params}, x), model.apply({"params": params}, x), atol=1e-5
    )


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        (
            {"poolings": 2},
            (1, 8, 6, 8, 1),
            r"\(8, 6, 8\).*2 poolings need multiples of \(4, 4, 4\); change",
        ),
        ({"poolings": 2}, (1, 8, 0, 8, 1), r"multiples of \(4, 4, 4\)"),
        ({"poolings": 2, "planar_levels": 2}, (1, 3, 6, 8, 1), r"multiples of \(1, 4, 4\)"),
        ({"poolings": 2, "planar_levels": 3}, (1, 4, 4, 4, 1), "planar_levels is 3"),
        ({"dimensions": 2, "planar_levels": 1}, (1, 16, 16, 1), "planar_levels is 1"),
        ({}, (1, 16, 16, 1), r"model\.dimensions is 3.*\(1, 16, 16, 1\).*\[B, D, H, W, 1\]"),
        ({"in_channels": 2}, (1, 16, 16, 16, 1), r"model\.in_channels is 2.*\[B, D, H, W, 2\]"),
        ({"out_channels": 0}, (1, 16, 16, 16, 1), r"model\.out_channels is 0; set it to 1 or more"),
        ({"filters": -1}, (1, 16, 16, 16, 1), r"model\.filters is -1; set it to 1 or more"),
        ({"poolings": 10**6}, (1, 16, 16, 16, 1), r"model\.poolings is 1000000; set it from 0"),
        ({"dimensions": 4}, (1, 16, 16, 16, 1), "dimensions is 4"),
        ({"dtype": "float16"}, (1, 16, 16, 16, 1), "dtype is 'float16'"),
        ({"deep_supervision": 4}, (1, 16, 16, 16, 1), "leave 3 coarser decoder levels"),
    ],
)
def test_what_does_not_fit_is_refused(fields, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(Model(**fields).init, jax.random.key(0), jnp.zeros(shape))


def test_sums_over_channels_are_the_matrix_product():
    """What a GPU computes of few logits, and its gradients."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    kernel = generator.normal(size=(6, 3)).astype(np.float32)
    weight = generator.normal(size=(2, 3, 4, 5, 3)).astype(np.float32)

    def gradients(product):
        return jax.grad(lambda x, kernel: (weight * product(x, kernel)).sum(), (0, 1))(x, kernel)

    np.testing.assert_allclose(layers._sums(x, kernel), x @ kernel, atol=1e-5)
    for one, other in zip(gradients(layers._sums), gradients(jnp.dot), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
