"""Can the network fit one batch, and does it with the run's loss and the parts that it trains?"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_seg import losses
from jax_seg.diagnosis import crops, first_answer, plain_fit
from jax_seg.diagnosis.evidence import finest, once
from jax_seg.diagnosis.finding import Check, Finding, Skipped
from jax_seg.models.forward import forward
from jax_seg.training import optimizers
from jax_seg.training.programs import random_key

STEPS = 60  # updates in which a healthy network fits a batch
RATE = 1e-2  # of Adam: ten times its default, since a single batch has no noise to average out
FITTED = 0.8  # Dice at which a fit is stopped, and less than which is short of it
SHORT = 0.2  # Dice below the reference that is worth an alarm
BATCHES = 4  # in which a part of a patch to fit is looked for
SIDE = 24  # voxels along an axis, of volumes
SECONDS = 30.0  # of the processor, for all updates together; what else runs does not count
SMOOTH = 1e-5
SCALES = (1, 2, 4)  # voxels, of the plain fit
HEALTHY = ("dice", "cross_entropy")  # losses of the reference


class Fit(NamedTuple):
    """What a training on one batch reached.

    Attributes:
      dice: the highest on the batch.
      steps: updates that it took, or all that were made.
    """

    dice: float
    steps: int


def find_fit(evidence):
    """Fit one batch with a healthy loss and optimizer, then with the run's loss and frozen parts.

    Adam and its rate are the same in both, so the optimizer of the run does not enter.
    """
    if evidence.workdir and _has_fitted(evidence):
        return []
    if first_answer.hardly_any(*first_answer.prior_and_share(evidence)):
        raise Skipped("the first answer leaves no gradient, see model.saturated")
    batch = _cropped(evidence)
    constant = _constant_dice(batch)
    fit = _make_fit(evidence, batch)
    healthy = fit(own_loss=False, rates=dict.fromkeys(evidence.stage.rates, 1.0))
    if healthy.dice < FITTED:
        simple = _simple_dice(batch)
        if healthy.dice < min(simple, FITTED) - SHORT:
            return [_network(evidence, healthy, simple, constant)]
        return []
    frozen = _frozen(evidence)
    if set(_weights(evidence)) <= set(HEALTHY) and not frozen:
        return []
    free = fit(own_loss=True, rates=dict.fromkeys(evidence.stage.rates, 1.0))
    if free.dice < healthy.dice - SHORT:
        return [_loss(evidence, free, healthy, constant)]
    if not frozen or free.dice < FITTED:
        return []
    own = fit(own_loss=True, rates={k: float(k not in frozen) for k in evidence.stage.rates})
    return [_parts(frozen, own, free, constant)] if own.dice < FITTED else []


def _has_fitted(evidence):
    """Whether the run itself reached a Dice, in training or on whole volumes, that shows it."""
    reached = [1 - e["train"]["dice"] for e in evidence.epochs if "dice" in e["train"]]
    reached += [e["volumes"]["dice"] for e in evidence.epochs if "dice" in e.get("volumes", {})]
    return bool(reached) and max(reached) >= FITTED - SHORT


def _weights(evidence):
    return {name for name, weight in evidence.loss_weights.items() if weight}


def _frozen(evidence):
    """The parts that no stage of the run trains, from weights that nothing has trained."""
    if evidence.field("train.start_from") or evidence.field("train.start_encoder"):
        return set()
    plan = evidence.settings.plan
    return {name for name in plan[0].rates if not any(stage.rates[name] for stage in plan)}


def _cropped(evidence):
    """A part of a patch, about SIDE voxels along an axis, of a size that the network takes.

    It holds as much foreground as background, as far as there is so much: where foreground is rare,
    a healthy network spends its first updates on learning that.
    """
    divisors = evidence.model.smallest_input()
    shape = evidence.task.shape[:-1]
    sides = [
        min(size, max(2 * by, SIDE // by * by)) for size, by in zip(shape, divisors, strict=True)
    ]
    most = SIDE ** sum(size > 1 for size in shape)
    if np.prod(sides) > 8 * most:
        raise Skipped("the smallest patch that the network takes is too large to fit it here")
    found = {}
    for number in range(BATCHES):
        batch = evidence.batch(number)
        for sample in range(len(batch["label"])):
            one = {name: array[sample : sample + 1] for name, array in batch.items()}
            foreground = (one["label"] > 0) & (one["mask"] > 0)
            crop = (slice(1), *crops.balanced(foreground[0, ..., 0], sides))
            cut = {name: array[crop] for name, array in one.items()}
            inside = cut["label"][cut["mask"] > 0]
            if len(inside) and 0.01 < inside.mean() < 0.9:
                found[abs(float(inside.mean()) - 0.5)] = cut
    if not found:
        raise Skipped("no batch holds foreground and background in one place")
    return found[min(found)]


def _constant_dice(batch):
    share = batch["label"][batch["mask"] > 0].mean()
    return float(2 * share / (1 + share))


def _make_fit(evidence, batch):
    """(own_loss, rates {part: 0 or 1}) -> `Fit`; one program serves all."""
    model, start, key = evidence.model, evidence.fresh, random_key(evidence.settings.seed)
    part_of = optimizers.label_parameters(start.params, evidence.settings.programs["patterns"])
    adam = optax.adam(RATE)

    def objective(params, own):
        variables = {"params": params, "batch_stats": start.batch_stats}
        logits, gates, _ = forward(model, variables, batch["image"], key)
        own_level = finest(logits)
        label, mask = batch["label"], batch["mask"]

        def run_loss():
            return evidence.loss(logits, label, mask, evidence.loss_weights, gates=gates)[0]

        def healthy():
            return losses.dice(own_level, label, mask, smooth=SMOOTH) + losses.cross_entropy(
                own_level, label, mask
            )

        return jax.lax.cond(own, run_loss, healthy), own_level

    @once
    def step(params, state, own, rates):
        (_, logits), gradients = jax.value_and_grad(objective, has_aux=True)(params, own)
        gradients = optimizers.zero_frozen(gradients, part_of, rates)
        updates, state = adam.update(gradients, state, params)
        params = optimizers.apply_updates(params, updates, part_of, rates)
        return params, state, _dice(logits, batch)

    ends = []

    def fit(own_loss, rates):
        params, state, best, steps = start.params, adam.init(start.params), 0.0, 0
        while best < FITTED and steps < STEPS:
            params, state, dice = step(params, state, jnp.array(own_loss), rates)
            best, steps = max(best, float(dice)), steps + 1
            ends[:] = ends or [time.process_time() + SECONDS]
            if time.process_time() > ends[0]:
                raise Skipped("an update takes too long to fit a batch on this machine")
        return Fit(best, steps)

    return fit


def _dice(logits, batch):
    mask, label = (logits > 0) & (batch["mask"] > 0), batch["label"] > 0
    both = jnp.sum(mask & label)
    return 2 * both / jnp.maximum(jnp.sum(mask) + jnp.sum(label & (batch["mask"] > 0)), 1)


def _simple_dice(batch):
    """Dice on the batch of a plain fit to it."""
    drawn = [plain_fit.features(_volume(image), SCALES) for image in batch["image"]]
    chosen = batch["mask"].ravel() > 0
    x, y = np.concatenate(drawn)[chosen], batch["label"].ravel()[chosen] > 0
    return float(plain_fit.dice(plain_fit.fit(x, y)(x), y))


def _volume(image):
    """[D, H, W] of a patch [*spatial, C]."""
    image = image.mean(axis=-1)
    return image if image.ndim == 3 else image[None]


def _network(evidence, fit, simple, constant):
    filters, poolings = (evidence.field(f"model.{name}") for name in ("filters", "poolings"))
    return Finding(
        "model.cannot_overfit",
        "warning",
        f"In {fit.steps} updates on one batch, without augmentation, the network reaches a Dice of "
        f"{fit.dice:.2f}; a regression on smoothed copies of the image reaches {simple:.2f} there, "
        f"foreground everywhere {constant:.2f}.",
        {
            "dice": fit.dice,
            "dice_of_regression": simple,
            "dice_of_constant": constant,
            "updates": fit.steps,
        },
        "model.filters",
        f"Enlarge the network: it has {filters} filters and {poolings} poolings.",
    )


def _loss(evidence, fit, healthy, constant):
    terms = ", ".join(sorted(_weights(evidence)))
    return Finding(
        "model.cannot_overfit",
        "warning",
        f"In {fit.steps} updates on one batch the network reaches a Dice of {fit.dice:.2f} under "
        f"the run's loss ({terms}), and {healthy.dice:.2f} in {healthy.steps} under Dice and cross "
        f"entropy; foreground everywhere has {constant:.2f}.",
        {
            "dice": fit.dice,
            "dice_under_healthy_loss": healthy.dice,
            "dice_of_constant": constant,
            "updates": fit.steps,
        },
        "loss.weights",
        "Give loss.weights.dice and loss.weights.cross_entropy most of the weight.",
    )


def _parts(frozen, fit, free, constant):
    named = ", ".join(f"'{name}'" for name in sorted(frozen))
    return Finding(
        "model.cannot_overfit",
        "error",
        f"No stage trains {named}, whose weights are random: in {fit.steps} updates on one batch "
        f"the network reaches a Dice of {fit.dice:.2f}, and {free.dice:.2f} in {free.steps} when "
        f"they are trained; foreground everywhere has {constant:.2f}.",
        {
            "dice": fit.dice,
            "dice_if_trained": free.dice,
            "dice_of_constant": constant,
            "updates": fit.steps,
        },
        f"parts.{min(frozen)}.rate",
        f"Set parts.{min(frozen)}.rate to 1, or start from trained weights.",
    )


CHECKS = (
    Check(
        ("model.cannot_overfit",),
        find_fit,
        not_for={"image": "compiling the training of a detector takes minutes"},
    ),
)
