"""Programs of tests are shared where all that they are made of is equal, and nowhere else."""

import functools

import numpy as np

from jax_seg.data.preprocess import Preprocessing
from tests.shared_programs import facts_of, once


def transform(strength, limits=(0, 1)):
    def change(x):
        return strength * x + limits[0]

    return change


def test_equal_facts():
    for one, other in [
        (transform(2), transform(2)),
        (functools.partial(transform, limits=(0, 2)), functools.partial(transform, limits=(0, 2))),
        ({"a": [1], "b": ()}, {"b": (), "a": [1]}),
        (Preprocessing(0, 1, 2, 3), Preprocessing(0, 1, 2, 3)),
        (np.arange(3), np.arange(3)),
    ]:
        assert facts_of(one) == facts_of(other)


def test_other_facts():
    different = [
        transform(2), transform(3), transform(2.0), transform(2, (1, 1)),
        functools.partial(transform, 2), functools.partial(transform, limits=2), transform,
        {"a": 1}, {"a": True}, {"b": 1}, [1], (1,), (), None, "", 0,
        Preprocessing(0, 1, 2, 3), Preprocessing(0, 1, 2, 4), np.arange(3), np.arange(3.0),
    ]  # fmt: skip
    assert len({facts_of(one) for one in different}) == len(different)


def test_what_has_no_facts_is_built_again():
    built = once(lambda value: [value])
    assert built(1) is built(1) and built(1) is not built(1.0)
    assert built({1}) is not built({1})
