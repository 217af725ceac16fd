"""What logits mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.infer.logits import BACKGROUND, foreground, require_numbers


def test_thresholds_by_hand():
    """log(0.75 / 0.25) = log 3."""
    logits = jnp.asarray([-1.0, 0.0, 1e-6, np.log(3) - 1e-3, np.log(3) + 1e-3])
    np.testing.assert_array_equal(foreground(logits, 0.5), [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(foreground(logits, 0.75), [0, 0, 0, 0, 1])


def test_background_is_below_every_threshold_and_stored_as_zero():
    logits = jnp.full(3, BACKGROUND)
    assert not foreground(logits, 1e-6).any()
    assert np.asarray(jax.nn.sigmoid(logits), np.float16).max() == 0
    assert np.isfinite(logits).all()


def test_nan_is_reported_with_the_image():
    require_numbers(jnp.asarray([-jnp.inf, jnp.inf]), "a.tif")
    with pytest.raises(ValueError, match=r"output for a\.tif contains NaN"):
        require_numbers(np.asarray([0, np.nan]), "a.tif")
