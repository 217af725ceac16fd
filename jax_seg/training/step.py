"""The compiled steps: training, the loss of patches, statistics, and a search for bad layers."""

import functools
import itertools

import jax
import jax.numpy as jnp
from flax import struct, traverse_util

from jax_seg.data.preprocess import preprocess
from jax_seg.models.forward import forward
from jax_seg.ops.classes import MASKED, ONE, members
from jax_seg.training import optimizers
from jax_seg.training.averaging import ema_update


def make_train_step(
    model,
    optimizer,
    loss,
    augment,
    preprocessing,
    key,
    *,
    part_of,
    clip_norm=0.0,
    ema_decay=0.0,
    gradient_noise=0.0,
    divide=lambda parts: parts,
    classes=ONE,
):
    """The training step: (state, batch, knobs, accumulate=1) -> (state, metrics).

    It is jitted, and the state is donated.

    Args:
      model: see `forward`.
      optimizer, clip_norm: of `optimizers.make_optimizer`; clip_norm counts the clipped steps.
      loss: `losses.combine` with its terms and options.
      augment: (key, batch) -> batch.
      preprocessing, classes: `Preprocessing` of the images, `Classes` of the logits.
      key: random key of the run; step n draws from fold_in(key, n).
      part_of: tree of labels, of `optimizers.label_parameters`.
      ema_decay: of the average 'ema', when the state keeps one.
      gradient_noise: η of Neelakantan et al. 2015, whose noise has the standard deviation
        √(η / (1 + step)^0.55); 0 for none.
      divide: what is done to the parts [accumulate, B, …] of a batch before they pass.

    Returns:
      The step. `batch` is {'image': stored dtype [B, *spatial, C], 'label': uint8 [B, *spatial, 1],
      encoded}; `knobs` is {'learning_rates': {part: float}, 'loss_weights': {name: float}}: arrays,
      so that none of them recompiles the step; a part with rate 0 is frozen. `accumulate`
      splits the batch into that many parts, which pass one after another, and averages their
      gradients: for a loss that is a mean over patches, this is the gradient of the whole batch in
      the memory of a part. metrics: 'loss', one entry per loss term and per value of the gates,
      'gradient_norm' before clipping, and 'clipped_share' (1 when it passed clip_norm), float32
      scalars; 'module_norms', the gradient's norm by module of the network; 'finite', bool. If the
      loss or a gradient is not finite, only `state.finite` changes, and later steps nothing at all.
    """

    @functools.partial(jax.jit, donate_argnums=0, static_argnames="accumulate")
    def train_step(state, batch, knobs, accumulate=1):
        step_key = jax.random.fold_in(key, state.step)
        batch = augment(step_key, normalised(batch, preprocessing, classes))
        weights = knobs["loss_weights"]

        def objective(params, dropout_key, batch):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, gates, batch_stats = forward(model, variables, batch["image"], dropout_key)
            total, terms = loss(logits, batch["label"], batch["mask"], weights, gates=gates)
            return total, (terms | _scalars(gates), batch_stats)

        differentiate = jax.value_and_grad(objective, has_aux=True)
        (total, (terms, batch_stats)), gradients = _mean_over_parts(
            functools.partial(differentiate, state.params),
            _dropout_keys(step_key, accumulate),
            *(batch, divide),
        )
        gradients = optimizers.zero_frozen(gradients, part_of, knobs["learning_rates"])
        gradient_norm = optimizers.global_norm(gradients)
        finite = state.finite & jnp.isfinite(total) & jnp.isfinite(gradient_norm)

        rates, noisy = knobs["learning_rates"], gradients
        if gradient_noise:
            noisy = _noisy(step_key, gradients, gradient_noise, state.step)
            noisy = optimizers.zero_frozen(noisy, part_of, rates)
        updated = _updated(optimizer, part_of, ema_decay, state, noisy, batch_stats, rates)
        # Not lax.cond: on a GPU the host would wait for its predicate, hence for the whole step.
        state = jax.tree.map(functools.partial(jnp.where, finite), updated, state)
        metrics = {"loss": total, **terms, "gradient_norm": gradient_norm, "finite": finite}
        metrics["module_norms"] = {name: optimizers.global_norm(g) for name, g in gradients.items()}
        if clip_norm:
            metrics["clipped_share"] = (gradient_norm > clip_norm).astype(jnp.float32)
        return state._replace(finite=finite), metrics

    return train_step


def _noisy(step_key, gradients, eta, step):
    """Gradients with the noise of `make_train_step`."""
    std = jnp.sqrt(eta / (1.0 + step) ** 0.55)
    return optimizers.add_noise(jax.random.fold_in(step_key, 1), gradients, std)


def _updated(optimizer, part_of, ema_decay, state, gradients, batch_stats, learning_rates):
    """The state after an update by `gradients`, its averages included."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    opt_state = optimizers.keep_frozen(state.opt_state, opt_state, learning_rates)
    params = optimizers.apply_updates(state.params, updates, part_of, learning_rates)
    changed = state._replace(
        step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state
    )
    averages = dict(state.averages)
    if "ema" in averages:
        averages["ema"] = ema_update(averages["ema"], changed.variables, ema_decay, state.step)
    return changed._replace(averages=averages)


def _dropout_keys(step_key, count):
    return jax.random.split(jax.random.fold_in(step_key, 2), count)


def _scalars(gates):
    """The values of gates, one number per name: 'expert_use' [4, 7] gives 'expert_use_0_0', …"""
    return {
        "_".join([name, *map(str, index)]): values[index]
        for name, values in gates.items()
        for index in itertools.product(*map(range, values.shape))
    }


def _mean_over_parts(f, keys, batch, divide):
    """Mean of the trees f(key, part) over as many equal parts of a batch, one after another."""
    count = len(keys)
    parts = divide(jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch))
    if count == 1:
        return f(keys[0], jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(f, keys[0], jax.tree.map(lambda x: x[0], parts)),
    )
    total, _ = jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, f(*part)), None), zeros, (keys, parts)
    )
    return jax.tree.map(lambda x: x / count, total)


def make_patch_evaluation(model, loss, preprocessing, divide=lambda batch: batch, classes=ONE):
    """(variables, batch, weights) -> {'loss': [B], name: [B], …}: each patch's own loss, jitted.

    Values of the gates, which are of the whole batch, are repeated for each patch. `divide` is
    what is done to the batch first.
    """

    @jax.jit
    def evaluate(variables, batch, weights):
        batch = normalised(divide(batch), preprocessing, classes)
        logits, gates, _ = forward(model, variables, batch["image"])

        def one(logits, label, mask):
            logits, label, mask = jax.tree.map(lambda x: x[None], (logits, label, mask))
            total, terms = loss(logits, label, mask, weights, gates=gates)
            return {"loss": total, **terms}

        return jax.vmap(one)(logits, batch["label"], batch["mask"])

    return evaluate


def make_statistics_pass(model, preprocessing, key, divide=lambda image: image):
    """(variables, image as stored) -> batch norm statistics of this batch alone, jitted.

    From zero, an update leaves 1 - momentum of the batch's own statistics; the momentum is the
    network's. `divide` is what is done to the images first.
    """

    @jax.jit
    def batch_stats_of(variables, image):
        zero = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        image = preprocess(divide(image), preprocessing)
        updated = forward(model, variables | {"batch_stats": zero}, image, key)[2]
        return jax.tree.map(lambda leaf: leaf / (1 - model.batch_momentum), updated)

    return batch_stats_of


def make_locator(model, augment, preprocessing, key, divide=lambda parts: parts, classes=ONE):
    """(state, batch, accumulate=1) -> names of the layers with non-finite results.

    In the order of computation. For a batch that `train_step` has refused: augmentation, division
    into parts (`divide` is its own) and dropout repeat exactly what it did.
    """

    @functools.partial(jax.jit, static_argnames="accumulate")
    def finite_shares(state, batch, accumulate):
        step_key = jax.random.fold_in(key, state.step)
        batch = augment(step_key, normalised(batch, preprocessing, classes))

        def look(dropout_key, batch):
            _, kept = model.apply(
                state.variables,
                batch["image"],
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats", "intermediates"],
                capture_intermediates=True,
            )
            results = traverse_util.flatten_dict(kept["intermediates"])
            return _Layers(
                names=tuple("/".join(path[:-1]) or "the network" for path in results),
                finite=jnp.stack([_all_finite(values) for values in results.values()]),
            )

        return _mean_over_parts(look, _dropout_keys(step_key, accumulate), batch, divide)

    def locate(state, batch, accumulate=1):
        layers = finite_shares(state, batch, accumulate)
        shares = jax.device_get(layers.finite)
        return [name for name, share in zip(layers.names, shares, strict=True) if share < 1]

    return locate


class _Layers(struct.PyTreeNode):
    """Names of layers in the order in which they are computed, and a number for each."""

    names: tuple = struct.field(pytree_node=False)
    finite: jax.Array


def _all_finite(tree):
    """1 where every value of a tree is finite, else 0."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(finite).all().astype(jnp.float32)


def normalised(batch, preprocessing, classes=ONE):
    """A batch as drawn, with its image normalised and its label split into label and mask.

    The label is uint8 [B, *spatial, classes], the mask uint8 [B, *spatial, 1], both 0 or 1: they
    are moved as often as the image, and in float32 would be most of what augmentation moves.
    """
    return {
        "image": preprocess(batch["image"], preprocessing, batch.get("own")),
        "label": members(batch["label"], classes).astype(jnp.uint8),
        "mask": (batch["label"] != MASKED).astype(jnp.uint8),
    }
