import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_seg.data.preprocess import (
    PerVolume,
    Preprocessing,
    fit_preprocessing,
    measure,
    preprocess,
    stored,
)

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


WHOLE = {"low_percentile": 0.0, "high_percentile": 100.0}


def masked_volume():
    """Zero outside of a box of 2 × 2 × 2 voxels, in which one voxel is zero."""
    volume = np.zeros((4, 5, 6), np.int16)
    volume[1:3, 2:4, 3:5] = np.arange(8).reshape(2, 2, 2) * 10
    return volume


@pytest.mark.parametrize(
    ("region", "mean", "deviation"),
    [
        ("all", 280 / 120, np.sqrt(14000 / 120 - (280 / 120) ** 2)),
        ("box", 35.0, np.sqrt(14000 / 8 - 35.0**2)),
        ("nonzero", 40.0, 20.0),
    ],
)
def test_statistics_of_a_volume_by_hand(region, mean, deviation):
    """The voxels 0, 10, …, 70: their sum is 280, that of their squares 14000."""
    rule = fit_preprocessing([], name="zscore", **WHOLE, per_volume=True, region=region)
    assert stored(rule._asdict()) == rule == PerVolume("zscore", 0.0, 100.0, region)
    volume = masked_volume()
    numbers, box = measure(volume, rule)
    assert numbers[2:] == pytest.approx((mean, 1 / deviation))
    assert numbers.low == (10 if region == "nonzero" else 0) and numbers.high == 70
    whole = region == "all"
    assert box == ((slice(None),) * 3 if whole else (slice(1, 3), slice(2, 4), slice(3, 5)))
    own = np.stack([np.array(numbers)] * 2)  # of a batch of two patches
    normalised = np.asarray(preprocess(np.stack([volume] * 2)[..., None], rule, own))
    expected = (volume - mean) / deviation
    if region == "nonzero":
        expected = np.where(volume == 0, 0, expected)
    np.testing.assert_allclose(normalised[1, ..., 0], expected, rtol=1e-5, atol=1e-6)


def test_scanners_that_differ_by_a_factor_look_alike():
    """Percentiles and deviations, of whole volumes, against NumPy's."""
    volume = np.random.default_rng(0).gamma(2.0, 30.0, (20, 30, 40)).astype(np.float32)
    for name in ("zscore", "percentile"):
        rule = PerVolume(name, 5.0, 90.0, "all")
        numbers, _ = measure(volume, rule)
        low, high = np.percentile(volume, (5, 90))
        assert (numbers.low, numbers.high) == pytest.approx((low, high))
        clipped = np.clip(volume.astype(np.float64), low, high)
        shift, scale = (
            (low, high - low) if name == "percentile" else (clipped.mean(), clipped.std())
        )
        assert (numbers.shift, 1 / numbers.scale) == pytest.approx((shift, scale))
        larger, _ = measure(volume * 20, rule)
        np.testing.assert_allclose(
            preprocess(volume, rule, np.array(numbers)),
            preprocess(volume * 20, rule, np.array(larger)),
            atol=1e-5,
        )


@pytest.mark.parametrize("region", ["all", "box", "nonzero"])
@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_volume_becomes_zero(region, value):
    volume = np.full((2, 3, 4), value, np.uint8)
    rule = PerVolume("zscore", 0.0, 100.0, region)
    numbers, box = measure(volume, rule)
    assert volume[box].shape == (2, 3, 4)
    assert not np.asarray(preprocess(volume, rule, np.array(numbers))).any()


def test_a_region_needs_a_volume():
    with pytest.raises(ValueError, match=r"preprocess\.region is 'box', which is for"):
        fit_preprocessing([0, 1], name="zscore", **WHOLE, region="box")
    with pytest.raises(ValueError, match=r"preprocess\.region is 'skull'"):
        fit_preprocessing([0, 1], name="zscore", **WHOLE, per_volume=True, region="skull")
