"""Optimizers against numbers worked out by hand, and what is frozen, clipped, labelled, noisy."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jax_seg.training import optimizers


def optimizer_of(name, part_of=None, **fields):
    defaults = dict(momentum=0.0, nesterov=False, weight_decay=0.0, clip_norm=0.0)
    return optimizers.make_optimizer(name, part_of, **defaults | fields)


def network(seed=0):
    """Parameters of a tiny 3-D network with a one-channel output."""
    shapes = {
        "encoder_0": {"kernel": (3, 3, 3, 1, 4), "bias": (4,)},
        "decoder_0": {"kernel": (2, 2, 2, 1, 10), "bias": (10,)},
        "output": {"kernel": (4, 1), "bias": (1,)},
    }
    generator = np.random.default_rng(seed)
    return {
        part: {
            leaf: jnp.asarray(generator.normal(size=shape), jnp.float32)
            for leaf, shape in leaves.items()
        }
        for part, leaves in shapes.items()
    }


def train(optimizer, params, gradients, rates):
    """The parameters after each of the gradients, one rate each; a single part."""
    labels, state, history = (
        optimizers.label_parameters(params, {"all": ""}),
        optimizer.init(params),
        [],
    )

    @jax.jit
    def update(params, state, gradient, rate):
        updates, state = optimizer.update(gradient, state, params)
        return optimizers.apply_updates(params, updates, labels, {"all": rate}), state

    for gradient, rate in zip(gradients, rates, strict=True):
        params, state = update(params, state, gradient, jnp.float32(rate))
        history.append(params)
    return history


def scalar_history(optimizer, start, gradients, rates):
    history = train(
        optimizer, {"w": jnp.array([start])}, [{"w": jnp.array([g])} for g in gradients], rates
    )
    return [float(params["w"][0]) for params in history]


def test_sgd_momentum_by_hand():
    # trace 1, 0.9·1 + 2 = 2.9; the rate is outside the trace, so a new rate acts at once
    history = scalar_history(optimizer_of("sgd", momentum=0.9), 5.0, [1.0, 2.0], [0.1, 0.01])
    assert history == pytest.approx([4.9, 4.9 - 0.029])


def test_sgd_nesterov_is_pytorchs():
    # PyTorch: buffer b = 0.9·b + g, direction g + 0.9·b: 1.9, then 2 + 0.9·2.9 = 4.61
    optimizer = optimizer_of("sgd", momentum=0.9, nesterov=True)
    history = scalar_history(optimizer, 5.0, [1.0, 2.0], [0.1, 0.1])
    assert history == pytest.approx([4.81, 4.81 - 0.461])


def test_sgd_decay_is_decoupled():
    # decay alone, at momentum 0.9: each step takes 0.1 · 0.5 of the parameter, and no more
    optimizer = optimizer_of("sgd", momentum=0.9, weight_decay=0.5)
    assert scalar_history(optimizer, 2.0, [0.0, 0.0], [0.1, 0.1]) == pytest.approx([1.9, 1.805])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_by_hand(name):
    # step 1: m̂ = g, v̂ = g²: direction sign(g). Decay 0.1·0.5·2 = 0.1 is beside it.
    optimizer = optimizer_of(name, weight_decay=0.5)
    first, second = scalar_history(optimizer, 2.0, [3.0, 0.0], [0.1, 0.1])
    assert first == pytest.approx(2 - 0.1 - 0.1)
    # step 2, g = 0: m̂ = 0.9·0.3/0.19, v̂ = 0.999·0.009/0.001999
    direction = (0.27 / 0.19) / (0.008991 / 0.001999) ** 0.5
    assert second == pytest.approx(first - 0.1 * direction - 0.05 * first, rel=1e-5)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_updates_times_the_rate_are_the_decayed_update_of_every_optimizer(name):
    params, gradient, zero = network(), network(1), jax.tree.map(jnp.zeros_like, network())
    fields = dict(momentum=0.9, nesterov=name != "adam")
    plain, decayed = (optimizer_of(name, weight_decay=decay, **fields) for decay in (0.0, 0.1))
    (expected,) = train(plain, params, [gradient], [0.02])
    expected = jax.tree.map(lambda new, old: new - 0.02 * 0.1 * old, expected, params)
    (obtained,) = train(decayed, params, [gradient], [0.02])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), obtained, expected)
    # with no gradient at all, decay is all there is
    (shrunk,) = train(decayed, params, [zero], [0.02])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.998 * b, rtol=1e-6), shrunk, params)


def test_muon_orthogonalises_kernels_as_matrices_and_leaves_the_rest_to_adam():
    params, gradient = network(), network(1)
    optimizer = optimizer_of("muon", momentum=0.95)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    for part, rows, columns in (("encoder_0", 27, 4), ("decoder_0", 8, 10)):
        matrix = np.asarray(updates[part]["kernel"], np.float64).reshape(rows, columns)
        # 5 quintic steps bring the singular values near 1; the scale is 0.2·√max(rows, columns)
        singular = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(rows, columns) ** 0.5)
        assert singular.min() > 0.6 and singular.max() < 1.25
        u, _, v = np.linalg.svd(np.asarray(gradient[part]["kernel"]).reshape(rows, columns), False)
        assert np.sum(matrix * (u @ v)) < -0.9 * np.linalg.norm(matrix) * min(rows, columns) ** 0.5
    adam = optimizer_of("adam")
    expected, _ = adam.update(gradient, adam.init(params), params)
    for part, leaf in (("decoder_0", "bias"), ("output", "kernel"), ("output", "bias")):
        np.testing.assert_allclose(updates[part][leaf], expected[part][leaf], rtol=1e-5)


def test_clipping_comes_before_the_optimizer_and_spares_small_gradients():
    gradients = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    params = jax.tree.map(jnp.zeros_like, gradients)
    optimizer = optimizer_of("sgd", momentum=0.5, clip_norm=0.5)
    clipped, twice = train(optimizer, params, [gradients] * 2, [1.0] * 2)
    assert [float(clipped[k][0]) for k in "ab"] == pytest.approx([-0.3, -0.4])  # norm 5 → 0.5
    assert [float(twice[k][0]) for k in "ab"] == pytest.approx([-0.75, -1.0])  # trace 1.5
    small = jax.tree.map(lambda x: 0.05 * x, gradients)
    (free,) = train(optimizer, params, [small], [1.0])
    assert [float(free[k][0]) for k in "ab"] == pytest.approx([-0.15, -0.2])
    (off,) = train(optimizer_of("sgd"), params, [gradients], [1.0])
    assert [float(off[k][0]) for k in "ab"] == [-3, -4]


def test_global_norm_is_float32():
    tree = {"a": jnp.ones(4107, jnp.bfloat16), "b": jnp.array([[3.0]])}
    norm = optimizers.global_norm(tree)
    assert norm.dtype == jnp.float32 and norm == pytest.approx(4116**0.5, rel=1e-6)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_parts_have_their_own_rates_and_rate_zero_freezes_bit_for_bit(name):
    params = network()
    params["encoder_0"]["bias"] = jnp.array([-0.0, 0.0, 1e-45, 1.0])
    labels = optimizers.label_parameters(params, {"encoder": "^encoder_", "rest": ""})
    optimizer = optimizer_of(name, labels, momentum=0.9, weight_decay=0.1, clip_norm=0.0)

    @jax.jit
    def update(params, state, gradients, rates):
        gradients = optimizers.zero_frozen(gradients, labels, rates)
        updates, aged = optimizer.update(gradients, state, params)
        new = optimizers.apply_updates(params, updates, labels, rates)
        return new, optimizers.keep_frozen(state, aged, rates), optimizers.global_norm(gradients)

    gradients = network(1)
    gradients["encoder_0"]["kernel"] = jnp.full((3, 3, 3, 1, 4), jnp.nan, jnp.float32)
    rates = {"encoder": jnp.float32(0), "rest": jnp.float32(0.1)}
    state, new = optimizer.init(params), params
    for _ in range(30):
        new, state, norm = update(new, state, gradients, rates)
    for leaf in ("kernel", "bias"):
        assert new["encoder_0"][leaf].tobytes() == params["encoder_0"][leaf].tobytes()
    assert not np.array_equal(new["output"]["kernel"], params["output"]["kernel"])
    moving = {part: gradients[part] for part in ("decoder_0", "output")}
    assert norm == pytest.approx(float(optimizers.global_norm(moving)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))

    thawed = rates | {"encoder": jnp.float32(0.01)}
    moved, _, _ = update(new, state, network(1), thawed)
    assert not np.array_equal(moved["encoder_0"]["kernel"], new["encoder_0"]["kernel"])
    # As one that was never frozen: the clock of its bias correction stood still.
    fresh, _, _ = update(params, optimizer.init(params), network(1), thawed)
    for leaf in ("kernel", "bias"):
        np.testing.assert_array_equal(moved["encoder_0"][leaf], fresh["encoder_0"][leaf])
    assert update._cache_size() == 1


def test_a_parts_rate_scales_its_update_alone():
    params, gradients = network(), network(1)
    labels = optimizers.label_parameters(params, {"encoder": "^encoder_", "rest": ""})
    new = optimizers.apply_updates(params, gradients, labels, {"encoder": 0.01, "rest": 0.1})
    for part, rate in (("encoder_0", 0.01), ("decoder_0", 0.1)):
        expected = params[part]["bias"] + rate * gradients[part]["bias"]
        np.testing.assert_allclose(new[part]["bias"], expected, rtol=1e-6)


def test_labels_take_the_first_pattern_and_cover_everything():
    labels = optimizers.label_parameters(
        network(), {"bias": "bias$", "encoder": "^enc", "rest": ""}
    )
    assert labels["encoder_0"] == {"kernel": "encoder", "bias": "bias"}
    assert labels["output"] == {"kernel": "rest", "bias": "bias"}


@pytest.mark.parametrize(
    "patterns, message",
    [
        ({"encoder": "^encoder"}, "'decoder_0/bias' matches none of the patterns"),
        ({"encoder": "encodr_0", "rest": ""}, "'encodr_0' labels no parameter; .* encoder_0"),
        ({"all": "", "output": "output"}, "'output' labels no parameter; .* output"),
    ],
)
def test_labels_refuse_gaps_and_dead_patterns(patterns, message):
    with pytest.raises(ValueError, match=message):
        optimizers.label_parameters(network(), patterns)


def test_noise_reaches_the_named_leaves_with_its_standard_deviation():
    tree = {"decoder": {"kernel": jnp.ones((40, 50))}, "encoder": {"kernel": jnp.ones((40, 50))}}
    noisy = jax.jit(optimizers.add_noise, static_argnames="patterns")(
        jax.random.key(0), tree, jnp.float32(0.1), patterns=("^decoder", "^output|coder/k")
    )
    assert noisy["decoder"]["kernel"].std() == pytest.approx(0.1, rel=0.1)
    only = optimizers.add_noise(jax.random.key(0), tree, 0.1, ["^decoder"])
    assert only["encoder"]["kernel"] is tree["encoder"]["kernel"]
    assert only["decoder"]["kernel"].mean() == pytest.approx(1, abs=0.01)
    every = optimizers.add_noise(jax.random.key(0), tree, 0.1)
    assert not np.array_equal(every["decoder"]["kernel"], every["encoder"]["kernel"])
    still = optimizers.add_noise(jax.random.key(0), tree, 0.0)
    np.testing.assert_array_equal(still["encoder"]["kernel"], tree["encoder"]["kernel"])
    with pytest.raises(ValueError, match="'ouput' labels no parameter"):
        optimizers.add_noise(jax.random.key(0), tree, 0.1, ["ouput"])


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_a_checkpoint_restores_the_optimizer_state(name, tmp_path):
    params = network()
    optimizer = optimizer_of(name, momentum=0.9, weight_decay=0.1, clip_norm=1.0)
    _, state = optimizer.update(network(1), optimizer.init(params), params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(optimizer.init, params))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.parametrize(
    "fields, named",
    [
        (dict(name="lion"), "optimizer.name"),
        (dict(name="sgd", momentum=1.0), "optimizer.momentum"),
        (dict(name="adamw", weight_decay=-0.1), "optimizer.weight_decay"),
        (dict(name="sgd", clip_norm=-1), "optimizer.clip_norm"),
    ],
)
def test_errors_name_the_field(fields, named):
    with pytest.raises(ValueError, match=named):
        optimizer_of(**fields)
