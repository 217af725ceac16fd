"""Colour jitter: what each change keeps, and what it may not touch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.data.colour import GREY, jitter
from jax_seg.data.preprocess import IMAGENET, preprocess

NONE = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
KEY = jax.random.key(3)


def changed(rgb, key=KEY, probability=1.0, **amounts):
    """The jittered images back in [0, 1]; rgb [B, H, W, 3] in [0, 1]."""
    image = preprocess(jnp.asarray(255 * rgb), IMAGENET)
    result = jitter(key, image, preprocessing=IMAGENET, probability=probability, **NONE | amounts)
    return np.asarray((result / np.float32(IMAGENET.scale) + np.float32(IMAGENET.shift)) / 255)


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).uniform(0.35, 0.65, (4, 6, 5, 3)).astype(np.float32)


def test_brightness_is_one_factor_per_image(rgb):
    ratio = changed(rgb, brightness=0.2) / rgb
    per_image = ratio.reshape(4, -1)
    np.testing.assert_allclose(per_image, np.broadcast_to(per_image[:, :1], per_image.shape), 1e-4)
    assert (per_image >= 0.8).all() and (per_image <= 1.2).all()
    assert len(np.unique(per_image[:, 0].round(3))) == 4


def test_contrast_keeps_the_mean_grey_and_scales_the_distance_to_it(rgb):
    result = changed(rgb, contrast=0.2)
    mean = (rgb @ GREY).mean((1, 2))
    np.testing.assert_allclose((result @ GREY).mean((1, 2)), mean, rtol=1e-4)
    factor = (result - mean[:, None, None, None]) / (rgb - mean[:, None, None, None])
    np.testing.assert_allclose(factor[1], factor[1].ravel()[0], rtol=1e-2)


def test_saturation_and_hue_keep_the_grey_of_every_pixel(rgb):
    for amounts in ({"saturation": 0.2}, {"hue": 0.1}):
        result = changed(rgb, **amounts)
        np.testing.assert_allclose(result @ GREY, rgb @ GREY, atol=2e-4)
        assert np.abs(result - rgb).max() > 0.01
        grey = np.repeat(rgb[..., :1], 3, -1)
        np.testing.assert_allclose(changed(grey, **amounts), grey, atol=2e-4)


def test_what_leaves_the_range_is_clipped():
    white = np.ones((8, 2, 2, 3), np.float32)
    result = changed(white, brightness=0.9)
    assert result.max() <= 1 + 1e-5 and result.min() < 0.9


def test_a_share_of_the_images_is_changed_and_the_key_decides(rgb):
    many = np.tile(rgb[:1], (200, 1, 1, 1))
    result = changed(many, probability=0.5, brightness=0.2)
    touched = np.abs(result - many).max((1, 2, 3)) > 1e-4
    assert 70 < touched.sum() < 130
    np.testing.assert_array_equal(result, changed(many, probability=0.5, brightness=0.2))
    assert (result != changed(many, jax.random.key(4), 0.5, brightness=0.2)).any()


def test_nothing_to_do_is_left_out(rgb):
    image = jnp.asarray(rgb)
    assert jitter(KEY, image, preprocessing=IMAGENET, probability=1.0, **NONE) is image
    some = NONE | {"hue": 0.1}
    assert jitter(KEY, image, preprocessing=IMAGENET, probability=0.0, **some) is image


@pytest.mark.parametrize(("field", "value"), [("hue", 0.6), ("contrast", -0.1), ("saturation", 2)])
def test_amounts_out_of_range_are_refused(rgb, field, value):
    with pytest.raises(ValueError, match=f"colour.{field} is"):
        changed(rgb, **{field: value})
