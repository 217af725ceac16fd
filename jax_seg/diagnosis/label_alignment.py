"""Whether each label lies where its image says: shifted, mirrored, transposed or another's."""

import itertools
from typing import NamedTuple

import numpy as np

from jax_seg.diagnosis import appearance
from jax_seg.diagnosis.finding import Skipped
from jax_seg.diagnosis.misplaced_labels import CLEAR, misaligned, strangers, swapped

MOST = {True: 6, False: 12}  # volumes that are compared, quick or not: up to half a second each
ROUNDS = 4  # of fitting what foreground looks like and where labels lie; two suffice in practice
LOST = 0.5  # share of the explained variance that a misplaced label loses; where a few sheets lie
# side by side, healthy ones have lost up to 0.4 against a place that suits them by chance
EXPLAINED = 0.3  # of the label's variance, in the better place: hippocampi, whose labels follow
# anatomy and not grey values, reach 0.2 in many places
LOST_BY_ALL = 0.2  # the same of all volumes together, where they agree on a shift
AGREED = 0.75  # share of the volumes
SURE = 500_000  # voxels that are looked at before a label is said to be misplaced
FEW = 1 / 3  # of the volumes: so many labels may fit nothing, where the others fit


class Placed(NamedTuple):
    """A volume with its label at many places.

    Attributes:
      id: of the volume.
      label_file: path.
      kinds: list of ('shift', voxels), ('turned', (axes, flips)) and ('label', id), per placement.
      moments: `Moments`.
      own: index of the label where it is.
      unrelated: indices of the turned labels and those of others.
    """

    id: str
    label_file: object
    kinds: list
    moments: object
    own: int
    unrelated: np.ndarray


class Verdict(NamedTuple):
    """How well a label fits.

    Attributes:
      placed: `Placed`.
      scores: [P] correlation with the image, by placement.
      best: index of the highest one.
      own: correlation where the label is.
      chance: (mean, standard deviation) of the unrelated placements without the best one.
    """

    placed: Placed
    scores: np.ndarray
    best: int
    own: float
    chance: tuple

    @property
    def highest(self):
        """Correlation at the best place."""
        return float(self.scores[self.best])

    @property
    def lost(self):
        """Share of the explained variance that is lost where the label is."""
        return 1 - max(self.own, 0) ** 2 / max(self.highest, 1e-6) ** 2

    def above_chance(self, score):
        """Standard deviations of the unrelated placements."""
        return (score - self.chance[0]) / max(self.chance[1], 1e-6)

    @property
    def kind(self):
        """The best placement."""
        return self.placed.kinds[self.best]

    @property
    def misplaced(self):
        """Whether another place is clearly better."""
        return self.lost > LOST and self.above_chance(self.highest) > CLEAR


def alignment(evidence):
    """Findings of labels.misaligned and labels.swapped."""
    voxels = appearance.VOXELS[evidence.quick]
    chosen = appearance.telling(evidence.examples, MOST[evidence.quick], voxels)
    if len(chosen) < 2:
        raise Skipped("fewer than two volumes have enough foreground to compare labels")
    placed = [_place(example, chosen, voxels) for example in chosen]
    verdicts = judge(placed)
    if any(verdict.misplaced for verdict in verdicts):
        placed = [
            _place(example, chosen, SURE) if verdict.misplaced else verdict.placed
            for example, verdict in zip(chosen, verdicts, strict=True)
        ]
        verdicts = judge(placed)
    misplaced = [verdict for verdict in verdicts if verdict.misplaced]
    if common := common_shift(verdicts):
        improved = [v for v in verdicts if v.scores[v.placed.kinds.index(common)] > v.own]
        return [misaligned(improved, verdicts, common)]
    if misplaced and np.median([v.highest**2 for v in misplaced]) < EXPLAINED:
        return []
    shifted = [v for v in misplaced if v.kind[0] != "label"]
    exchanged = [v for v in misplaced if v.kind[0] == "label"]
    found = [misaligned(shifted, verdicts)] if shifted else []
    if exchanged:
        found.append(swapped(exchanged, verdicts))
    elif strange := _strange(verdicts):
        found.append(strangers(strange, verdicts))
    return found


def judge(placed):
    """`Verdict`s: what foreground looks like and where labels lie are fitted in turn.

    Each label is judged by what foreground looks like in the other volumes.
    """
    starts = (
        [one.own for one in placed],
        [int(np.argmax(appearance.free_correlations(one.moments))) for one in placed],
    )
    # From their own places, labels beside their structures may be fitted by what lies there.
    return max((_judge_from(placed, places) for places in starts), key=_explained)


def _judge_from(placed, places):
    for _ in range(ROUNDS):
        looks = [one.moments.at(place) for one, place in zip(placed, places, strict=True)]
        scores = []
        for index, one in enumerate(placed):
            weights = appearance.combination(looks[:index] + looks[index + 1 :])
            scores.append(appearance.correlations(one.moments, weights))
        before, places = places, [int(np.argmax(score)) for score in scores]
        if places == before:
            break
    return [_verdict(*pair) for pair in zip(placed, scores, strict=True)]


def _explained(verdicts):
    return np.mean([verdict.highest**2 for verdict in verdicts])


def _verdict(placed, scores):
    best = int(np.argmax(scores))
    unrelated = scores[placed.unrelated[placed.unrelated != best]]
    chance = float(unrelated.mean()), float(unrelated.std())
    return Verdict(placed, scores, best, float(scores[placed.own]), chance)


def _place(example, chosen, voxels):
    shape = example.image.shape
    others = [one for one in chosen if one is not example and one.image.shape == shape]
    box = appearance.middle(shape, voxels)
    found, label = appearance.maps(example.image[box]), example.label[box]
    margin = appearance.margin(label.shape)
    moves = appearance.shifts(margin)
    turns = symmetries(label.shape)
    elsewhere = [turned(label, turn) for turn in turns] + [other.label[box] for other in others]
    moments = appearance.moments_of_shifts(found, label, margin).join(
        *appearance.moments_of(found, elsewhere)
    )
    kinds = [("shift", tuple(int(n) for n in move)) for move in moves]
    kinds += [("turned", turn) for turn in turns] + [("label", other.id) for other in others]
    unrelated = np.arange(len(moves), len(kinds))
    return Placed(example.id, example.label_file, kinds, moments, len(moves) // 2, unrelated)


def symmetries(shape):
    """(axes, flips) of all mirrorings and transpositions that keep a shape, but the identity."""
    found = []
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((0, 1), repeat=3):
            fits = all(shape[axes[k]] == shape[k] for k in range(3))
            moves = all(shape[k] > 1 for k in range(3) if flips[k])
            if fits and moves and (axes, flips) != ((0, 1, 2), (0, 0, 0)):
                found.append((axes, flips))
    return found


def turned(label, turn):
    """A label [D, H, W] transposed and mirrored."""
    axes, flips = turn
    return label.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def common_shift(verdicts):
    """The shift, as a placement, that nearly all volumes prefer to their own place; None for none.

    Judged together they need not lose as much as one alone: sheets along the shift lose nothing.
    """
    by_kind = [dict(zip(v.placed.kinds, v.scores.tolist(), strict=True)) for v in verdicts]
    shifts = [k for k in set(by_kind[0]).intersection(*by_kind) if k[0] == "shift"]
    scores = {kind: np.array([of[kind] for of in by_kind]) for kind in shifts}
    best = max(shifts, key=lambda kind: scores[kind].mean())
    own = np.array([verdict.own for verdict in verdicts])
    agreed = np.mean(scores[best] > own) >= AGREED
    explained = np.mean(scores[best] ** 2)
    lost = 1 - np.mean(np.maximum(own, 0) ** 2) / explained
    return best if agreed and explained >= EXPLAINED and lost > LOST_BY_ALL else None


def _strange(verdicts):
    """Labels that fit no better than by chance, while all others fit well."""
    strange = [v for v in verdicts if v.above_chance(v.highest) < CLEAR and v.own < v.highest / 2]
    rest = [v for v in verdicts if v not in strange]
    sure = rest and min(v.above_chance(v.own) for v in rest) > CLEAR
    return strange if sure and len(strange) <= FEW * len(verdicts) else []
