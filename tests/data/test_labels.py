"""Label values to background, foreground and masked, by hand and against np.select."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jax_seg.data.labels import BACKGROUND, FOREGROUND, MASKED, Counts, count, encode, label_table

VALUES = np.array([[[0, 1, 2], [2, 1, 1]]])


def test_competition_values():
    table = label_table()
    assert table.dtype == np.uint8
    assert table.tolist() == [BACKGROUND, FOREGROUND, MASKED] + [255] * 253


def test_other_values():
    table = label_table(foreground=(1, 255), ignore=(), background=(0, 7))
    assert table[[0, 1, 7, 255]].tolist() == [0, 1, 0, 1]
    encoded = encode(np.array([[[255, 7, 0, 1]]], np.uint8), table, "a.tif")
    assert encoded.tolist() == [[[1, 0, 0, 1]]]


@pytest.mark.parametrize("dtype", ["u1", "u2", "i1", "i2", "i8", "u8", ">u2", "f2", "f4", "f8"])
def test_encode_every_type(dtype):
    encoded = encode(VALUES.astype(dtype), label_table(), "a.tif")
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == VALUES.tolist()


def test_encode_bool_and_read_only_view():
    label = np.broadcast_to(np.array([True, False]), (2, 3, 2))[:, ::2]
    assert encode(label, label_table(), "a.tif").tolist() == [[[1, 0]] * 2] * 2
    assert encode(label, label_table(foreground=(0,), background=(1,)), "a.tif")[0, 0, 0] == 0


@given(
    arrays.arrays(np.uint8, st.tuples(*[st.integers(0, 5)] * 3), elements=st.integers(0, 5)),
    st.permutations(range(6)),
)
def test_encode_against_select(label, order):
    kinds = {"background": order[:2], "foreground": order[2:4], "ignore": order[4:]}
    encoded = encode(label, label_table(**kinds), "a.tif")
    expected = np.select(
        [np.isin(label, kinds["foreground"]), np.isin(label, kinds["ignore"])], [1, 2], 0
    )
    np.testing.assert_array_equal(encoded, expected)
    assert sum(count(encoded)) == label.size


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (3, "u1", "scroll.tif holds the label value 3, which none of data.foreground, data.ign"),
        (255, "u1", "scroll.tif holds the label value 255, which none"),
        (256, "u2", "scroll.tif holds the label value 256, which none"),
        (-1, "i2", "scroll.tif holds the label value -1, which none"),
        (2**40, "i8", "scroll.tif holds the label value 1099511627776, which none"),
        (9, "f4", "scroll.tif holds the label value 9, which none"),
        (0.5, "f4", "scroll.tif holds the label value 0.5, which is no integer"),
        (np.nan, "f8", "scroll.tif holds the label value nan, which is no integer"),
        (np.inf, "f8", "scroll.tif holds the label value inf, which none"),
        (1, "c8", "scroll.tif holds complex64 labels"),
    ],
)
def test_value_that_is_not_named(value, dtype, message):
    label = np.zeros((3, 4, 5), dtype)
    label[1, 2, 3] = value
    with pytest.raises(ValueError, match=message):
        encode(label, label_table(), "scroll.tif")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ignore": (1,)}, "data.foreground and data.ignore both name the label value 1"),
        ({"foreground": (0, 1)}, "data.background and data.foreground both name the label value 0"),
        ({"foreground": (3, 3)}, "data.foreground and data.foreground both name"),
        ({"foreground": ()}, "data.foreground names no label value"),
        ({"ignore": (-1,)}, "data.ignore names the label value -1: use integers 0 to 255"),
        ({"background": (256,)}, "data.background names the label value 256"),
        ({"background": (0.5,)}, "data.background names the label value 0.5"),
    ],
)
def test_table_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        label_table(**arguments)


def test_count():
    assert count(VALUES) == Counts(background=1, foreground=3, masked=2)
    assert count(np.zeros((0, 3, 3), np.uint8)) == (0, 0, 0)
