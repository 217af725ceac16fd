"""Optimizers, the network parts that they treat separately, and noise, as functions of trees.

The learning rate is not part of an optimizer. Its updates are those of rate 1, decay included, and
`apply_updates` multiplies them by a rate per part of the network; that is exact, since each is
linear in the rate. So a rate is an argument of the training step like any other array, and an
update is these five lines:

    gradients = zero_frozen(gradients, labels, learning_rates)
    norm = global_norm(gradients)
    updates, new_state = optimizer.update(gradients, optimizer_state, params)
    optimizer_state = keep_frozen(optimizer_state, new_state, learning_rates)
    params = apply_updates(params, updates, labels, learning_rates)

labels comes from `label_parameters`; learning_rates is {label: float32 scalar}. A part whose rate
is 0 is frozen: it stays bit-identical, its gradients count neither in the norm nor in the
optimizer's moments, its optimizer state stays as it is, and unfreezing recompiles nothing.
"""

import difflib
import functools
import math
import re

import jax
import jax.numpy as jnp
import optax

NAMES = ("sgd", "adam", "adamw", "muon")
VECTOR = "vector"  # what Muon leaves to Adam
# Muon's own coefficients, once per step: a table makes a loop, which compiles faster than 5 copies.
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5


def make_optimizer(
    name,
    part_of=None,
    *,
    momentum,
    nesterov,
    weight_decay,
    clip_norm,
    b1=0.9,
    b2=0.999,
    epsilon=1e-8,
):
    """An optax transformation whose updates are those of learning rate 1.

    In this order: the gradients are clipped to the global norm clip_norm (Pascanu et al. 2013);
    the optimizer, one for each part of the network, turns them into a direction d; the update is
    −(d + weight_decay · params). The decay is decoupled (Loshchilov and Hutter 2019): it takes
    learning_rate · weight_decay of every parameter per update, untouched by clipping, momentum or
    Adam's denominator. PyTorch's SGD couples it: there decay passes through the momentum and is
    1 / (1 − momentum) times as strong, so its 3e-5 at momentum 0.99 is 3e-3 here.

    Args:
      name: 'sgd': d is the gradient plus momentum times the trace of former ones, PyTorch's form.
        'adam', 'adamw': Kingma and Ba 2015; with a decoupled decay the two are identical.
        'muon': Jordan et al. 2024 for kernels, Adam for everything that is not a matrix. A kernel
        [*spatial, in, out] is orthogonalised as the matrix [spatial · in, out]; the update is
        scaled to a root mean square of 0.2 (Liu et al. 2025, eq. 4), AdamW's own size, so that one
        learning rate suits both.
      part_of: tree of labels, of `label_parameters`; None is one part, 'all'.
      momentum: of SGD and Muon, in [0, 1).
      nesterov: look-ahead form of that momentum; under Muon also of Adam's (Dozat 2016).
      weight_decay: per unit of learning rate; 0 for none.
      clip_norm: largest global norm of the gradients; 0 for no clipping.
      b1: Adam's decay of the first moment.
      b2: Adam's decay of the second moment.
      epsilon: Adam's addition to the denominator.

    Raises:
      ValueError: for an unknown name or a value out of range, naming optimizer.<field>.
    """
    if name not in NAMES:
        raise ValueError(f"optimizer.name is '{name}'; choose one of {', '.join(NAMES)}.")
    if not 0 <= momentum < 1:
        raise ValueError(f"optimizer.momentum is {momentum}; set it in [0, 1).")
    for field, value in (("weight_decay", weight_decay), ("clip_norm", clip_norm)):
        if not 0 <= value < math.inf:
            raise ValueError(f"optimizer.{field} is {value}; set it to 0 or more.")

    if name == "sgd":
        optimizer = _sgd(momentum, nesterov, weight_decay)
    elif name == "muon":
        optimizer = _muon(momentum, nesterov, weight_decay, b1, b2, epsilon)
    else:
        optimizer = optax.adamw(1.0, b1, b2, epsilon, weight_decay=weight_decay)
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    labels = part_of or (lambda params: jax.tree.map(lambda _: "all", params))
    parts = dict.fromkeys(jax.tree.leaves(part_of) or ["all"], optimizer)
    return optax.chain(clip, optax.partition(parts, labels))


def _sgd(momentum, nesterov, weight_decay):
    return optax.chain(
        optax.trace(momentum, nesterov),
        optax.add_decayed_weights(weight_decay),
        optax.scale(-1.0),
    )


def _muon(momentum, nesterov, weight_decay, b1, b2, epsilon):
    return _stacked(
        optax.contrib.muon(
            1.0,
            beta=momentum,
            eps=epsilon,
            nesterov=nesterov,
            adam_b1=b1,
            adam_b2=b2,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=0.2,
            ns_coeffs=NEWTON_SCHULZ,
        ),
        weight_decay,
    )


def keep_frozen(old, new, learning_rates):
    """`new` optimizer state, but `old` in the parts whose learning rate is 0.

    An Adam that counted the updates through which a part was frozen would correct the moments of
    its first gradients too little (Kingma and Ba 2015, §3): several times the configured rate.
    """

    def keep(parts, before):
        if not isinstance(parts, optax.PartitionState):
            return parts
        return parts._replace(
            inner_states={
                label: jax.tree.map(
                    functools.partial(jnp.where, learning_rates[label] == 0),
                    before.inner_states[label],
                    state,
                )
                for label, state in parts.inner_states.items()
            }
        )

    # Wherever the partition is in the chain; only the outermost one is by the network's parts.
    return jax.tree.map(keep, new, old, is_leaf=lambda node: isinstance(node, optax.PartitionState))


def label_parameters(params, patterns):
    """A tree like `params` with the label of each parameter.

    Args:
      params: tree of arrays. The path of one joins its keys with '/': encoder_0/conv_0/kernel.
      patterns: {label: regular expression}; a parameter takes the first label whose expression is
        found in its path (re.search; anchor with ^ and $ where needed). {'all': ''} is one part.

    Raises:
      ValueError: if an expression labels nothing, with the nearest paths, or a parameter gets no
        label.
    """
    labels = {}
    for path in _paths(params):
        label = next((k for k, pattern in patterns.items() if re.search(pattern, path)), None)
        if label is None:
            given = ", ".join(f"parts.{k}.pattern '{pattern}'" for k, pattern in patterns.items())
            raise ValueError(
                f"The parameter '{path}' matches none of the patterns ({given}); end them with "
                "one that matches the rest, such as ''."
            )
        labels[path] = label
    for label, pattern in patterns.items():
        if label not in labels.values():
            _refuse_unmatched(f"parts.{label}.pattern", pattern, labels)
    return jax.tree_util.tree_map_with_path(lambda path, _: labels[_join(path)], params)


def zero_frozen(gradients, labels, learning_rates):
    """`gradients` with exact zeros (even for NaN) in the parts whose learning rate is 0."""
    return jax.tree.map(
        lambda gradient, label: jnp.where(learning_rates[label] == 0, 0, gradient),
        gradients,
        labels,
    )


def apply_updates(params, updates, labels, learning_rates):
    """params + learning_rates[label] · updates; bit-identical to `params` where the rate is 0."""

    def apply(param, update, label):
        rate = learning_rates[label]
        return jnp.where(rate == 0, param, (param + rate * update).astype(param.dtype))

    return jax.tree.map(apply, params, updates, labels)


def global_norm(tree):
    """√ of the sum of the squares of all values of a tree, a float32 scalar."""
    return optax.tree.norm(optax.tree.cast(tree, jnp.float32))


def add_noise(key, tree, std, patterns=("",)):
    """`tree` plus Gaussian noise of standard deviation `std`, a float32 scalar.

    For weights, `patterns` lists regular expressions (re.search) of the paths that receive it; the
    other leaves are returned as they are. For gradients it is the noise of Neelakantan et al. 2015
    (eq. 1), where std at update t is √(η / (1 + t)^0.55), η in {0.01, 0.3, 1}.

    The caller draws the key from the number of the step, so a run that returns to its best weights
    draws fresh noise. optax.add_noise keeps key and clock in the optimizer's state: a
    rollback would repeat both, and its noise in frozen parts would count in the clipping.

    Raises:
      ValueError: if an expression matches no path, with the nearest ones.
    """
    paths = _paths(tree)
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            _refuse_unmatched("noise.patterns", pattern, paths)

    def noisy(index, path, leaf):
        if not any(re.search(pattern, path) for pattern in patterns):
            return leaf
        noise = jax.random.normal(jax.random.fold_in(key, index), leaf.shape, jnp.float32)
        return (leaf + std * noise).astype(leaf.dtype)

    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(map(noisy, range(len(leaves)), paths, leaves))


def _stacked(optimizer, weight_decay):
    """`optimizer` on {VECTOR: [n], '24x96': [kernels, 24, 96], …} in place of a tree, then decay.

    Kernels of the same shape become one array, and everything that is not a matrix one vector: a
    network of hundreds of parameters then has tens of loops to compile and to start. A matrix with
    a single row or column goes into the vector, since orthogonalisation would only keep its
    direction. Decay is of each parameter by itself: of the stacks, it would make XLA compute each
    new kernel from all kernels of its shape.
    """

    def shape(leaf):
        rows, columns = math.prod(leaf.shape[:-1]), math.prod(leaf.shape[-1:])
        return VECTOR if 1 in (rows, columns) else f"{rows}x{columns}"

    def stack(tree):
        groups = {}
        for leaf in jax.tree.leaves(tree):
            groups.setdefault(shape(leaf), []).append(leaf)
        return {
            name: jnp.concatenate([leaf.ravel() for leaf in leaves])
            if name == VECTOR
            else jnp.stack([leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves])
            for name, leaves in groups.items()
        }

    def unstack(stacked, tree):
        leaves, structure = jax.tree.flatten(tree)
        taken = dict.fromkeys(stacked, 0)

        def take(leaf):
            name = shape(leaf)
            start, length = taken[name], leaf.size if name == VECTOR else 1
            taken[name] += length
            return stacked[name][start : start + length].reshape(leaf.shape)

        return structure.unflatten(map(take, leaves))

    def update(updates, state, params):
        stacked, state = optimizer.update(stack(updates), state, stack(params))
        updates = unstack(stacked, updates)
        return jax.tree.map(lambda u, p: u - weight_decay * p, updates, params), state

    return optax.GradientTransformation(lambda params: optimizer.init(stack(params)), update)


def _matrices(stacked):
    """Muon's axes of what `_stacked` makes; None leaves the vector to Adam."""
    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return {name: None if name == VECTOR else matrix for name in stacked}


def _paths(tree):
    return [_join(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _join(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _refuse_unmatched(field, pattern, paths):
    names = {name for path in paths for name in (path, *path.split("/"))}
    nearest = difflib.get_close_matches(pattern, sorted(names), n=3, cutoff=0.0)
    raise ValueError(
        f"{field}: the pattern '{pattern}' labels no parameter; the nearest names are "
        f"{', '.join(nearest)} (a parameter belongs to the first pattern that matches it)."
    )
