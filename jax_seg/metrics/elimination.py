"""Gaussian elimination modulo two, for many short sums of a great many generators."""

from typing import NamedTuple

import numpy as np

from jax_seg.ops.jit import jit


class Echelon(NamedTuple):
    """Independent sums of generators, each with a last generator that no other has as its last.

    Attributes:
      owner: [N] number of the sum whose last generator this is, -1 for none.
      terms: generators of all sums, one after the other.
      start: [S + 1] where each sum begins in `terms`.
    """

    owner: np.ndarray
    terms: np.ndarray
    start: np.ndarray


def nothing(generators):
    """The Echelon without sums."""
    return Echelon(np.full(generators, -1), np.empty(0, np.int64), np.zeros(1, np.int64))


def add_sums(echelon, terms, start):
    """Reduce sums by those of an Echelon and by one another.

    Args:
      echelon: Echelon over N generators; it is not changed.
      terms: generators 0 to N - 1 of the sums, one after the other; a pair of equal ones cancels.
      start: [S + 1] where each sum begins in `terms`.

    Returns:
      Echelon with the sums of `echelon` and those independent of them.
    """
    return Echelon(*_eliminate(*echelon, terms, start))


@jit
def _eliminate(owner, terms, start, more_terms, more_start):
    """`add_sums` on the arrays of an Echelon.

    The current sum is a row of bits, with a second row that marks the nonzero words of the first:
    sums are short, generators are many, and every step needs the last generator.
    """
    owner = owner.copy()
    stored, begin = list(terms), list(start)
    bits = np.zeros(len(owner) // 64 + 1, np.uint64)
    used = np.zeros(len(bits) // 64 + 1, np.uint64)
    for k in range(len(more_start) - 1):
        for generator in more_terms[more_start[k] : more_start[k + 1]]:
            _flip(bits, used, generator)
        last = _last(bits, used, len(owner) - 1)
        while last >= 0 and owner[last] >= 0:
            for position in range(begin[owner[last]], begin[owner[last] + 1]):
                _flip(bits, used, stored[position])
            last = _last(bits, used, last)
        if last >= 0:
            owner[last] = len(begin) - 1
            while last >= 0:
                stored.append(last)
                _flip(bits, used, last)
                last = _last(bits, used, last)
            begin.append(len(stored))
    return owner, np.array(stored), np.array(begin)


@jit
def _flip(bits, used, generator):
    """Add a generator to the sum in `bits`, or remove it."""
    word = generator // 64
    bits[word] ^= np.uint64(1) << np.uint64(generator % 64)
    mark = np.uint64(1) << np.uint64(word % 64)
    if bits[word]:
        used[word // 64] |= mark
    else:
        used[word // 64] &= ~mark


@jit
def _last(bits, used, bound):
    """The last generator of the sum in `bits`, at most `bound`; -1 where the sum is zero."""
    for group in range(bound // 4096, -1, -1):
        if used[group]:
            word = 64 * group + _highest_bit(used[group])
            return 64 * word + _highest_bit(bits[word])
    return -1


@jit
def _highest_bit(word):
    """Position of the highest bit of a uint64 that is not 0."""
    position = 0
    for step in (32, 16, 8, 4, 2, 1):
        if word >> np.uint64(step):
            word >>= np.uint64(step)
            position += step
    return position
