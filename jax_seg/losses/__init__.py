"""Losses for masked segmentation, and their weighted sum.

Each is `f(logits, label, mask, **options) -> scalar float32` on [B, *spatial, C] arrays: for each
of C classes label 1 inside and 0 outside, mask 1 where the voxel is labelled. An unlabelled voxel
contributes nothing to value or gradient (`masking`). A class is judged against all else; where
classes exclude each other, by the logit of its softmax (`combine`).
"""

import inspect

import jax
import jax.numpy as jnp

from jax_seg.losses.boundary import boundary
from jax_seg.losses.fields import FIELDS, group_options
from jax_seg.losses.overlap import dice
from jax_seg.losses.pixel import (
    VARIANCE_FLOOR,
    cross_entropy,
    entropy,
    focal,
    variance,
    variance_floor,
)
from jax_seg.losses.structure import edge, soft_iou, structure
from jax_seg.losses.topology import cldice, connectivity, skeleton_recall
from jax_seg.ops.classes import against_rest

__all__ = [
    "FIELDS",
    "GATE_TERMS",
    "LOSSES",
    "TERMS",
    "VARIANCE_FLOOR",
    "boundary",
    "cldice",
    "coarsen",
    "combine",
    "connectivity",
    "cross_entropy",
    "dice",
    "edge",
    "entropy",
    "focal",
    "group_options",
    "skeleton_recall",
    "soft_iou",
    "structure",
    "variance",
    "variance_floor",
]

LOSSES = {
    "dice": dice,
    "cross_entropy": cross_entropy,
    "focal": focal,
    "variance": variance,
    "entropy": entropy,
    "boundary": boundary,
    "cldice": cldice,
    "skeleton_recall": skeleton_recall,
    "connectivity": connectivity,
    "soft_iou": soft_iou,
    "edge": edge,
    "structure": structure,
}
OF_COARSER = {"deep_cross_entropy": cross_entropy}
"""Terms that are the mean of a loss over the coarser levels of deep supervision."""
GATE_TERMS = ("load_balance", "gate_importance", "gate_z")
"""Terms whose values a network with gates supplies."""
TERMS = (*LOSSES, *OF_COARSER, *GATE_TERMS)
"""Every name that a configuration may give a weight."""


def combine(
    logits,
    label,
    mask,
    weights,
    *,
    gates=None,
    terms=None,
    options=None,
    level_weights=None,
    exclusive=False,
):
    """Weighted sum of losses, over one level of logits or several.

    A term outside `terms` is not computed at all. `terms` is static; `weights` may be arrays that
    change from epoch to epoch without recompiling, so `terms` must name every term that any epoch
    uses.

    Under deep supervision the total is the mean over levels weighted by `level_weights`, each
    level against a label coarsened to its size (Lee et al. 2015; label: see `coarsen`). A level of
    weight 0 is not computed. 'deep_cross_entropy', the mean over the coarser levels, is added to
    that with its own weight.

    Args:
      logits: [B, *spatial, C], or a tuple of them, finest first.
      label, mask: the shape of the finest logits, see `masking.labelled`; a mask may have one
        channel for all classes.
      weights: name in `TERMS` -> weight, a number or a scalar array.
      gates: name in `GATE_TERMS` -> value, of a network that has gates; they are added where they
        have a weight. Other names are ignored.
      terms: names to compute, those of gates aside; by default those whose weight is not the plain
        number 0.
      options: name in `LOSSES` -> its keyword arguments; those of a term that is not computed have
        no effect.
      level_weights: one number per level, normalised to sum 1; by default 1, 1/2, 1/4, ...
      exclusive: whether the C classes exclude each other: a voxel is of one of them or of none.

    Returns:
      (total, components): scalar float32, and the unweighted value of each term by name, those in
      `LOSSES` at the finest level.

    Raises:
      ValueError: a term is unknown, lacks its weight or an option, or has an unused weight; an
        option is unknown; no term remains; or the levels do not fit.
    """
    terms, options = _active(weights, terms), options or {}
    _check_options(terms, options)
    levels = logits if isinstance(logits, (tuple, list)) else (logits,)
    level_weights = _check_levels(terms, len(levels), level_weights)
    deep = [name for name in terms if name in OF_COARSER]
    if jnp.shape(mask) == (*jnp.shape(label)[:-1], 1):
        mask = jnp.broadcast_to(mask, jnp.shape(label))
    values, total = [], 0.0
    for index, (level, level_weight) in enumerate(zip(levels, level_weights, strict=True)):
        if index:
            label, mask = coarsen(label, mask, level.shape)
        values.append({})
        of_each = against_rest(level.astype(jnp.float32)) if exclusive else level
        for name in terms:
            # The finest level's own terms are reported, whatever its weight.
            wanted = index > 0 if name in deep else level_weight or index == 0
            if wanted:
                term = OF_COARSER[name] if name in deep else LOSSES[name]
                with jax.named_scope(name):
                    if exclusive and term is cross_entropy:
                        found = term(level, label, mask, exclusive=True)
                    else:
                        found = term(of_each, label, mask, **options.get(name, {}))
                values[-1][name] = found
        own = sum(weights[name] * value for name, value in values[-1].items() if name not in deep)
        total += level_weight * own / sum(level_weights)
    components = values[0]
    for name in deep:
        components[name] = sum(level[name] for level in values[1:]) / len(values[1:])
        total += weights[name] * components[name]
    for name in GATE_TERMS:
        if name in weights:
            components[name] = gates[name]
            total += weights[name] * gates[name]
    return total, components


def coarsen(label, mask, shape):
    """Label and mask at a coarser level: foreground if any voxel is, background if all are.

    A block of background with an unlabelled voxel could hold foreground there, so it is unlabelled.
    nnU-Net picks the nearest voxel instead; a sheet two voxels thin then loses three quarters of
    its voxels at an eighth of the resolution, and a coarse level learns that sheets are full of
    holes.

    Args:
      label, mask: [B, *spatial, C], see `masking.labelled`.
      shape: the coarser shape, each spatial size a divisor of the finer one.

    Returns:
      (label, mask) of `shape`, bool.

    Raises:
      ValueError: `shape` does not divide the label's shape.
    """
    factors = [fine // coarse for fine, coarse in zip(label.shape, shape, strict=True)]
    if tuple(f * s for f, s in zip(factors, shape, strict=True)) != label.shape or (
        factors[0] != 1 or factors[-1] != 1
    ):
        raise ValueError(
            f"Logits of shape {shape} do not divide a label of shape {label.shape} into equal "
            "blocks: order the levels finest first and pool by whole factors."
        )
    blocks = [size for pair in zip(shape, factors, strict=True) for size in pair]
    within = tuple(range(1, len(blocks), 2))
    known = mask != 0
    foreground = (known & (label != 0)).reshape(blocks).any(within)
    return foreground, foreground | known.reshape(blocks).all(within)


def _active(weights, terms):
    """The names to compute, in the order of `LOSSES`."""
    weights = {name: weight for name, weight in weights.items() if name not in GATE_TERMS}
    used = [n for n, w in weights.items() if isinstance(w, jax.Array) or w != 0]
    terms = used if terms is None else terms
    known = (*LOSSES, *OF_COARSER)
    for name in (*weights, *terms):
        if name not in known:
            raise ValueError(f"Unknown loss term '{name}': use {', '.join(known)}.")
    for name in terms:
        if name not in weights:
            raise ValueError(
                f"Loss term '{name}' is in terms but has no weight: add it to weights."
            )
    for name in used:
        if name not in terms and not isinstance(weights[name], jax.Array):
            raise ValueError(
                f"Loss term '{name}' has weight {weights[name]} but is not in terms: "
                "add it there or set its weight to 0."
            )
    if not terms:
        raise ValueError("Every loss weight is 0: give at least one term a weight.")
    return [name for name in known if name in terms]


def _check_options(terms, options):
    """ValueError where an option belongs to no loss, or a loss to compute lacks one."""
    for name, given in options.items():
        if name not in LOSSES:
            raise ValueError(f"Unknown loss term '{name}' in options: use {', '.join(LOSSES)}.")
        for option in given:
            if option not in (known := _parameters(name)):
                raise ValueError(
                    f"Loss term '{name}' has no option '{option}': it takes "
                    f"{', '.join(known) or 'none'}."
                )
    for name in terms:
        for option, parameter in _parameters(name).items() if name in LOSSES else ():
            if parameter.default is parameter.empty and option not in options.get(name, {}):
                raise ValueError(f"Loss term '{name}' needs the option {option}: give it a number.")


def _parameters(name):
    """{option: inspect.Parameter} of a loss."""
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def _check_levels(terms, count, level_weights):
    """The weight of each level; ValueError where they do not fit the levels or the terms."""
    if level_weights is None:
        level_weights = [0.5**level for level in range(count)]
    if len(level_weights) != count:
        raise ValueError(
            f"loss.level_weights has {len(level_weights)} numbers for {count} levels of logits: "
            "give one per level, finest first."
        )
    if min(level_weights) < 0 or not sum(level_weights):
        raise ValueError(
            f"loss.level_weights is {tuple(level_weights)}; give numbers of at least 0, one of "
            "them above 0."
        )
    deep = [name for name in terms if name in OF_COARSER]
    if deep and count == 1:
        raise ValueError(
            f"Loss term '{deep[0]}' needs coarser logits: turn on model.deep_supervision, or set "
            "its weight to 0."
        )
    return level_weights
