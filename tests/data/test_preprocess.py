import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.data.preprocess import Preprocessing, fit_preprocessing, preprocess

PERCENTILES = {"low_percentile": 10, "high_percentile": 90}


def test_percentiles_map_to_zero_and_one():
    fitted = fit_preprocessing(np.arange(101), name="percentile", **PERCENTILES)
    assert fitted == Preprocessing(10, 90, 10, 1 / 80)
    image = jnp.array([0, 10, 50, 90, 255], jnp.uint8)
    np.testing.assert_allclose(preprocess(image, fitted), [0, 0, 0.5, 1, 1])


def test_zscore_of_the_clipped_sample():
    sample = np.random.default_rng(0).normal(1000, 50, 10_000)
    fitted = fit_preprocessing(sample, name="zscore", **PERCENTILES)
    normalised = np.asarray(preprocess(jnp.asarray(sample, jnp.float32), fitted))
    np.testing.assert_allclose([normalised.mean(), normalised.std()], [0, 1], atol=1e-4)


def test_same_result_under_jit_and_float32_whatever_the_dtype():
    fitted = Preprocessing(0, 200, 100, 0.01)
    for dtype in (np.uint8, np.uint16, np.float16):
        image = np.array([[0, 7, 199]], dtype)
        eager, compiled = preprocess(image, fitted), jax.jit(preprocess)(image, fitted)
        assert eager.dtype == jnp.float32
        np.testing.assert_allclose(eager, compiled, rtol=1e-6)


@pytest.mark.parametrize(
    "fields, sample, message",
    [
        ({"name": "minmax"}, [0, 1], "preprocess.name"),
        ({"low_percentile": 95}, [0, 1], "in increasing order"),
        ({}, [3, 3, 3], "constant"),
    ],
)
def test_refusals(fields, sample, message):
    with pytest.raises(ValueError, match=message):
        fit_preprocessing(sample, **{"name": "percentile"} | PERCENTILES | fields)


@pytest.mark.parametrize("name", ["percentile", "zscore"])
@pytest.mark.parametrize("zeros", [102, 100_000])
def test_the_zeros_of_masked_scans_do_not_count(name, zeros):
    """More zeros than others, up to 99.9 %, which used to be called constant."""
    scan = np.arange(1, 102)
    masked = np.concatenate([np.zeros(zeros), scan])
    alone = fit_preprocessing(scan, name=name, **PERCENTILES)
    assert fit_preprocessing(masked, name=name, **PERCENTILES) == alone
    assert (alone.low, alone.high) == (11, 91)


def test_fewer_zeros_are_intensities_like_others():
    """As many zeros as others: percentile 90 lies at place 179.1 of 0 to 199, by the 80 and 81."""
    sample = np.concatenate([np.zeros(100), np.arange(1, 101)])
    fitted = fit_preprocessing(sample, name="percentile", **PERCENTILES)
    assert (fitted.low, fitted.high) == pytest.approx((0, 80.1))


def test_images_of_two_values_are_not_taken_for_masked_scans():
    for others in ([1] * 30, [1] * 30 + [2]):
        fitted = fit_preprocessing([0] * 70 + others, name="percentile", **PERCENTILES)
        assert (fitted.low, fitted.high) == (0, 1)
