"""The notes' own numbers."""

import pytest

from jax_seg.training import scaling


def test_rates_of_the_notes():
    batch = scaling.effective_batch(8, accumulation=2)
    assert batch == 16
    assert scaling.for_batch(2.5e-4, 8, batch) == pytest.approx(4e-4)
    assert scaling.for_deep_supervision(2.5e-4) == pytest.approx(1.8e-4)


def test_batch_scaling_is_linear_and_leaves_the_same_batch_alone():
    assert scaling.for_batch(1e-3, 8, 8) == 1e-3
    assert scaling.for_batch(1e-3, 8, 32, safety=1) == pytest.approx(4e-3)
    assert scaling.for_batch(1e-3, 16, 4) == pytest.approx(1e-3 / 4 * 0.8)
    with pytest.raises(ValueError, match="0 images"):
        scaling.for_batch(1e-3, 8, 0)


@pytest.mark.parametrize(
    ("losses", "ious", "sign"),
    [
        ([0.2156, 0.2089, 0.2034], [0.6445, 0.6401, 0.6356], True),  # the notes' warning
        ([0.2156, 0.2134, 0.2098], [0.6445, 0.6478, 0.6512], False),  # the notes' healthy run
        ([0.9, 0.3, 0.2156, 0.2089, 0.2034], [0.1, 0.2, 0.6445, 0.6401, 0.6356], True),
        ([0.2156, 0.2089, 0.2034], [0.6445, 0.6401, 0.6401], False),
        ([0.2, 0.21, 0.2034], [0.6445, 0.6401, 0.6356], False),
        ([0.2156, 0.2089], [0.6445, 0.6401], False),
        ([], [], False),
    ],
)
def test_warning_sign(losses, ious, sign):
    assert scaling.warning_sign(losses, ious) is sign


def test_warning_sign_needs_one_of_each():
    with pytest.raises(ValueError, match="2 losses and 1 values"):
        scaling.warning_sign([1, 2], [1])
