"""Every form of the convolution against XLA's own, values and both gradients, and the choice."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.ops import patches, winograd
from jax_seg.ops.conv import NARROW, PATCHES, POINTWISE, WINOGRAD, XLA, conv, cpu_form, image_form
from tests.closeness import assert_close


def arrays(shape, size, features, dtype=jnp.float32):
    """Random x [*shape], kernel [*size, C, features] and gradient of the output."""
    generator = np.random.default_rng(0)
    shapes = shape, (*size, shape[-1], features), (*shape[:-1], features)
    return [jnp.asarray(generator.standard_normal(s), dtype) for s in shapes]


def everything(form, x, kernel, gradient):
    """Output, gradient with respect to x, gradient with respect to the kernel, in one program."""
    return jax.jit(
        lambda *a: (form.convolve(*a[:2]), form.input_gradient(*a), form.kernel_gradient(*a))
    )(x, kernel, gradient)


CASES = [  # form, shape, size, features, bytes of a block, bytes of a part of the kernel
    (PATCHES, (2, 5, 4, 7, 9), (3, 3, 3), 4, None, None),
    (PATCHES, (2, 6, 5, 4, 3), (3, 3, 3), 5, 1, None),
    (PATCHES, (1, 4, 3, 5, 1), (3, 1, 3), 2, None, None),
    (PATCHES, (1, 1, 1, 1, 8), (3, 3, 3), 3, None, None),
    (WINOGRAD, (2, 12, 13, 15, 6), (3, 3, 3), 4, None, None),
    (WINOGRAD, (2, 12, 12, 12, 4), (3, 3, 3), 6, 2_000_000, None),
    (WINOGRAD, (1, 7, 12, 6, 4), (3, 3, 3), 6, 1, None),
    (WINOGRAD, (1, 6, 7, 8, 6), (3, 3, 3), 4, None, 1),
    (WINOGRAD, (1, 3, 9, 12, 4), (1, 3, 3), 4, None, None),
    (POINTWISE, (2, 3, 4, 5, 6), (1, 1, 1), 4, None, None),
]


@pytest.mark.parametrize(("form", "shape", "size", "features", "block", "part"), CASES)
def test_form_equals_xla(monkeypatch, form, shape, size, features, block, part):
    if block is not None:
        monkeypatch.setattr(winograd, "BLOCK_BYTES", block)
        monkeypatch.setattr(patches, "BLOCK_BYTES", block)
    if part is not None:
        monkeypatch.setattr(winograd, "KERNEL_BYTES", part)
    given = arrays(shape, size, features)
    assert_close(everything(form, *given), everything(XLA, *given))


@pytest.mark.parametrize(
    ("shape", "size", "strides"),
    [
        ((2, 6, 8, 5, 3), (3, 3, 3), (2, 2, 2)),
        ((1, 5, 6, 8, 9), (1, 3, 3), (1, 2, 2)),
        ((3, 8, 7, 9), (3, 3), (2, 2)),
    ],
)
def test_strides_take_every_so_many_of_the_outputs(monkeypatch, shape, size, strides):
    """Either form, in one block and in many: values and gradients."""
    x, kernel, _ = arrays(shape, size, 4)
    every = (slice(None), *(slice(None, None, stride) for stride in strides))
    expected, expected_pull = jax.vjp(lambda *of: XLA.convolve(*of)[every], x, kernel)
    gradient = jnp.asarray(np.random.default_rng(1).standard_normal(expected.shape), jnp.float32)
    for small, block in ((15_000_000, None), (0, None), (0, 1)):
        for name in ("SMALL", "SMALL_OF_IMAGES"):
            monkeypatch.setattr(f"jax_seg.ops.conv.{name}", small)
        if block:
            monkeypatch.setattr(patches, "BLOCK_BYTES", block)
        jax.clear_caches()  # a traced convolution keeps its form
        actual, pull = jax.vjp(lambda *of: conv(*of, strides), x, kernel)
        assert_close((actual, pull(gradient)), (expected, expected_pull(gradient)))


def test_blocks_cover_the_volume_as_the_cases_intend(monkeypatch):
    def blocks(shape, features, size=(3, 3, 3)):
        return winograd._blocks(shape, features, winograd.choose_tiles(shape[1:4], size), size)

    assert blocks((2, 12, 16, 16, 6), 4)[0] == (12, 16)
    monkeypatch.setattr(winograd, "BLOCK_BYTES", 2_000_000)
    assert blocks((2, 12, 12, 12, 4), 6)[0] == (12, 12)
    monkeypatch.setattr(winograd, "BLOCK_BYTES", 1)
    size, starts = blocks((1, 8, 12, 6, 4), 6)
    assert size == (2, 4)
    assert starts.tolist() == [[d, h] for d in (0, 2, 4, 6) for h in (0, 4, 8)]


@pytest.mark.parametrize("form", [PATCHES, WINOGRAD, POINTWISE])
def test_bfloat16_is_computed_in_float32(form):
    size = (1, 1, 1) if form is POINTWISE else (3, 3, 3)
    given = arrays((1, 6, 6, 6, 16), size, 16, jnp.bfloat16)
    actual = everything(form, *given)
    assert {a.dtype for a in actual} == {jnp.dtype(jnp.bfloat16)}
    exact = everything(XLA, *(a.astype(jnp.float32) for a in given))
    assert_close(actual, exact, tolerance=2**-8)  # one rounding; a bfloat16 sum would lose 2^-5


@pytest.mark.parametrize("form", [PATCHES, WINOGRAD])
def test_impulse_moves_where_the_kernel_says(form):
    x = jnp.zeros((1, 6, 6, 6, 1)).at[0, 2, 3, 4, 0].set(1.0)
    kernel = jnp.zeros((3, 3, 3, 1, 1)).at[0, 1, 2, 0, 0].set(5.0)
    y = form.convolve(x, kernel)  # y[d, h, w] = 5 x[d - 1, h, w + 1]
    expected = np.zeros((1, 6, 6, 6, 1), np.float32)
    expected[0, 3, 3, 3, 0] = 5
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(("tile", "size"), [(1, 1), (2, 3), (4, 3)])
def test_transforms_are_the_exact_filter(tile, size):
    a, g, b = winograd.transforms(tile, size)
    generator = np.random.default_rng(0)
    data, taps = generator.standard_normal(tile + size - 1), generator.standard_normal(size)
    np.testing.assert_allclose(
        a @ ((g @ taps) * (b @ data)), np.correlate(data, taps, "valid"), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    ("shape", "form"),
    [((1, 12, 12, 12, 20), WINOGRAD), ((2, 40, 40, 24), WINOGRAD), ((3, 46, 50, 16), NARROW)],
)
def test_conv_under_jit_grad_and_remat(shape, form):
    x, kernel, gradient = arrays(shape, (3,) * (len(shape) - 2), 32)
    assert (cpu_form if x.ndim == 5 else image_form)(x, kernel) is form

    def objective(convolve):
        return lambda x, kernel: (jax.checkpoint(convolve)(jnp.sin(x), kernel) * gradient).sum()

    actual, expected = (
        jax.jit(jax.value_and_grad(objective(f), (0, 1)))(x, kernel) for f in (conv, XLA.convolve)
    )
    assert_close(actual, expected)
    assert_close(conv(x, kernel), XLA.convolve(x, kernel))


def test_other_sizes_and_types_stay_with_xla():
    x, kernel, _ = arrays((1, 5, 6, 7, 3), (5, 3, 1), 2)
    assert cpu_form(x, kernel) is XLA
    np.testing.assert_array_equal(conv(x, kernel), XLA.convolve(x, kernel))
    assert cpu_form(x.astype(jnp.float16), kernel[:1, :, :1]) is XLA


@pytest.mark.parametrize("channels", [3, 20])
def test_a_convolution_within_slices_is_one_of_images(channels):
    x, kernel, gradient = arrays((2, 9, 40, 36, channels), (1, 3, 3), 8)

    def gradients(convolve):
        return jax.grad(lambda *of: (convolve(*of) * gradient).sum(), (0, 1))(x, kernel)

    assert_close(conv(x, kernel), XLA.convolve(x, kernel))
    assert_close(gradients(conv), gradients(XLA.convolve))
    assert f"tensor<18x40x36x{channels}xf32>" in jax.jit(conv).lower(x, kernel).as_text()


@pytest.mark.parametrize("stride", [1, 2])
def test_an_axis_of_one_voxel_meets_the_middle_of_the_kernel(stride):
    x, kernel, _ = arrays((2, 1, 6, 5, 4), (3, 3, 3), 3)

    def everything_of(convolve):
        result, pull = jax.vjp(convolve, x, kernel)
        return result, pull(jnp.sin(result))

    def ours(x, kernel):
        return conv(x, kernel, (stride,) * 3)

    actual = everything_of(ours)
    assert_close(actual, everything_of(lambda *of: XLA.convolve(*of)[:, :, ::stride, ::stride]))
    assert not np.any(actual[1][1][::2])  # the outer slices of the kernel meet no voxel
    assert "-> tensor<1x3x3x4x3xf32>" in jax.jit(ours).lower(x, kernel).as_text()


def test_form_of_each_level_of_a_unet():
    def form(side, channels, features, batch=1):
        x = jax.ShapeDtypeStruct((batch, side, side, side, channels), jnp.float32)
        return cpu_form(x, jax.ShapeDtypeStruct((3, 3, 3, channels, features), jnp.float32))

    assert form(64, 1, 32) is PATCHES
    assert form(64, 64, 32) is WINOGRAD
    assert form(8, 512, 256) is WINOGRAD
    assert form(4, 512, 512) is PATCHES
    assert form(16, 4, 4) is PATCHES and form(16, 8, 8) is WINOGRAD
    assert form(8, 2, 2) is XLA


def test_accelerators_get_their_own_convolution():
    x, kernel, _ = arrays((1, 12, 12, 12, 20), (3, 3, 3), 32)
    step = jax.jit(jax.grad(lambda x, kernel: conv(x, kernel).sum(), (0, 1)))
    for platform, loops in itertools.product(("cuda", "tpu", "cpu"), ("stablehlo.while",)):
        text = step.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        assert (loops in text) == (platform == "cpu")
        assert ("stablehlo.convolution" in text) == (platform != "cpu")
