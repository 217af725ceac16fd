"""Do gradients vanish or explode on their way from the loss to one of the layers?"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jax_seg.diagnosis import trials
from jax_seg.diagnosis.evidence import once
from jax_seg.diagnosis.finding import Finding
from jax_seg.metrics.segmentation import counted
from jax_seg.models.forward import forward
from jax_seg.training.programs import random_key

APART = 300.0
"""Factor between the relative gradient of a layer and the others', beyond which one learning rate
does not suit both. Training moves the layers of healthy runs by up to 40 against each other."""


def find(evidence):
    """Layers whose gradient, as a share of their weights, is far from the others' and the first's.

    That share is how far an update at a given rate moves a layer. A norm after a convolution hides
    the size of its weights from the output, but not from the gradient, which it divides by it.
    """
    both = evidence.best.variables, evidence.fresh.variables
    names, (now, first) = relative_gradients(evidence, *both)
    times, at_first = now / np.median(now), first / np.median(first)
    # As far from the others as from its own share at first, and in the same direction.
    logs = np.log([times, times / at_first])
    apart = np.maximum(logs.min(0), (-logs).min(0))
    count, worst = int((apart > np.log(APART)).sum()), int(apart.argmax())
    if not count:
        return []
    effect = "little to learn" if times[worst] < 1 else "much to keep what it has learned"
    return [
        Finding(
            "model.dead",
            "warning",
            f"The gradient of '{names[worst]}' is {now[worst]:.1g} of its weights, "
            f"{times[worst]:.1g} times the median of {len(names)} layers, and was "
            f"{at_first[worst]:.1g} times with the first weights: too {effect} at a rate that "
            f"suits the others ({counted(count, 'such layer')}).",
            {
                "gradient_of_weights": float(now[worst]),
                "of_the_median": float(times[worst]),
                "of_the_median_at_first": float(at_first[worst]),
                "layers": count,
            },
            "checkpoints",
            "Train again from the first weights, with optimizer.weight_decay or a lower "
            "schedule.learning_rate.",
        )
    ]


def relative_gradients(evidence, *several):
    """(names of L layers, [N, L] |gradient| / |kernel| of N variables) on a batch of the run."""
    model, key = evidence.model, random_key(evidence.settings.seed)
    loss, weights = evidence.loss, evidence.loss_weights
    batch = trials.cropped(evidence, evidence.batch())

    @once
    def ratios(variables):
        def objective(params):
            logits, gates, _ = forward(model, variables | {"params": params}, batch["image"], key)
            return loss(logits, batch["label"], batch["mask"], weights, gates=gates)[0]

        gradients = traverse_util.flatten_dict(jax.grad(objective)(variables["params"]), sep="/")
        kernels = traverse_util.flatten_dict(variables["params"], sep="/")
        return {
            name.removesuffix("/kernel"): jnp.linalg.norm(gradients[name]) / jnp.linalg.norm(kernel)
            for name, kernel in kernels.items()
            if kernel.ndim > 1
        }

    found = [jax.device_get(ratios(variables)) for variables in several]
    shares = np.array([[*one.values()] for one in found], np.float64)
    return list(found[0]), np.maximum(shares, 1e-30)  # a layer without a gradient has a logarithm
