"""Does the first answer of a network, before any update, leave room for a gradient?"""

import numpy as np
from scipy.special import logit

from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.diagnosis.loss_terms import Ground, terms_of
from jax_seg.ops.classes import FOREGROUND, MASKED

# A share of the reference, below which hardly anything is left of it: two orders of magnitude,
# which neither random weights nor patches differ by.
GONE = 0.01


def prior_and_share(evidence):
    """(model.foreground_prior, share of foreground among the labelled training voxels).

    Raises:
      Skipped: the network has no such field, or the run starts from trained weights.
    """
    prior = evidence.field("model.foreground_prior")
    if prior is None:
        raise Skipped("the network has no model.foreground_prior")
    if evidence.field("train.start_from"):
        raise Skipped("the run starts from trained weights")
    labels = [example.label for example in evidence.part("training")]
    labelled = sum(np.count_nonzero(label != MASKED) for label in labels)
    foreground = sum(np.count_nonzero(label == FOREGROUND) for label in labels)
    return float(prior), foreground / max(labelled, 1)


def hardly_any(prior, share):
    """Whether a sigmoid at `prior` passes hardly any of the gradient that it passes at `share`."""
    return 0 < share < 1 and prior * (1 - prior) < GONE * share * (1 - share)


def find_prior(evidence):
    """The first answer, `model.foreground_prior`, against the labels' share of foreground."""
    prior, share = prior_and_share(evidence)
    if not hardly_any(prior, share):
        return []
    batch = evidence.batch()
    chosen = (batch["label"][..., 0] > 0) == (prior < 0.5)
    chosen &= batch["mask"][..., 0] > 0
    ones = np.ones(batch["label"].shape[:-1], np.float32)
    sizes = [
        loss_gradient(evidence, np.float32(logit(p)) * ones, batch, chosen) for p in (prior, share)
    ]
    left = sizes[0] / sizes[1] if all(sizes) else 1.0
    return [
        Finding(
            "model.saturated",
            "error" if left < GONE else "warning",
            f"The first weights give every voxel a probability of {prior:.2g}, while "
            f"{100 * share:.2g} % of the labelled voxels are foreground: the sigmoid passes "
            f"{100 * prior * (1 - prior) / (share * (1 - share)):.2g} % of the gradient.",
            {
                "foreground_prior": float(prior),
                "foreground_share": float(share),
                "share_of_loss_gradient": left,
            },
            "model.foreground_prior",
            f"Set model.foreground_prior to {share:.2g}, the share of foreground, or to 0.5.",
        )
    ]


def loss_gradient(evidence, logits, batch, chosen):
    """Mean size of the gradient of the run's terms of the finest level at the chosen voxels.

    Args:
      evidence: Evidence.
      logits: [B, *spatial].
      batch: 'label' and 'mask'.
      chosen: bool, of the logits' shape.
    """
    ground = Ground(batch["label"], batch["mask"])
    gradient = terms_of(evidence).gradients(logits[..., None], ground).sum(0)
    return float(np.abs(gradient.reshape(logits.shape)[chosen]).mean())


CHECKS = (Check(("model.saturated",), find_prior, quick=True),)
