"""How the terms of a loss share the gradient, and whether they pull towards the label."""

from typing import NamedTuple

import numpy as np
from scipy.special import logit

from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.diagnosis.loss_terms import BLIND, crop, ground_of, terms_of
from jax_seg.diagnosis.loss_terms import ground as ground_from

MOST = 0.9  # share of the gradient of a term that leaves the others without effect
NONE = 0.01  # share of the gradient of a term without effect
MEANT = 0.05  # share of the weights of a term that is meant to have an effect
AGAINST = 1 / 3
"""Pull away from the label against the pull towards it. At 1 the answer moves no further; a third
already takes as much from a step as the class weights of a mild bias do."""
EARLY = (0.0, 0.1)  # (logit at the label, spread of the noise): as a network starts
HALFWAY = (1.0, 0.7)  # right in nine of ten voxels, and uncertain everywhere
NEARLY = (3.0, 0.5)  # right everywhere, with probabilities of about 0.95
SMALLEST = 1e-4  # of stored probabilities: a logit of 9


class Pull(NamedTuple):
    """Gradients of the terms at one answer.

    Attributes:
      share: [T] norm of each term's gradient, of the sum of norms.
      towards: [T] how far each moves the logits towards the label; negative is away from it.
      cosine: [T, T] of the gradients.
    """

    share: np.ndarray
    towards: np.ndarray
    cosine: np.ndarray


def pull(terms, ground, logits):
    """`Pull` of `Terms` at logits [B, *spatial, 1]."""
    gradients = terms.gradients(logits, ground)
    norms = np.linalg.norm(gradients, axis=1)
    direction = ((2 * ground.label - 1) * ground.mask).ravel()
    cosine = gradients @ gradients.T / np.maximum(np.outer(norms, norms), 1e-30)
    return Pull(norms / max(norms.sum(), 1e-30), -gradients @ direction, cosine)


def shares_the_gradient(evidence):
    """The terms' gradients at the start, at the checkpoint or half of the way, and near the end."""
    terms, ground = terms_of(evidence), ground_of(evidence)
    if len(terms.names) < 2:
        raise Skipped("the loss has one term")
    prior = evidence.field("model.foreground_prior", 0.5)
    start = pull(terms, ground, logit(prior) + _made_up(ground, *EARLY))
    now = _at_the_checkpoint(evidence, terms)
    later = now or pull(terms, ground, _made_up(ground, *HALFWAY))
    end = pull(terms, ground, _made_up(ground, *NEARLY))
    picture = {
        "kind": "gradients",
        "terms": list(terms.names),
        "start": start.share.tolist(),
        "now": later.share.tolist(),
    }
    when = "at the checkpoint" if now else "half of the way to the label"
    return _dominated(terms, start, later, when, picture) + _conflicting(terms, end, now, picture)


def _made_up(ground, certainty, spread):
    noise = np.random.default_rng(1).normal(size=ground.label.shape)
    return (2 * ground.label - 1) * certainty + spread * noise


def _at_the_checkpoint(evidence, terms):
    """`Pull` at what a run predicts for its validation volumes; None before it."""
    if not evidence.workdir:
        return None
    try:
        predicted = evidence.predictions
    except Skipped:
        return None
    for _, probability, label, _ in predicted:
        if len(label) == 1:  # an image is one slice, and its losses are of two dimensions
            label, probability = label[0], probability[0]
        if (cropped := crop(label)) is not None:
            p = np.clip(crop(label, np.float32(probability)), SMALLEST, 1 - SMALLEST)
            return pull(terms, ground_from([cropped]), logit(p)[None, ..., None])
    return None


def _dominated(terms, start, later, when, picture):
    """A term that has most of the gradient both times, or one that has next to none."""
    most, least = np.minimum(start.share, later.share), np.maximum(start.share, later.share)
    # A penalty on certainty has no effect until there is any.
    least = np.where([name in BLIND for name in terms.names], 1.0, least)
    if most.max() > MOST:
        number = int(most.argmax())
        meant, has = terms.shares[number] < MOST, "holds nearly all of it"
        advice = f"Lower loss.weights.{terms.names[number]}, or raise the other weights."
    elif least.min() < NONE:
        number = int(np.where(least < NONE, terms.shares, 0).argmax())
        meant, has = terms.shares[number] >= MEANT, "has next to no effect"
        advice = f"Raise loss.weights.{terms.names[number]}, or set it to 0."
    else:
        return []
    name, weight = terms.names[number], float(terms.weights[number])
    found = {
        "weight": weight,
        "share_of_weights": float(terms.shares[number]),
        "share_at_start": float(start.share[number]),
        "share_later": float(later.share[number]),
    }
    says = (
        f"'{name}' {has}: of the weights it has {_percent(found['share_of_weights'])}, of the "
        f"gradient {_percent(found['share_at_start'])} at the start and "
        f"{_percent(found['share_later'])} {when}."
    )
    severity, field = "warning" if meant else "note", f"loss.weights.{name}"
    return [Finding("loss.dominated", severity, says, found, field, advice, picture)]


def _conflicting(terms, end, now, picture):
    """Terms that pull away from a label that is nearly reached, as hard as others towards it."""
    away, towards = -np.minimum(end.towards, 0), np.maximum(end.towards, 0)
    ratio = away.sum() / max(towards.sum(), 1e-30)
    if ratio < AGAINST:
        return []
    against, pulled = int(away.argmax()), int(towards.argmax())
    name, other = terms.names[against], terms.names[pulled]
    cosine = float(end.cosine[against, pulled])
    says = (
        f"Where the answer is nearly right (probability 0.95), '{name}' pulls away from the label "
        f"with {100 * ratio:.0f} % of the force with which the other terms pull towards it, and "
        f"the cosine of its gradient with that of '{other}' is {cosine:.2f}"
    )
    found = {"away": float(away.sum()), "towards": float(towards.sum()), "cosine": cosine}
    if now:
        found["cosine_at_checkpoint"] = float(now.cosine[against, pulled])
        says += f" ({found['cosine_at_checkpoint']:.2f} at the checkpoint)"
    field, advice = f"loss.weights.{name}", f"Set loss.weights.{name} to 0."
    return [Finding("loss.conflict", "warning", f"{says}.", found, field, advice, picture)]


def _percent(share):
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


CHECKS = (Check(("loss.dominated", "loss.conflict"), shares_the_gradient, quick=True),)
