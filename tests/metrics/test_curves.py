"""Curves of a run against figures worked out by hand."""

import numpy as np
import pytest

from jax_seg.metrics import curves


def collected(validation, train=None, error=0.01, rates=None):
    train = {n: {"loss": loss} for n, loss in enumerate(train or validation)}
    for number, rate in enumerate(rates or ()):
        train[number]["learning_rate"] = rate
    judged = {n: {"loss": loss, "standard_error": error} for n, loss in enumerate(validation)}
    return curves.collected(train, judged)


def test_epochs_that_lack_a_loss_do_not_count():
    train, judged = ({n: {"loss": 0.1 * n} for n in numbers} for numbers in ((1, 2, 4), (2, 3, 4)))
    found = curves.collected(train, judged)
    assert found.epoch.tolist() == [2, 4] and found.error.tolist() == [0, 0]
    assert found.train.tolist() == found.validation.tolist() == [0.2, 0.4]
    assert curves.collected(train, judged, first=3).epoch.tolist() == [4]
    assert len(curves.collected({}, judged).epoch) == 0 and curves.collected({}, {}).finite
    assert not collected([0.5, float("nan")]).finite


def test_the_scatter_of_noise_is_its_deviation():
    noise = np.random.default_rng(0).normal(0, 0.1, 20_000)
    assert curves.scatter(noise + np.linspace(0, 50, len(noise))) == pytest.approx(0.1, rel=0.02)


def test_a_loss_that_still_falls_and_one_that_has_levelled_off():
    found = curves.fall(collected([1.0, 0.8, 0.6, 0.5, 0.3], rates=[0.1, 0.2, 0.2, 0.1, 0.05]))
    assert (found.last, found.rate_share) == (2, 0.25)
    assert (found.gained, found.learned, found.above) == pytest.approx((0.3, 0.7, 0.0))
    assert found.clear and not found.level
    assert not curves.fall(collected([1.0, 0.8, 0.6, 0.5, 0.3], error=0.2)).clear
    flat = curves.fall(collected([1.0, 0.35, 0.31, 0.3, 0.305]))
    assert not flat.clear and flat.level and flat.rate_share == 1
    assert not curves.fall(collected([1.0, 0.3, 0.4, 0.6, 0.7])).level


def test_a_rise_since_the_best_epoch():
    rising, falling = [0.8, 0.4, 0.5, 0.6, 0.7, 0.8], [0.8, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert curves.rise(collected(rising[:5])) is None  # three epochs since are no trend
    found = curves.rise(collected(rising, falling))
    assert found.best == 1 and found.overfits
    assert (found.rose, found.fell, found.gap) == pytest.approx((0.35, 1.7 / 3 - 0.15, 0.6))
    assert curves.rise(collected(rising)).clear and not curves.rise(collected(rising)).overfits
    assert not curves.rise(collected(rising, falling, error=0.4)).overfits


def test_clipping_that_sets_the_size_of_updates():
    train = [{"clipped_share": share, "gradient_norm": 30.0} for share in (0.0, 1.0, 0.9, 1.0)]
    found = curves.clipping(train, name="sgd", clip_norm=2.0)
    assert found == pytest.approx((2.9 / 3, 30.0, 15.0))
    assert curves.clipping(train, name="sgd", clip_norm=4.0) is None  # less than tenfold
    assert curves.clipping(train[:3], name="sgd", clip_norm=2.0) is None  # not nearly all
    assert curves.clipping(train, name="adamw", clip_norm=2.0) is None
    assert curves.clipping(train[2:], name="sgd", clip_norm=2.0) is None  # two epochs
