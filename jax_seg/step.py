"""The compiled programs of a run: training step, loss of patches, network for prediction."""

import functools

import jax
import jax.numpy as jnp

from jax_seg import optim
from jax_seg.averaging import ema_update
from jax_seg.data import labels
from jax_seg.data.preprocess import preprocess


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
):
    """The training step: (state, batch, knobs, accumulate=1) -> (state, metrics).

    It is jitted, and the state is donated.

    Args:
      model: with `apply({'params': params}, x) -> logits`.
      optimizer: of `optim.make_optimizer`: its updates are those of learning rate 1.
      loss: (logits, label, mask, weights) -> (total, {name: value}).
      augment: (key, batch) -> batch.
      preprocessing: `Preprocessing`.
      key: random key of the run; step n draws from fold_in(key, n).
      part_of: tree of labels, of `optim.label_parameters`.
      clip_norm: of `optim.make_optimizer`, to count the clipped steps; 0 for none.
      ema_decay: of the average 'ema', when the state keeps one.
      gradient_noise: η of Neelakantan et al. 2015, whose noise has the standard deviation
        √(η / (1 + step)^0.55); 0 for none.

    Returns:
      The step. `batch` is {'image': stored dtype [B, *patch, 1], 'label': uint8 of 0, 1 and 2
      masked}; `knobs` is {'learning_rates': {part: float}, 'loss_weights': {name: float}}: arrays,
      so that none of them recompiles the step; a part of rate 0 is frozen. With `accumulate` the
      batch goes through the network in so many parts, one after another, and their gradients are
      averaged: where a loss is a mean over patches, the gradient of the whole batch in the memory
      of a part. metrics: 'loss', one entry per loss term, 'gradient_norm' before clipping, and
      'clipped_share' (1 when it passed clip_norm), float32 scalars; 'finite', bool. When the loss
      or a gradient is not finite nothing changes but `state.finite`, and nothing ever again.
    """

    @functools.partial(jax.jit, donate_argnums=0, static_argnames="accumulate")
    def train_step(state, batch, knobs, accumulate=1):
        step_key = jax.random.fold_in(key, state.step)
        batch = augment(step_key, _normalised(batch, preprocessing))

        def differentiate(batch):
            def objective(params):
                logits = model.apply({"params": params}, batch["image"])
                return loss(logits, batch["label"], batch["mask"], knobs["loss_weights"])

            return jax.value_and_grad(objective, has_aux=True)(state.params)

        (total, terms), gradients = _mean_over_parts(differentiate, batch, accumulate)
        gradients = optim.zero_frozen(gradients, part_of, knobs["learning_rates"])
        gradient_norm = optim.global_norm(gradients)
        finite = state.finite & jnp.isfinite(total) & jnp.isfinite(gradient_norm)

        def update(state):
            noisy = gradients
            if gradient_noise:
                std = jnp.sqrt(gradient_noise / (1.0 + state.step) ** 0.55)
                noisy = optim.add_noise(jax.random.fold_in(step_key, 1), gradients, std)
                noisy = optim.zero_frozen(noisy, part_of, knobs["learning_rates"])
            updates, opt_state = optimizer.update(noisy, state.opt_state, state.params)
            params = optim.apply_updates(state.params, updates, part_of, knobs["learning_rates"])
            averages = dict(state.averages)
            if "ema" in averages:
                averages["ema"] = ema_update(averages["ema"], params, ema_decay, state.step)
            return state._replace(
                step=state.step + 1, params=params, opt_state=opt_state, averages=averages
            )

        state = jax.lax.cond(finite, update, lambda state: state, state)
        metrics = {"loss": total, **terms, "gradient_norm": gradient_norm, "finite": finite}
        if clip_norm:
            metrics["clipped_share"] = (gradient_norm > clip_norm).astype(jnp.float32)
        return state._replace(finite=finite), metrics

    return train_step


def _mean_over_parts(f, batch, count):
    """Mean of the trees f(part) over `count` equal parts of a batch, one part at a time."""
    if count == 1:
        return f(batch)
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(f, jax.tree.map(lambda x: x[0], parts)),
    )
    total, _ = jax.lax.scan(
        lambda total, part: (jax.tree.map(jnp.add, total, f(part)), None), zeros, parts
    )
    return jax.tree.map(lambda x: x / count, total)


def make_patch_evaluation(model, loss, preprocessing):
    """(params, batch, weights) -> {'loss': [B], name: [B], …}: each patch's own loss, jitted."""

    @jax.jit
    def evaluate(params, batch, weights):
        batch = _normalised(batch, preprocessing)
        logits = model.apply({"params": params}, batch["image"])

        def one(logits, label, mask):
            logits, label, mask = jax.tree.map(lambda x: x[None], (logits, label, mask))
            total, terms = loss(logits, label, mask, weights)
            return {"loss": total, **terms}

        return jax.vmap(one)(logits, batch["label"], batch["mask"])

    return evaluate


def make_network(model, preprocessing):
    """(params, image [B, *patch, 1] as stored) -> float32 logits [B, *patch, 1], jitted."""

    @jax.jit
    def network(params, image):
        logits = model.apply({"params": params}, preprocess(image, preprocessing))
        return logits[0] if isinstance(logits, tuple) else logits

    return network


def _normalised(batch, preprocessing):
    return {
        "image": preprocess(batch["image"], preprocessing),
        "label": (batch["label"] == labels.FOREGROUND).astype(jnp.float32),
        "mask": (batch["label"] != labels.MASKED).astype(jnp.float32),
    }
