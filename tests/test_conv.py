"""Every form of the convolution against XLA's own: values and both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.ops import conv as convolution
from jax_seg.ops.conv import conv

FORMS = {
    "pointwise": convolution.POINTWISE,
    "patches": convolution.PATCHES,
    "winograd": convolution.WINOGRAD,
}


def arrays(batch, spatial, size, channels, features, dtype=np.float32):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(batch, *spatial, channels)).astype(np.float32)
    kernel = generator.normal(size=(*size, channels, features)).astype(np.float32)
    gradient = generator.normal(size=(batch, *spatial, features)).astype(np.float32)
    return [jnp.asarray(array, dtype) for array in (x, kernel, gradient)]


def assert_close(ours, expected, tolerance):
    ours, expected = np.asarray(ours, np.float32), np.asarray(expected, np.float32)
    assert np.abs(ours - expected).max() <= tolerance * np.abs(expected).max()


def assert_form_is_xlas(form, x, kernel, gradient, tolerance):
    exact = [jnp.asarray(array, jnp.float32) for array in (x, kernel, gradient)]
    for step in ("convolve", "input_gradient", "kernel_gradient"):
        count = 2 if step == "convolve" else 3
        ours = jax.jit(getattr(form, step))(*(x, kernel, gradient)[:count])
        expected = jax.jit(getattr(convolution.XLA, step))(*exact[:count])
        assert ours.dtype == x.dtype and ours.shape == expected.shape
        assert_close(ours, expected, tolerance)


@pytest.mark.parametrize(
    "form, batch, spatial, size, channels, features",
    [
        ("patches", 1, (5, 7, 6), (3, 3, 3), 1, 4),
        ("patches", 2, (4, 4, 4), (3, 3, 3), 12, 9),
        ("patches", 1, (1, 9, 8), (1, 3, 3), 3, 2),
        ("patches", 1, (3, 5, 2), (3, 1, 3), 9, 3),
        ("winograd", 1, (5, 7, 6), (3, 3, 3), 8, 4),
        ("winograd", 2, (13, 16, 12), (3, 3, 3), 9, 5),
        ("winograd", 1, (1, 9, 14), (1, 3, 3), 8, 2),
        ("winograd", 3, (2, 3, 1), (3, 3, 3), 8, 3),
        ("pointwise", 2, (3, 4, 5), (1, 1, 1), 6, 1),
    ],
)
def test_form_equals_xlas(form, batch, spatial, size, channels, features):
    x, kernel, gradient = arrays(batch, spatial, size, channels, features)
    assert_form_is_xlas(FORMS[form], x, kernel, gradient, 2e-5)


@pytest.mark.parametrize("form", ["patches", "winograd"])
def test_blocks_add_up(form, monkeypatch):
    """With little room every form works through several blocks."""
    module = {"patches": convolution.patches, "winograd": convolution.winograd}[form]
    monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 14)
    x, kernel, gradient = arrays(2, (12, 8, 8), (3, 3, 3), 8, 8)
    assert_form_is_xlas(FORMS[form], x, kernel, gradient, 2e-5)


@pytest.mark.parametrize("form", ["patches", "winograd"])
def test_bfloat16_is_rounded_once(form):
    x, kernel, gradient = arrays(1, (6, 8, 8), (3, 3, 3), 8, 8, jnp.bfloat16)
    assert_form_is_xlas(FORMS[form], x, kernel, gradient, 2**-7)


@pytest.mark.parametrize(
    "spatial, size, channels, form",
    [
        ((24, 24, 24), (3, 3, 3), 32, "winograd"),
        ((64, 64, 64), (3, 3, 3), 1, "patches"),
        ((4, 4, 4), (3, 3, 3), 512, "patches"),
        ((24, 24, 24), (1, 1, 1), 32, "pointwise"),
        ((24, 24, 24), (5, 5, 5), 32, "xla"),
    ],
)
def test_choice_of_the_form(spatial, size, channels, form):
    x = jax.ShapeDtypeStruct((1, *spatial, channels), jnp.float32)
    kernel = jax.ShapeDtypeStruct((*size, channels, channels), jnp.float32)
    chosen = convolution.cpu_form(x, kernel)
    assert chosen is {**FORMS, "xla": convolution.XLA}[form]


@pytest.mark.parametrize("spatial", [(12, 13, 12), (20, 17)])
def test_conv_under_jit_grad_and_remat(spatial):
    x, kernel, _ = arrays(2, spatial, (3,) * len(spatial), 16, 16)

    def loss(x, kernel, convolve):
        return jnp.sin(convolve(x, kernel)).sum()

    def gradients(convolve):
        return jax.jit(jax.value_and_grad(lambda x, k: loss(x, k, convolve), (0, 1)))(x, kernel)

    expected = gradients(convolution._xla)
    for convolve in (conv, jax.checkpoint(conv)):
        value, found = gradients(convolve)
        assert_close(value, expected[0], 1e-4)
        for a, b in zip(found, expected[1], strict=True):
            assert_close(a, b, 1e-4)


def test_one_program_holds_the_forms_of_all_platforms():
    x, kernel, _ = arrays(1, (16, 16, 16), (3, 3, 3), 16, 16)
    for platform, own in (("cpu", False), ("cuda", True)):
        exported = jax.export.export(jax.jit(conv), platforms=[platform])(x, kernel)
        assert ("stablehlo.convolution" in exported.mlir_module()) == own
