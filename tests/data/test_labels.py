"""Label values to background, foreground and masked, by hand and against np.select."""

import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jax_seg.data import labels
from jax_seg.data.labels import Counts, count, encode, label_table
from jax_seg.ops.classes import BACKGROUND, FOREGROUND, MASKED, Classes

VALUES = np.array([[[0, 1, 2], [2, 1, 1]]])
ENCODED = [[[0, 1, 255], [255, 1, 1]]]


def test_masked_is_no_class():
    """Classes count from 0, and 2 is the next one."""
    assert (BACKGROUND, FOREGROUND, MASKED) == (0, 1, 255)


def test_competition_values():
    every = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    assert encode(every % 3, label_table(), "a.tif").ravel()[:3].tolist() == [0, 1, 255]
    encoded = encode(every, label_table(background="rest"), "a.tif")
    assert encoded.dtype == np.uint8
    assert encoded.ravel().tolist() == [0, 1, 255] + [0] * 253


def test_other_values():
    table = label_table(foreground=(1, 255), ignore=(), background=(0, 7))
    encoded = encode(np.array([[[255, 7, 0, 1]]], np.uint8), table, "a.tif")
    assert encoded.tolist() == [[[1, 0, 0, 1]]]


INSTANCES = {"foreground": (300, 70000), "ignore": (-1, -100), "background": (0,)}


@pytest.mark.parametrize(
    ("dtype", "label", "expected"),
    [
        ("i1", [0, -1, -100], [0, 255, 255]),
        ("i2", [0, 300, -1, -100], [0, 1, 255, 255]),
        (">i2", [0, 300, -1, -100], [0, 1, 255, 255]),
        ("u2", [0, 300], [0, 1]),
        ("i4", [0, 300, 70000, -1, -100], [0, 1, 1, 255, 255]),
        (">i8", [0, 300, 70000, -1, -100], [0, 1, 1, 255, 255]),
        ("u4", [0, 300, 70000], [0, 1, 1]),
        ("f2", [0, 300, -1, -100], [0, 1, 255, 255]),
        ("f4", [0, 300, 70000, -1, -100], [0, 1, 1, 255, 255]),
    ],
)
def test_negative_and_large_values(dtype, label, expected):
    """The ignore values of other programs, and numbers of instances."""
    label = np.array(label, dtype)[None, None]
    assert encode(label, label_table(**INSTANCES), "a.tif").tolist() == [[expected]]


def test_values_of_64_bits_are_told_apart():
    """Beyond 2⁵³ neighbours are one floating-point number, and -1 is no unsigned integer."""
    table = label_table(foreground=(2**60 + 1, 2**64 - 2), ignore=(-1, 2**64 - 1))
    label = np.array([[[0, 2**60 + 1, 2**64 - 2, 2**64 - 1]]], np.uint64)
    assert encode(label, table, "a.tif").tolist() == [[[0, 1, 1, 255]]]
    for value in (2**60, 2**60 + 2):
        with pytest.raises(ValueError, match=f"holds the label value {value}, which none"):
            encode(np.array([[[value]]], np.uint64), table, "a.tif")
    assert encode(np.array([[[-1]]], np.int64), table, "a.tif").tolist() == [[[255]]]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "u8", "f4"])
def test_rest_takes_what_is_not_named(dtype):
    label = np.array([[[0, 1, 2, 3, 100]]], dtype)
    for rest, expected in (("foreground", 1), ("ignore", 255), ("background", 0)):
        named = {"foreground": (1,), "ignore": (2,), "background": (0,)}
        named[rest] = (*named[rest], "rest")
        encoded = encode(label, label_table(**named), "a.tif")
        assert encoded.tolist() == [[[0, 1, 255, expected, expected]]]
    alone = label_table(foreground="rest", ignore=(), background=())
    assert encode(label, alone, "a.tif").tolist() == [[[1] * 5]]


def test_a_number_with_a_point_is_the_integer():
    assert label_table(foreground=(1.0, np.float32(300))) == label_table(foreground=(1, 300))
    assert label_table(foreground=np.int64(1), ignore=[2.0]) == label_table()


def test_tables_have_an_identity():
    tables = [
        label_table(),
        label_table(ignore=(3,)),
        label_table(ignore=(2, "rest")),
        label_table(foreground=(2,), ignore=(1,)),
        label_table(foreground=(1, 2), ignore=()),
    ]
    assert len({table.tobytes() for table in tables}) == 5
    assert label_table(foreground=(3, 1)).tobytes() == label_table(foreground=(1, 3)).tobytes()


def test_memory_stays_small():
    """Looking up takes eight bytes a voxel, which a whole volume has no room for."""
    label = np.ones((64, 256, 256), np.uint8)[:, ::-1, ::2]
    table = label_table()
    tracemalloc.start()
    encoded = encode(label, table, "a.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * encoded.nbytes
    assert (encoded == FOREGROUND).all()


@pytest.mark.parametrize("dtype", ["u1", "u2", "i1", "i2", "i8", "u8", ">u2", "f2", "f4", "f8"])
def test_encode_every_type(dtype):
    encoded = encode(VALUES.astype(dtype), label_table(), "a.tif")
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == ENCODED


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
        [np.isin(label, kinds["foreground"]), np.isin(label, kinds["ignore"])], [1, 255], 0
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
        (0.5, "f4", "scroll.tif holds the label value 0.5, which is not an integer"),
        (np.nan, "f8", "scroll.tif holds the label value nan, which is not an integer"),
        (np.inf, "f8", "scroll.tif holds the label value inf, which is not an integer"),
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
        (
            {"foreground": (1.0, 1)},
            "data.foreground and data.foreground both name the label value 1",
        ),
        (
            {"background": ("rest",), "ignore": "rest"},
            "background and data.ignore both name 'rest'",
        ),
        ({"background": (0.5,)}, "data.background names the label value 0.5: use integers, or"),
        ({"background": (np.nan,)}, "data.background names the label value nan"),
        ({"background": (np.inf,)}, "data.background names the label value inf"),
        ({"ignore": ("2",)}, "data.ignore names the label value '2'"),
        ({"ignore": "other"}, "data.ignore names the label value 'other'"),
        ({"ignore": (None,)}, "data.ignore names the label value None"),
    ],
)
def test_table_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        label_table(**arguments)


def test_the_advice_on_an_unknown_value_can_be_followed():
    label = np.array([[[0, 1, 300, -1]]], np.int32)
    with pytest.raises(ValueError, match=r"value 300, .* add it to one of them, or 'rest' for all"):
        encode(label, label_table(), "a.tif")
    with pytest.raises(ValueError, match="value -1, "):
        encode(label, label_table(foreground=(1, 300)), "a.tif")
    named = label_table(foreground=(1, 300), ignore=(2, -1))
    assert encode(label, named, "a.tif").tolist() == [[[0, 1, 1, 255]]]


@pytest.mark.parametrize(
    "named", [{"foreground": (1, 2)}, {"classes": ("a=1", "b=2")}, {"background": (0, 2)}]
)
def test_a_value_that_is_masked_by_default_is_what_it_is_named(named):
    table = label_table(**named)
    assert table == label_table(**named, ignore=())
    assert table.values == (0, 1, 2) and MASKED not in table.codes


def test_count():
    encoded = encode(VALUES, label_table(), "a.tif")
    assert count(encoded) == Counts(background=1, foreground=3, masked=2)
    assert count(np.zeros((0, 3, 3), np.uint8)) == (0, 0, 0)


def test_several_classes():
    """Values that belong to the same classes have one code."""
    table = label_table(ignore=(9,), classes=("sheet=1,5", "ink = 3, 4", "thick=5,1,7"))
    assert table.values == (0, 1, 3, 4, 5, 7, 9)
    assert table.codes == (0, 1, 2, 2, 1, 3, 255)
    assert table.classes == Classes(("sheet", "ink", "thick"), ((1,), (2,), (1, 3)), (1, 3, 5))
    assert table.foreground == (1, 3, 4, 5, 7)
    label = np.array([[[0, 1, 3, 4, 5, 7, 9]]], np.int16)
    assert encode(label, table, "file").ravel().tolist() == [0, 1, 2, 2, 1, 3, 255]
    together = encode(label, table.together(), "file")
    assert together.ravel().tolist() == [0, 1, 1, 1, 1, 1, 255]
    assert labels.count(encode(label, table, "file")) == (1, 5, 1)
    assert str(table) == (
        "{0: background, 1: sheet and thick, 3: ink, 4: ink, 5: sheet and thick, 7: thick, "
        "9: unlabelled}"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"classes": ("sheet=1", "ink=3"), "ignore": (3,)},
            "data.classes and data.ignore both name the label",
        ),
        ({"classes": ("sheet",), "ignore": ()}, "data.classes holds 'sheet': write a name and"),
        ({"classes": ("sheet=one",)}, "data.classes holds 'sheet=one': write a name and"),
        ({"classes": ("=1",)}, "data.classes holds '=1', a class without a name"),
        ({"classes": ("a=1", "a=3")}, "data.classes names 'a' twice"),
        ({"classes": ("a=1,3", "b=1")}, "data.classes begins two classes with one label value"),
        ({"classes": ("a=1", "b=3"), "foreground": (4,)}, "data.foreground and data.classes both"),
        ({"classes": ("a=0", "b=3")}, "data.classes and data.background both name the label"),
        (
            {"classes": ("a=3", "b=0"), "background": (1,)},
            "classes begins 'b' with the label value 0",
        ),
        ({"classes": tuple(f"c{n}={n}" for n in range(3, 400))}, "up to 253 are held"),
    ],
)
def test_classes_that_are_not_told_apart(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        label_table(**fields)
