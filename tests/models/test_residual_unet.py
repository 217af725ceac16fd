"""The residual-encoder U-Net: its size, its levels, and what every level may be set to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import residual_l, residual_m
from jax_seg import models
from jax_seg.models import residual_unet, unet
from jax_seg.models.layers import ResidualBlock


def shapes_of(model, x=None):
    x = jnp.zeros((1, *model.smallest_input(), 1)) if x is None else x
    return jax.eval_shape(model.init, jax.random.key(0), x)["params"]


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def block_size(channels, features, taps=27):
    """Two convolutions with bias, gain and offset; where channels change, a projection."""
    own = taps * features * (channels + features) + 2 * 3 * features
    return own + (channels * features + 2 * features if channels != features else 0)


def test_the_preset_has_the_published_levels():
    config = residual_m.get_config()
    shapes = shapes_of(models.build(**models.with_channels(dict(config.model), (1,))))
    blocks = {name: len(level) for name, level in shapes.items() if "block_0" in level}
    assert blocks == {f"encoder_{n}": b for n, b in enumerate((1, 3, 4, 6, 6))} | {"bottleneck": 6}
    # 128 to 256 channels, then five blocks that keep them
    assert size(shapes["encoder_3"]) == block_size(128, 256) + 5 * block_size(256, 256)
    assert "skip" not in shapes["bottleneck"]["block_0"]  # 320 channels on both sides
    assert {name for name in shapes if name.startswith("head")} == {"head_1", "head_2", "head_3"}


def test_the_large_preset_is_the_same_network_on_twice_the_voxels():
    medium, large = residual_m.get_config(), residual_l.get_config()
    assert large.model == medium.model and large.data.patch == (160,) * 3
    assert large.data.patch[0] % 2**large.model.poolings == 0
    large.data.patch = medium.data.patch
    assert large == medium
    assert residual_l.get_config("demo") == residual_m.get_config("demo")


def test_a_block_by_hand():
    """Zero gains leave the input: averaged where the block strides, then the leaky ReLU."""
    block = ResidualBlock(1, stride=(1, 2), slope=0.1, affine=True)
    x = jnp.array([[1.0, 3.0], [-4.0, -2.0]]).reshape(1, 2, 2, 1)
    params = block.init(jax.random.key(0), x)["params"]
    zero = jax.tree.map(jnp.zeros_like, params)
    y = block.apply({"params": zero}, x)
    np.testing.assert_allclose(y.ravel(), [2.0, -0.3], rtol=1e-6)


@pytest.mark.parametrize("network", [unet.Model, residual_unet.Model])
def test_strides_and_kernels_of_each_level(network):
    fields = {
        "filters": 2,
        "poolings": 2,
        "features": (2, 3, 5),
        "kernels": ((1, 3, 3), (3, 3, 1), (3, 1, 3)),
        "strides": ((1, 1, 1), (1, 2, 3), (2, 1, 2)),
        "convolutions": (1, 2, 1),
        "decoder_convolutions": (1, 2),
        "deep_supervision": 1,
        "affine": True,
        "downsample": "stride",
    }
    model = network(**fields)
    assert model.smallest_input() == (2, 2, 6)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 4, 6, 1)), jnp.float32)
    shapes = shapes_of(model, x)
    assert shapes["up_0"]["kernel"].shape == (2, 1, 2, 5, 3)
    assert shapes["up_1"]["kernel"].shape == (1, 2, 3, 3, 2)
    assert shapes["decoder_0"]["conv_1"]["kernel"].shape == (3, 3, 1, 3, 3)
    assert set(shapes["decoder_1"]) == {"conv_0"}
    first = shapes["bottleneck"]
    first = first.get("block_0", first)
    assert first["conv_0"]["kernel"].shape == (3, 1, 3, 3, 5)

    def outputs(model):
        variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), shapes)
        return jax.jit(model.apply)({"params": variables}, x)

    fine, coarse = outputs(model)
    assert fine.shape == (1, 4, 4, 6, 1) and coarse.shape == (1, 4, 2, 2, 1)
    for same in (outputs(network(**fields, rematerialise=True)),):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), same, (fine, coarse))
    half = outputs(network(**fields, dtype="bfloat16"))
    assert {leaf.dtype for leaf in half} == {jnp.dtype("float32")}
    np.testing.assert_allclose(half[0], fine, atol=0.1)


def test_a_slope_of_one_is_no_activation():
    """With zero gains, each level's result is its offset, scaled by the slope where negative."""
    x = jnp.zeros((1, 2, 2, 1))
    for slope, expected in ((0.5, -1.0), (1.0, -2.0)):
        model = unet.Model(filters=1, poolings=0, dimensions=2, affine=True, slope=slope)
        params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), x)["params"])
        params["bottleneck"]["conv_1"]["offset"] = jnp.array([-2.0])
        params["output"]["kernel"] = jnp.ones((1, 1))
        np.testing.assert_allclose(model.apply({"params": params}, x), expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": (2,)}, "has 1 entries, but model.poolings is 1; give 2"),
        ({"features": (4, 8)}, "begins with 4, but model.filters is 2"),
        ({"features": (2, 0)}, r"is \(2, 0\); give numbers of 1 or more"),
        ({"features": ((2, 3), 3)}, "give one per level"),
        ({"kernels": (3, 3)}, "give 3 numbers per level"),
        ({"kernels": ((3, 3, 3), (2, 3, 3))}, "give odd sizes"),
        ({"kernels": ((3, 3), (3, 3))}, "give 3 numbers of 1 or more per level"),
        ({"strides": ((1, 1, 1), (2, 2, 2)), "planar_levels": 1}, "are both set"),
        ({"strides": ((2, 2, 2), (2, 2, 2))}, "begin with 1 along each axis"),
        ({"convolutions": (1, 2, 3)}, "has 3 entries"),
        ({"decoder_convolutions": (1, 1)}, "has 2 entries"),
        ({"downsample": "average"}, "is 'average'"),
        ({"slope": 0.0}, "is 0.0"),
    ],
)
@pytest.mark.parametrize("network", [unet.Model, residual_unet.Model])
def test_fields_that_do_not_fit_are_named(network, fields, message):
    model = network(filters=2, poolings=1, **fields)
    with pytest.raises(ValueError, match=rf"model\.\w+ .*{message}"):
        model.smallest_input()
