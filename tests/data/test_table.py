"""Tables of scrolls as spreadsheets, editors and people write them."""

import re
import warnings

import pytest

from jax_seg.data import folds
from jax_seg.data.table import read_scrolls

TEXT = "id,scroll_id\na,1\nb,é\n"
SCROLLS = {"a": "1", "b": "é"}


def read(folder, content, ids=("a", "b")):
    path = folder / "train.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_scrolls(path, folder / "images", dict.fromkeys(ids))


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode("utf-16"),
        TEXT.replace(",", "|").encode(),
        TEXT.replace(",", " , ").encode(),
        b"sep=;\r\n" + TEXT.replace(",", ";").encode(),
        'scroll_id;"notes, further";id\n1;"x;y";a\né;z;b\n'.encode(),
        (TEXT + "\n,\n , \n\n").encode(),  # rows that a spreadsheet leaves
        b'"id", "scroll_id"\n"a", "1"\nb, \xc3\xa9\n',
    ],
)
def test_encodings_and_separators(tmp_path, content):
    assert read(tmp_path, content) == SCROLLS


def test_another_encoding_is_guessed_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"train.csv is not UTF-8 and is read as Windows-1252"):
        assert read(tmp_path, TEXT.encode("latin-1")) == SCROLLS


@pytest.mark.parametrize(
    "content",
    [b"PK\3\4\0\0\x81\xff", TEXT.encode() + b"\0", TEXT.encode("utf-16")[:-1], b"\x81\xe9"],
)
def test_what_is_not_text_is_named(tmp_path, content):
    with pytest.raises(ValueError, match=r"train.csv is not text of a known encoding: save it as"):
        read(tmp_path, content)


def test_a_folder_of_that_name(tmp_path):
    (tmp_path / "train.csv").mkdir()
    with pytest.raises(
        ValueError, match=r"train.csv is a folder, but this name is reserved for the table"
    ):
        read_scrolls(tmp_path / "train.csv", tmp_path, {})


def test_the_columns_that_are_there_are_shown(tmp_path):
    with pytest.raises(ValueError, match=r"no column scroll_id: .* instead of 'id', 'Scroll'\."):
        read(tmp_path, "id;Scroll\na;1\nb;2\n")
    with pytest.raises(ValueError, match="no column id and no column scroll_id"):
        read(tmp_path, "")


def test_blanks_split_no_scroll(tmp_path):
    found = read(tmp_path, "id,scroll_id\na,one\n b ,one \nc,two\nd\t,\ttwo\t\n", ids="abcd")
    assert found == {"a": "one", "b": "one", "c": "two", "d": "two"}
    fold_of = folds.assign_folds(list(found), list(found.values()), folds=2)
    assert fold_of["a"] == fold_of["b"] != fold_of["c"] == fold_of["d"]


@pytest.mark.parametrize(
    ("written", "files", "shown"),
    [
        (("7", "8"), ("0007", "0008"), "'7' and '0007', '8' and '0008'"),
        (("7.0", "12.0"), ("7", "12"), "'12.0' and '12', '7.0' and '7'"),
        (("a.tif", "b.ome.zarr"), ("a", "b"), "'a.tif' and 'a', 'b.ome.zarr' and 'b'"),
        (("scroll 1", "x"), ("scroll_1", "x"), "'scroll 1' and 'scroll_1'"),
        (("A", "b"), ("a", "b"), "'A' and 'a'"),
        (("la_003_0000", "b"), ("la_003", "b"), "'la_003_0000' and 'la_003'"),
    ],
)
def test_ids_that_are_nearly_alike_are_shown_side_by_side(tmp_path, written, files, shown):
    text = "id,scroll_id\n" + "".join(f"{id},1\n" for id in written)
    message = f"train.csv and {tmp_path / 'images'} spell ids differently, {shown}: write them in"
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, text, ids=files)


def test_names_of_other_numbers_are_not_alike(tmp_path):
    with pytest.raises(ValueError, match=r"has 2 ids \(1_0, 70\) without an image"):
        read(tmp_path, "id,scroll_id\n70,1\n1_0,1\n", ids=("7", "10"))


def test_scrolls_of_nearly_one_name_are_shown(tmp_path):
    text = "id,scroll_id\na,1\nb,01\nc,Paris\nd,paris\ne,2\n"
    with pytest.warns(
        UserWarning, match=r"differ only in spelling, '01' and '1', 'Paris' and 'paris': if"
    ):
        read(tmp_path, text, ids="abcde")
