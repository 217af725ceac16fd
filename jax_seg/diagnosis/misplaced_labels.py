"""Findings of labels that do not lie where their images say; the arguments are `Verdict`s."""

import numpy as np

from jax_seg.data.sampling import AXES
from jax_seg.diagnosis.finding import Finding, listed

CLEAR = 5.0  # standard deviations above the placements that mean nothing


def misaligned(verdicts, everyone, common=None):
    """The finding of labels that lie beside their structures, all at the same place or not."""
    if common:
        place = [v.scores[v.placed.kinds.index(common)] for v in verdicts]
    else:
        place, common = _common_place(verdicts)
    worst = max(verdicts, key=lambda v: v.lost)
    if common:
        how = f"{_how(common)} against {'its image' if len(verdicts) == 1 else 'their images'}"
        own, there = np.mean([v.own for v in verdicts]), np.mean(place)
    else:
        how = "out of place, " + "; ".join(f"{v.placed.id} {_how(v.kind)}" for v in verdicts[:3])
        own, there = np.mean([v.own for v in verdicts]), np.mean([v.highest for v in verdicts])
    moved = _undone(common) if common else "each to its image"
    return Finding(
        "labels.misaligned",
        "error",
        f"The label{_s(verdicts)} of {_named(verdicts, everyone)} {_is(verdicts)} {how}; "
        f"{'its' if len(verdicts) == 1 else 'their'} correlation with the image is {own:.2f}, and "
        f"{there:.2f} once moved back.",
        {
            "volumes": len(verdicts),
            "examined": len(everyone),
            "correlation": round(float(own), 4),
            "correlation_moved_back": round(float(there), 4),
            "by_chance": round(worst.chance[0] + CLEAR * worst.chance[1], 4),
        }
        | _shift_numbers(common or worst.kind),
        _where(verdicts, worst),
        f"Move the label{_s(verdicts)} back: {moved}.",
        _shifts(verdicts, common or worst.kind),
    )


def _shifts(verdicts, kind):
    """The picture of a shift: mean correlation at each shift in plane, at the best one in depth."""
    if kind[0] != "shift":
        return None
    by_kind = [dict(zip(v.placed.kinds, v.scores.tolist(), strict=True)) for v in verdicts]
    cells = [
        [other[1][2], other[1][1], round(float(np.mean([of[other] for of in by_kind])), 4)]
        for other in by_kind[0]
        if other[0] == "shift" and other[1][0] == kind[1][0] and all(other in of for of in by_kind)
    ]
    return {"kind": "shifts", "cells": cells}


def _common_place(verdicts):
    """(scores there, placement) that suits all of them almost as well as their own best; or None.

    A sheet fixes a shift across it alone: volumes agree on a shift that none finds by itself.
    """
    by_kind = [dict(zip(v.placed.kinds, v.scores.tolist(), strict=True)) for v in verdicts]
    best, place = [], None
    for kind in set(by_kind[0]).intersection(*by_kind):
        scores = [scores_of[kind] for scores_of in by_kind]
        if not best or np.mean(scores) > np.mean(best):
            best, place = scores, kind
    if not best or any(s < 0.9 * v.highest for s, v in zip(best, verdicts, strict=True)):
        return best, None
    return best, place


def _how(kind):
    """'shifted by 2 voxels along height', of the placement that puts it right."""
    if kind[0] == "shift":
        parts = [
            f"{-move:+d} voxel{'' if abs(move) == 1 else 's'} along {axis}"
            for move, axis in zip(kind[1], AXES, strict=True)
            if move
        ]
        return f"shifted by {' and '.join(parts)}"
    axes, flips = kind[1]
    mirrored = [axis for axis, flip in zip(AXES, flips, strict=True) if flip]
    parts = [f"mirrored along {' and '.join(mirrored)}"] if mirrored else []
    if axes != (0, 1, 2):
        changed = [AXES[k] for k in range(3) if axes[k] != k]
        parts.append(f"transposed ({' and '.join(changed)} exchanged)")
    return " and ".join(parts)


def _undone(kind):
    """What puts it right."""
    if kind[0] == "shift":
        return (
            f"shift by {', '.join(f'{move:+d}' for move in kind[1])} voxels (depth, height, width)"
        )
    axes, flips = kind[1]
    mirrored = [str(axis) for axis in range(3) if flips[axis]]
    steps = [f"numpy.transpose(label, {axes})"] if axes != (0, 1, 2) else []
    steps += [f"numpy.flip along the axes {', '.join(mirrored)}"] if mirrored else []
    return ", then ".join(steps)


def _shift_numbers(kind):
    if kind[0] != "shift":
        return {}
    return {f"shift_{axis}": -int(move) for axis, move in zip(AXES, kind[1], strict=True)}


def swapped(verdicts, everyone):
    """The finding of labels that fit another image."""
    pairs = "; ".join(f"{v.placed.id} fits the label of {v.kind[1]}" for v in verdicts[:4])
    own, there = (np.mean([getattr(v, n) for v in verdicts]) for n in ("own", "highest"))
    return Finding(
        "labels.swapped",
        "error",
        f"The label{_s(verdicts)} of {_named(verdicts, everyone)} {_is(verdicts)} not that of "
        f"{'its image' if len(verdicts) == 1 else 'their images'} ({pairs}): "
        f"{'its' if len(verdicts) == 1 else 'their'} correlation with the image is {own:.2f}, that "
        f"of the other label {there:.2f}.",
        {
            "volumes": len(verdicts),
            "examined": len(everyone),
            "correlation": round(float(own), 4),
            "correlation_of_the_other": round(float(there), 4),
            "by_chance": round(verdicts[0].chance[0] + CLEAR * verdicts[0].chance[1], 4),
        },
        str(verdicts[0].placed.label_file),
        "Give each image the label that was drawn on it: rename the files.",
    )


def strangers(verdicts, everyone):
    """The finding of labels that fit no image."""
    own = np.mean([v.own for v in verdicts])
    others = np.median([v.own for v in everyone if v not in verdicts])
    return Finding(
        "labels.swapped",
        "warning",
        f"The label{_s(verdicts)} of {_named(verdicts, everyone)} "
        f"correlate{'s' if len(verdicts) == 1 else ''} with "
        f"{'its image' if len(verdicts) == 1 else 'their images'} no better than mirrored labels "
        f"or those of other volumes: the correlation is {own:.2f}, and {others:.2f} in the other "
        "volumes.",
        {
            "volumes": len(verdicts),
            "examined": len(everyone),
            "correlation": round(float(own), 4),
            "correlation_of_other_volumes": round(float(others), 4),
            "by_chance": round(verdicts[0].chance[0] + CLEAR * verdicts[0].chance[1], 4),
        },
        str(verdicts[0].placed.label_file),
        "Check that the label was drawn on this image, or remove the volume.",
    )


def _named(verdicts, everyone):
    """'all 8 volumes', or names."""
    if len(verdicts) == len(everyone):
        return f"all {len(everyone)} volumes"
    names = [v.placed.id for v in verdicts]
    return f"{listed(names)} ({len(names)} of {len(everyone)} volumes)"


def _where(verdicts, worst):
    return "data.labels" if len(verdicts) > 1 else str(worst.placed.label_file)


def _s(verdicts):
    return "" if len(verdicts) == 1 else "s"


def _is(verdicts):
    return "is" if len(verdicts) == 1 else "are"
