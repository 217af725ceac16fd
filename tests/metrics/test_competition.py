"""The competition's score: the official program's numbers, a second program, and worked cases."""

import functools
import itertools
import json
import operator
import runpy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jax_seg.metrics.betti_matching import betti_numbers, feature_counts
from jax_seg.metrics.competition import competition_score, toposcore
from jax_seg.metrics.elimination import add_sums, nothing
from jax_seg.metrics.surface_distance import surface_areas, surface_dice
from jax_seg.metrics.variation_of_information import variation_of_information
from jax_seg.ops.classes import MASKED
from tests.conftest import GOLDEN, ROOT

CASES = json.loads((GOLDEN / "metric_public.json").read_text())


@pytest.fixture(scope="module")
def volumes():
    with np.load(GOLDEN / "metric_public.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize("expected", CASES, ids=lambda case: f"{case['case']}-{case['kind']}")
def test_equals_the_official_program(volumes, expected):
    number = expected["case"]
    label = volumes[f"gt{number:02d}"]  # as the official program takes it, 2 unlabelled
    label = np.where(label == 2, MASKED, label)
    got = competition_score(volumes[f"pred{number:02d}"], label)
    for field in ("score", "toposcore", "surface_dice", "voi_score", "voi_split", "voi_merge"):
        assert getattr(got, field) == pytest.approx(expected[field], abs=1e-9), field
    counts = expected["counts_matched_pred_gt"]
    assert got.counts == tuple(tuple(counts[str(k)]) for k in range(3))


# The definition, step by step: each cell of the whole block, ranks modulo two. Independent of the
# program, which never builds a cell of value 1.


class Space:
    """A space of chains, as Python integers whose bits are cells."""

    def __init__(self, chains=()):
        self.rows = {}
        for chain in chains:
            self.add(chain)

    def add(self, chain):
        """Whether the space grows."""
        while chain:
            last = chain.bit_length()
            if last not in self.rows:
                self.rows[last] = chain
                return True
            chain ^= self.rows[last]
        return False


def cells(shape, dimension):
    """(lowest corner, axes) of every cell."""
    return [
        (corner, axes)
        for corner in itertools.product(*map(range, shape))
        for axes in itertools.combinations(range(3), dimension)
        if all(corner[a] + 1 < shape[a] for a in axes)
    ]


def faces(cell):
    corner, axes = cell
    for axis in axes:
        rest = tuple(a for a in axes if a != axis)
        yield corner, rest
        yield tuple(c + (a == axis) for a, c in enumerate(corner)), rest


def value(mask, cell):
    corner, axes = cell
    box = tuple(slice(c, c + 1 + (a in axes)) for a, c in enumerate(corner))
    return 1 - int(mask[box].min())


def cell_type(cell):
    axes = cell[1]
    return {0: 0, 1: sum(axes), 2: 3 - sum(axes), 3: 0}[len(axes)]


def counts_by_definition(prediction, label):
    """[3, 3] as `feature_counts`: a bar ends where the rank of H_k(mask) -> H_k(union) drops."""
    masks = prediction.astype(int), label.astype(int)
    union = np.maximum(*masks)
    number = [{cell: i for i, cell in enumerate(cells(union.shape, k))} for k in range(4)]

    def boundary(cell):
        return sum(1 << number[len(cell[1]) - 1][face] for face in faces(cell))

    rows = []
    for k in range(3):
        order = sorted(number[k + 1], key=lambda c: (value(union, c), c[0], cell_type(c)))
        bars, deaths = [], []
        for mask in masks:
            cycles, rest = [], {}
            for cell in (c for c in number[k] if value(mask, c) == 0):
                chain, image = 1 << number[k][cell], boundary(cell) if k else 0
                while image and image.bit_length() in rest:
                    other_image, other = rest[image.bit_length()]
                    image, chain = image ^ other_image, chain ^ other
                if image:
                    rest[image.bit_length()] = image, chain
                else:
                    cycles.append(chain)
            filled = Space(boundary(c) for c in number[k + 1] if value(mask, c) == 0)
            bars.append(max(len(cycles) - len(filled.rows) - (k == 0), 0))
            boundaries, with_cycles, ends = Space(), Space(cycles), set()
            for cell in order:
                chain = boundary(cell)
                if boundaries.add(chain) and not with_cycles.add(chain) and value(union, cell):
                    ends.add(cell)
            deaths.append(ends)
        rows.append([len(deaths[0] & deaths[1]), *bars])
    return rows


def random_pair(seed):
    """Two related masks of odd shapes; a third of them flat, so that order at the border counts."""
    generator = np.random.default_rng(seed)
    shape = generator.integers(2, 6, 3)
    if seed % 3 == 0:
        shape = generator.permutation([1, *generator.integers(2, 8, 2)])
    label = generator.random(shape) < generator.choice([0.4, 0.6, 0.8])
    return label ^ (generator.random(shape) < generator.choice([0.05, 0.2])), label


def test_counts_equal_the_definition_on_random_masks():
    total = np.zeros((3, 3), int)
    for seed in range(120):
        prediction, label = random_pair(seed)
        got = feature_counts(prediction, label)
        assert got.tolist() == counts_by_definition(prediction, label), seed
        total += got
    assert (total[:2, 0] > 20).all()  # the cases do have matches


def test_cavities_match_at_their_last_common_voxel():
    label, prediction = np.ones((2, 4, 4, 12), bool)
    label[1:3, 1:3, 1:3] = prediction[1:3, 1:3, 2] = False  # one cavity, of two lengths
    label[1:3, 1:3, 4:8] = False  # one that the prediction divides: only the later part matches
    prediction[1:3, 1:3, 4] = prediction[1:3, 1:3, 7] = False
    label[1:3, 1:3, 9:11] = False  # one that is missed
    assert feature_counts(prediction, label)[2].tolist() == [2, 3, 3]
    assert counts_by_definition(prediction, label)[2] == [2, 3, 3]


@pytest.mark.parametrize("axis", range(3))
def test_rings(axis):
    """Rings of one place match, however wide; rings apart do not."""
    left, right = np.zeros((2, 9, 20), bool)
    left[1:8, 1:8] = right[1:8, 11:18] = True
    thick, thin, other = left | right, left | right, right.copy()
    thick[3:6, 3:6] = thick[3:6, 13:16] = other[3:6, 13:16] = False
    thin[2:7, 2:7] = thin[4, 14] = left[2:7, 2:7] = False
    thick, thin, left, other = (
        np.expand_dims(plane, axis).repeat(1 + (axis == 1), axis)
        for plane in (thick, thin, left, other)
    )
    assert feature_counts(thin, thick)[1].tolist() == [2, 2, 2]
    assert feature_counts(left, other)[1].tolist() == [0, 1, 1]


def test_betti_numbers():
    mask = np.zeros((7, 7, 16), bool)
    mask[1:6, 1:6, 1:6] = True
    mask[3, 3, 3] = False  # a cavity
    mask[3:4, 1:6, 8:13] = True
    mask[3, 3, 9:12:2] = False  # two holes in a plate
    mask[0, 0, 0] = mask[4, 2, 13] = True  # two voxels without a shared face
    assert betti_numbers(mask) == (4, 2, 1)
    assert betti_numbers(np.zeros_like(mask)) == (0, 0, 0)


def test_components_match_where_they_touch():
    label, prediction = np.zeros((2, 1, 1, 12), bool)
    label[..., [0, 3, 6, 9]] = True
    prediction[..., [0, 3, 4, 8]] = True  # 3 touches, 8 joins 9 in the union, 6 is missed
    assert feature_counts(prediction, label)[0].tolist() == [2, 2, 3]


def test_elimination_by_hand():
    # a + b, b + c, and their sum a + c, which is nothing new; then 0 = c + c, and b.
    terms, start = np.array([0, 1, 1, 2, 0, 2, 2, 2, 1]), np.array([0, 2, 4, 6, 8, 9])
    got = add_sums(nothing(3), terms[:8], start[:5])
    assert got.owner.tolist() == [-1, 0, 1]
    assert got.start.tolist() == [0, 2, 4]
    # The first sum turns b into a, so a is a last generator too.
    assert add_sums(got, terms[8:], start[4:] - 8).owner.tolist() == [2, 0, 1]


@pytest.mark.parametrize("generators", [5, 63, 64, 5000])
def test_elimination_finds_the_last_generators_of_a_space(generators):
    generator = np.random.default_rng(generators)
    sums = [generator.integers(0, generators, 4) for _ in range(60)]
    space = Space(functools.reduce(operator.xor, (1 << int(g) for g in s)) for s in sums)
    got = add_sums(nothing(generators), np.concatenate(sums), np.arange(0, 241, 4))
    assert (np.flatnonzero(got.owner >= 0) + 1).tolist() == sorted(space.rows)


def test_toposcore_by_hand():
    assert toposcore([(0, 0, 0)] * 3) == 1
    assert toposcore([(1, 2, 2), (0, 0, 0), (0, 0, 0)]) == pytest.approx(0.5)
    # F1 of 0.5, of 0.5 / 1.5 without a labelled loop, and of 0 without a predicted cavity
    expected = (0.34 * 0.5 + 0.33 / 3 + 0) / 1
    assert toposcore([(1, 2, 2), (0, 1, 0), (0, 0, 3)]) == pytest.approx(expected)


def test_surface_areas():
    area = surface_areas()
    np.testing.assert_array_equal(area, area[::-1])  # the complement has the same surface
    corner, diagonal = np.sqrt(3) / 8, np.sqrt(2) / 2
    assert area[0b00000000] == 0
    assert area[0b10000000] == pytest.approx(corner)
    assert area[0b11000000] == pytest.approx(diagonal)  # an edge of two voxels
    assert area[0b10010000] == pytest.approx(2 * corner)  # two voxels across a face
    assert area[0b11110000] == pytest.approx(1)  # a flat face
    assert area[0b11000011] == pytest.approx(2 * diagonal)  # opposite edges
    codes = np.arange(256, dtype=np.uint8)
    corners = np.unpackbits(codes[:, None], axis=1).reshape(256, 2, 2, 2)
    for turned in (corners.transpose(0, 2, 3, 1), np.rot90(corners, axes=(1, 2))):
        turned = np.packbits(turned.reshape(256, 8), axis=1)[:, 0]
        np.testing.assert_allclose(area[turned], area)


def test_surface_dice_of_shifted_sheets():
    sheet = np.zeros((9, 8, 8), bool)
    sheet[2] = True
    assert surface_dice(sheet, sheet, 0.0) == 1
    assert surface_dice(np.roll(sheet, 2, 0), sheet, 2.0) == 1
    assert surface_dice(np.roll(sheet, 4, 0), sheet, 2.0) == 0
    # Shifted by three, the sides that face each other are two apart, the others more.
    assert surface_dice(np.roll(sheet, 3, 0), sheet, 2.0) == pytest.approx(0.5)


def test_variation_of_information_by_hand():
    label, prediction = np.zeros((2, 1, 1, 11), bool)
    label[..., :4] = True
    prediction[..., [0, 3]] = True
    # Union of 4 voxels; the prediction cuts the label into {0}, {3} and not predicted {1, 2}.
    assert variation_of_information(prediction, label) == pytest.approx((1.5, 0))
    assert variation_of_information(label, prediction) == pytest.approx((0, 1.5))
    # Masks that are apart tell each other's components in the union.
    assert variation_of_information(np.roll(label, 5, 2), label) == pytest.approx((0, 0))


masks = hnp.array_shapes(min_dims=3, max_dims=3, max_side=7).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, shape, elements=st.integers(0, 2)),
        hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, MASKED])),
    )
)


@settings(max_examples=50)
@given(masks)
def test_properties(pair):
    prediction, label = pair
    got = competition_score(prediction, label)
    assert 0 <= got.score <= 1
    # The prediction where unlabelled, and which foreground value it has, do not count.
    assert competition_score(np.where(label == MASKED, 1, prediction), label) == got
    assert competition_score(7 * prediction, label) == got
    # Every value but 0 is foreground in the prediction; in the label MASKED is not.
    assert competition_score((prediction > 0).astype(np.uint8), label) == got
    assert competition_score((label == 1).astype(np.uint8), label).score == 1
    # Exchanged masks exchange their counts and entropies.
    sure = label != MASKED
    swapped = competition_score(label == 1, (prediction > 0) & sure)
    assert swapped.surface_dice == pytest.approx(got.surface_dice)
    assert (swapped.voi_split, swapped.voi_merge) == pytest.approx((got.voi_merge, got.voi_split))
    assert swapped.counts == tuple((m, g, p) for m, p, g in got.counts)


def test_mirrored_volumes_may_score_otherwise():
    """Ties between cells go by position, and odd volumes are cut off centre."""
    generator = np.random.default_rng(0)
    prediction, label = (generator.random((2, 9, 9, 9)) < 0.4).astype(np.uint8)
    mirrored = competition_score(prediction[::-1], label[::-1])
    assert mirrored.counts != competition_score(prediction, label).counts


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 5), (5, 1, 7), (7, 5, 1), (1, 1, 9)])
def test_empty_masks_and_thin_volumes(shape):
    empty, full = np.zeros(shape, np.uint8), np.ones(shape, np.uint8)
    assert competition_score(empty, empty).score == 1
    assert competition_score(full, full).score == 1
    assert competition_score(full, MASKED * full).score == 1  # wholly unlabelled
    for prediction, label in ((empty, full), (full, empty)):
        got = competition_score(prediction, label)
        assert (got.surface_dice, got.voi_score) == (0, 1)  # one component against none


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(2, 2, 2\).*\(2, 2, 3\)"):
        competition_score(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match=r"\(2, 2\).*\[D, H, W\]"):
        competition_score(np.zeros((2, 2)), np.zeros((2, 2)))


def test_benchmark_runs(capsys):
    path = ROOT / "benchmarks/competition.py"
    runpy.run_path(str(path))["main"](["--small"])
    assert "both noise" in capsys.readouterr().out
