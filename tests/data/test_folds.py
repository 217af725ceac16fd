"""Folds by hand for the competition's scrolls, and their properties for any groups."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_seg.data.folds import assign_folds, split

SCROLLS = {"34117": 382, "35360": 176, "26010": 130, "26002": 88, "44430": 17, "53997": 13}


def competition():
    groups = [scroll for scroll, count in SCROLLS.items() for _ in range(count)]
    return [f"{number:04d}" for number in range(len(groups))], groups


@st.composite
def volumes(draw):
    groups = draw(st.lists(st.sampled_from("ABCDEFGH"), min_size=1, max_size=60))
    return [f"v{number}" for number in range(len(groups))], groups


@given(st.integers(0, 9))
def test_competition_scrolls(seed):
    """Six scrolls, five folds: the two small scrolls share the last fold, whatever the seed."""
    ids, groups = competition()
    sizes = Counter(assign_folds(ids, groups, 5, seed).values())
    assert [sizes[fold] for fold in range(5)] == [382, 176, 130, 88, 30]


@given(volumes(), st.integers(2, 6), st.integers(0, 3), st.randoms())
def test_grouped(data, folds, seed, random):
    ids, groups = data
    if len(set(groups)) < folds:
        with pytest.raises(ValueError, match=r"data\.group.* cannot fill data\.folds="):
            assign_folds(ids, groups, folds, seed)
        return
    fold_of = assign_folds(ids, groups, folds, seed)
    assert list(fold_of) == ids
    assert set(fold_of.values()) == set(range(folds))
    folds_of_group = defaultdict(set)
    for id, group in zip(ids, groups, strict=True):
        folds_of_group[group].add(fold_of[id])
    assert all(len(found) == 1 for found in folds_of_group.values())
    sizes = Counter(fold_of.values())  # greedy: no fold exceeds the smallest by more than a group
    assert max(sizes.values()) - min(sizes.values()) <= max(Counter(groups).values())
    shuffled = list(zip(ids, groups, strict=True))
    random.shuffle(shuffled)
    assert assign_folds(*zip(*shuffled, strict=True), folds, seed) == fold_of


@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 3))
def test_plain_folds_are_equal_parts(count, folds, seed):
    ids = [str(number) for number in range(max(count, folds))]
    sizes = Counter(assign_folds(ids, None, folds, seed).values()).values()
    assert len(sizes) == folds
    assert max(sizes) - min(sizes) <= 1


def test_plain_folds_are_shuffled_by_the_seed():
    ids = [f"{number:02d}" for number in range(40)]
    by_seed = [assign_folds(ids, None, 4, seed) for seed in range(3)]
    assert by_seed[0] == assign_folds(ids, None, 4, 0)
    assert by_seed[0] != by_seed[1] != by_seed[2]
    assert [by_seed[0][id] for id in ids] != [number % 4 for number in range(40)]


def test_folds_never_change():
    """Pinned: another assignment would mix training and validation volumes of earlier runs."""
    fold_of = assign_folds("abcdefgh", "SSTTUVWW", 3, seed=0)
    assert fold_of == {"a": 1, "b": 1, "c": 0, "d": 0, "e": 1, "f": 0, "g": 2, "h": 2}


@given(volumes(), st.integers(0, 3))
def test_every_volume_validates_exactly_once(data, seed):
    ids, groups = data
    folds = len(set(groups))
    if folds < 2:
        return
    validated = []
    for fold in range(folds):
        training, validation = split(ids, groups, fold=fold, folds=folds, seed=seed)
        assert sorted(training + validation) == sorted(ids)
        assert training == sorted(training)
        assert validation == sorted(validation)
        assert training
        assert validation
        validated += validation
    assert sorted(validated) == sorted(ids)


def test_none_trains_and_validates_on_everything():
    assert split(["b", "a"], ["S", "S"], fold="none") == (["a", "b"], ["a", "b"])


@pytest.mark.parametrize("fold", [-1, 5, "0", None, 1.5])
def test_no_such_fold(fold):
    message = r"data\.fold=.* is not a fold: use 0 to 4 \(data\.folds=5\) or 'none'"
    with pytest.raises(ValueError, match=message):
        split(list("abcdef"), fold=fold)


def test_errors():
    message = r"2 groups of volumes \(data\.group\) cannot fill data\.folds=3: lower data\.folds"
    with pytest.raises(ValueError, match=message):
        assign_folds(list("abcd"), ["S", "S", "T", "T"], 3)
    with pytest.raises(ValueError, match=r"data\.folds=1 leaves nothing"):
        assign_folds(list("abcd"), None, 1)
    with pytest.raises(ValueError, match="1 of the volume ids repeat"):
        assign_folds(["a", "b", "a"], None, 2)
    with pytest.raises(ValueError, match="zip"):
        assign_folds(["a", "b", "c"], ["S", "T"], 2)
