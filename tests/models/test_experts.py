"""The gate's numbers by hand, the experts' parts against SciPy, and what a mixture promises."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jax_seg.models import experts
from jax_seg.models.experts import EXPERTS, Mixture, choose, gate_losses
from tests.models.test_edgenext import filled


def random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_gate_by_hand():
    gate = jnp.array([[1.0, 3.0, 2.0, 0.0], [5.0, 0.0, 0.0, 5.0]])
    weights, chosen = choose(gate, 2)
    upper, lower = math.e / (1 + math.e), 1 / (1 + math.e)
    np.testing.assert_allclose(weights, [[0, upper, lower, 0], [0.5, 0, 0, 0.5]], atol=1e-7)
    np.testing.assert_array_equal(chosen, [[0, 1, 1, 0], [1, 0, 0, 1]])
    gradient = jax.jacobian(lambda g: choose(g, 2)[0][0, 1])(gate)
    slope = upper * lower
    np.testing.assert_allclose(gradient, [[0, slope, -slope, 0], [0] * 4], atol=1e-7)


def test_gate_with_equal_logits_still_chooses_the_right_number():
    _, chosen = choose(jnp.zeros((3, 5)), 2)
    np.testing.assert_array_equal(chosen.sum(1), [2, 2, 2])


def test_gate_losses_by_hand():
    # Both images choose expert 1, which has probability 3/4.
    gate = jnp.array([[0.0, math.log(3)]] * 2)
    found = gate_losses(gate, *choose(gate, 1))
    assert float(found["load_balance"]) == pytest.approx(2 * (0 * 0.25 + 1 * 0.75))
    assert float(found["gate_importance"]) == pytest.approx(1.0)  # of weights 0 and 2
    assert float(found["gate_z"]) == pytest.approx(math.log(4) ** 2)


def test_even_gate_has_the_least_losses():
    gate = jnp.array([[4.0, 0.0], [0.0, 4.0]])
    found = gate_losses(gate, *choose(gate, 1))
    assert float(found["load_balance"]) == pytest.approx(1.0)
    assert float(found["gate_importance"]) == pytest.approx(0.0, abs=1e-7)


def test_load_balance_pushes_the_gate_towards_what_is_not_chosen():
    gate = jnp.array([[0.0, 1.0, 0.5], [0.1, 2.0, 0.0]])

    def loss(gate):
        return gate_losses(gate, *choose(gate, 1))["load_balance"]

    gradient = jax.grad(loss)(gate)
    assert (gradient[:, 1] > 0).all()  # descent lowers the logit of the crowded expert
    assert (gradient[:, [0, 2]] < 0).all()
    # Finite differences, with the choice itself held: it has no gradient.
    step = jnp.zeros_like(gate).at[0, 1].set(1e-2)
    slope = (loss(gate + step) - loss(gate - step)) / 2e-2
    np.testing.assert_allclose(slope, gradient[0, 1], rtol=1e-3)


def test_linear_attention_is_a_weighted_mean():
    q, k, v = random(3, 2, 7, 2, 4)
    feature = lambda x: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))  # noqa: E731
    scores = np.einsum("bnhd,bmhd->bhnm", feature(q), feature(k))
    expected = np.einsum("bhnm,bmhe->bnhe", scores / scores.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(experts.linear_attention(q, k, v), expected, atol=1e-5)
    # A larger image with the same content gives the same values: nothing grows with its size.
    large = experts.linear_attention(*(jnp.tile(x, (1, 50, 1, 1)) for x in (q, k, v)))
    np.testing.assert_allclose(large[:, :7], expected, atol=1e-5)


@pytest.mark.parametrize(("length", "parts"), list(itertools.product((1, 5, 8), (1, 2, 4, 8))))
def test_adaptive_mean(length, parts):
    x = np.asarray(random(1, length, 6, 2))
    found = np.asarray(experts.adaptive_mean(jnp.asarray(x), parts))
    assert found.shape == (1, parts, parts, 2)
    for i, j in itertools.product(range(parts), repeat=2):
        rows = slice(i * length // parts, math.ceil((i + 1) * length / parts))
        columns = slice(j * 6 // parts, math.ceil((j + 1) * 6 / parts))
        np.testing.assert_allclose(found[0, i, j], x[0, rows, columns].mean((0, 1)), atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (2, 3)])
@pytest.mark.parametrize("size", [3, 5])
def test_box_mean_counts_pixels_of_the_image_alone(shape, size):
    x = np.asarray(random(1, *shape, 1))
    total, count = (
        ndimage.uniform_filter(array, size, mode="constant", cval=0)
        for array in (x[0, ..., 0], np.ones(shape))
    )
    found = experts.box_mean(jnp.asarray(x), size)
    np.testing.assert_allclose(found[0, ..., 0], total / count, atol=1e-6)


def test_filters_agree_with_scipy():
    x = np.asarray(random(1, 6, 7, 1))
    image = x[0, ..., 0]
    gradients = [ndimage.sobel(image, axis, mode="nearest") for axis in (0, 1)]
    expected = np.sqrt(gradients[0] ** 2 + gradients[1] ** 2 + 1e-6)
    np.testing.assert_allclose(experts.sobel_magnitude(x)[0, ..., 0], expected, atol=1e-5)
    laplacian = experts.correlate(x, experts.LAPLACIAN)[0, ..., 0]
    np.testing.assert_allclose(laplacian, ndimage.laplace(image, mode="nearest"), atol=1e-5)


def test_sobel_of_a_flat_image_has_a_finite_gradient():
    gradient = jax.grad(lambda x: experts.sobel_magnitude(x).sum())(jnp.ones((1, 4, 4, 2)))
    np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


@pytest.fixture(scope="module")
def mixture():
    """All seven experts, two active, on maps whose images prefer different experts."""
    model = Mixture(tuple(EXPERTS), active=2)
    x = random(3, 6, 5, 8)
    variables = filled(model, x)
    gate = {"kernel": 3 * random(8, 7, seed=2), "bias": jnp.zeros(7)}
    variables = {"params": {**variables["params"], "gate": gate}}
    return jax.jit(model.apply), variables, x


def test_mixture_adds_what_was_chosen_and_nothing_else(mixture):
    apply, variables, x = mixture
    y, gate = apply(variables, x)
    logits = np.asarray(x.mean((1, 2)) @ variables["params"]["gate"]["kernel"])
    weights, chosen = (np.asarray(a) for a in choose(jnp.asarray(logits), 2))
    np.testing.assert_allclose(gate["expert_use"], chosen.mean(0) / 2, atol=1e-6)
    assert float(gate["expert_use"].sum()) == pytest.approx(1)
    for index, kind in enumerate(EXPERTS):
        changed = jax.tree.map(jnp.zeros_like, variables["params"][f"{kind}_{index}"])
        without = apply({"params": {**variables["params"], f"{kind}_{index}": changed}}, x)[0]
        moved = np.abs(np.asarray(y - without)).max((1, 2, 3)) > 0
        np.testing.assert_array_equal(moved, weights[:, index] > 0, err_msg=kind)


def test_one_compilation_and_one_decision_per_image(mixture):
    apply, variables, x = mixture
    y, _ = apply(variables, x)
    reversed_y, _ = apply(variables, x[::-1])
    np.testing.assert_allclose(reversed_y[::-1], y, atol=1e-5)
    apply(variables, -x)
    assert apply._cache_size() == 1


def test_every_expert_has_finite_gradients(mixture):
    _, variables, x = mixture
    model = Mixture(tuple(EXPERTS), active=7)

    @jax.jit
    def gradients(params):
        def loss(params):
            y, gate = model.apply(
                {"params": params}, x, train=True, rngs={"dropout": jax.random.key(0)}
            )
            return jnp.square(y).mean() + sum(gate["losses"].values())

        return jax.grad(loss)(params)

    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients(variables["params"])):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


def test_dropout_only_while_training(mixture):
    _, _, x = mixture
    model = Mixture(("attention",), active=1, dropout=0.5)
    variables = filled(model, x)
    apply = jax.jit(model.apply, static_argnames="train")
    rngs = [{"dropout": jax.random.key(seed)} for seed in (0, 1)]
    first, second = (apply(variables, x, train=True, rngs=r)[0] for r in rngs)
    assert np.abs(np.asarray(first - second)).max() > 0
    np.testing.assert_array_equal(apply(variables, x)[0], apply(variables, x)[0])


def test_gate_and_figures_are_float32_under_bfloat16(mixture):
    _, variables, x = mixture
    model = Mixture(tuple(EXPERTS), active=2, dtype="bfloat16")
    y, gate = jax.eval_shape(model.apply, variables, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(gate)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("fields", "channels", "words"),
    [
        ({"experts": ("edge", "hybrid"), "active": 3}, 8, "active is 3, but there are 2 experts"),
        ({"experts": ("edge",), "active": 0}, 8, "active is 0"),
        ({"experts": ("edge", "magic"), "active": 1}, 8, "names magic; choose from texture"),
        ({"experts": ("attention",), "active": 1}, 12, r"do not divide 12 channels; .*model\.dims"),
    ],
)
def test_what_does_not_fit_is_one_sentence(fields, channels, words):
    x = jnp.zeros((1, 4, 4, channels))
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(Mixture(**fields).init, jax.random.key(0), x)
