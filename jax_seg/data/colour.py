"""Random changes of colour, on the device and under jit."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_seg.system.devices import sample_keys

GREY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601
# Luma and two axes of colour (YIQ): a change of hue is a turn about the first.
_AXES = np.array([GREY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def jitter(key, image, *, preprocessing, probability, brightness, contrast, saturation, hue):
    """Change the colours of each image at random, to mimic differences in light and camera.

    In this order: brightness multiplies, contrast moves every value from the image's mean grey,
    saturation every pixel from its own grey, each by a factor from 1 - amount to 1 + amount; hue
    turns the colours about the grey axis of YIQ by up to ±hue of a full turn. Values outside [0, 1]
    are clipped.

    Args:
      key: random key.
      image: [B, H, W, 3] float32, normalised.
      preprocessing: how it was normalised, from 0 to 255; it is undone and reapplied.
      probability: that an image is changed.
      brightness, contrast, saturation: amounts in [0, 1].
      hue: of a full turn, in [0, 0.5].

    Returns:
      [B, H, W, 3], normalised.

    Raises:
      ValueError: a value out of range, naming colour.<field>.
    """
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, value, most in (
        *((name, value, 1) for name, value in amounts.items()),
        ("probability", probability, 1),
        ("hue", hue, 0.5),
    ):
        if not 0 <= value <= most:
            raise ValueError(f"colour.{name} is {value}; set it from 0 to {most:g}.")
    if not probability or not any((*amounts.values(), hue)):
        return image
    span = np.float32(preprocessing.high - preprocessing.low)
    shift, scale = np.float32(preprocessing.shift), np.float32(preprocessing.scale)

    def draw(key):
        keys = jax.random.split(key, 5)
        factors = {
            name: jax.random.uniform(k, (), minval=1 - amount, maxval=1 + amount)
            for k, (name, amount) in zip(keys, amounts.items(), strict=False)
        }
        angle = 2 * np.pi * jax.random.uniform(keys[3], (), minval=-hue, maxval=hue)
        return factors, angle, jax.random.bernoulli(keys[4], probability)

    def one(drawn, image):
        factors, angle, applies = drawn
        rgb = (image / scale + shift - preprocessing.low) / span
        rgb = (rgb * factors["brightness"]).clip(0, 1)
        mean = _product(rgb, GREY).mean()
        rgb = (mean + (rgb - mean) * factors["contrast"]).clip(0, 1)
        grey = _product(rgb, GREY)[..., None]
        rgb = (grey + (rgb - grey) * factors["saturation"]).clip(0, 1)
        rgb = _product(rgb, _turn(angle).T).clip(0, 1)
        changed = (rgb * span + preprocessing.low - shift) * scale
        return jnp.where(applies, changed, image)

    # Not a vmap: with the keys of a run, what a sample draws would depend on the others.
    drawn = jax.lax.map(draw, sample_keys(key, len(image)))
    return jax.vmap(one)(drawn, image)


def _turn(angle):
    """The 3×3 matrix that turns the colours of RGB by an angle in radians."""
    cosine, sine, zero, one = jnp.cos(angle), jnp.sin(angle), jnp.zeros(()), jnp.ones(())
    about_grey = jnp.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine])
    turned = _product(about_grey.reshape(3, 3), np.float32(_AXES))
    return _product(np.float32(np.linalg.inv(_AXES)), turned)


def _product(a, b):
    # In full float32: a coarser product would tint grey pixels.
    return jnp.matmul(a, b, precision="highest")
