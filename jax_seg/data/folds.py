"""Split volumes into cross-validation folds without splitting a scroll."""

import hashlib
from collections import defaultdict

NONE = "none"  # hold out nothing


def assign_folds(ids, groups=None, folds=5, seed=0):
    """Assigns every volume to the fold that validates it.

    Groups (scrolls) stay whole: the largest goes first, each into the smallest fold so far.
    The result depends on the seed but not on the order of `ids`, nor on a library's random numbers.

    Args:
        ids: volume ids, all different.
        groups: the group of each id, in the same order; None makes every volume its own group,
            which is a plain shuffle into `folds` parts that differ by at most one volume.
        folds: number of folds, at least 2.
        seed: breaks ties between groups of equal size.

    Returns:
        {id: fold}, fold from 0 to folds - 1, in the order of `ids`.

    Raises:
        ValueError: ids repeat, or there are fewer groups than folds.
    """
    groups = ids if groups is None else groups
    group_of = dict(zip(ids, groups, strict=True))
    if len(group_of) < len(ids):
        raise ValueError(f"{len(ids) - len(group_of)} of the volume ids repeat: make them unique.")
    members = defaultdict(list)
    for id, group in group_of.items():
        members[group].append(id)
    if folds < 2:
        raise ValueError(
            f"data.folds={folds} leaves nothing to train on: use at least 2, or data.fold='{NONE}'."
        )
    if len(members) < folds:
        raise ValueError(
            f"{len(members)} groups of volumes (data.group) cannot fill data.folds={folds}: lower "
            f"data.folds, group more finely with data.group, or train with data.fold='{NONE}'."
        )

    def largest_first(group):
        return -len(members[group]), hashlib.sha256(f"{seed}/{group}".encode()).digest()

    sizes = [0] * folds
    fold_of_group = {}
    for group in sorted(members, key=largest_first):
        fold = sizes.index(min(sizes))
        fold_of_group[group] = fold
        sizes[fold] += len(members[group])
    return {id: fold_of_group[group] for id, group in group_of.items()}


def split(ids, groups=None, *, fold, folds=5, seed=0):
    """The volumes to train on and to validate on, both sorted.

    Args:
        ids, groups, folds, seed: as in `assign_folds`.
        fold: the fold to validate on, 0 to folds - 1. "none" trains *and* validates on every
            volume, as nnU-Net's fold "all" does (Isensee et al. 2021): the final model, whose
            validation score shows that it fits but nothing about new scrolls.

    Returns:
        (training ids, validation ids).

    Raises:
        ValueError: no such fold, or as in `assign_folds`.
    """
    if fold == NONE:
        return sorted(ids), sorted(ids)
    if fold not in range(folds):
        raise ValueError(
            f"data.fold={fold!r} is not a fold: use 0 to {folds - 1} (data.folds={folds}) or "
            f"'{NONE}'."
        )
    fold_of = assign_folds(ids, groups, folds, seed)
    training = sorted(id for id in ids if fold_of[id] != fold)
    return training, sorted(id for id in ids if fold_of[id] == fold)
