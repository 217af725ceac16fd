"""Losses against the original's numbers, hand-worked patches, and what a mask promises."""

import json
import math
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from jax_seg.losses import LOSSES, VARIANCE_FLOOR, combine, variance, variance_floor
from jax_seg.losses.boundary import signed_distance
from jax_seg.losses.topology import skeleton
from tests.conftest import GOLDEN, ROOT
from tests.random_arrays import random_patch

PUBLIC = GOLDEN / "losses_public"
CASES = json.loads(PUBLIC.with_suffix(".json").read_text())
ARRAYS = {k: np.moveaxis(v, 1, -1) for k, v in np.load(PUBLIC.with_suffix(".npz")).items()}
PUBLISHED = ("dice", "focal", "variance", "entropy", "boundary", "cldice", "connectivity")
SHAPES = ((2, 9, 10, 1), (3, 8, 10, 12, 1))  # the second is that of a golden case: one compilation
QUICK = {"xla_backend_optimization_level": 0}  # compiles four times faster


def evaluate(logits, label, mask, **focal_options):
    """name -> (value, gradient), every loss in one compilation per shape of logits."""
    focal = {"alpha": 0.3, "gamma": 2.0, "foreground_weight": 1.0, "background_weight": 1.0}
    label, mask = np.asarray(label, np.float32), np.asarray(mask, np.float32)
    return _evaluate(logits, label, mask, focal | focal_options)


@partial(jax.jit, compiler_options=QUICK)
def _evaluate(logits, label, mask, focal_options):
    options = {"focal": focal_options}
    return {
        name: jax.value_and_grad(partial(loss, **options.get(name, {})))(logits, label, mask)
        for name, loss in LOSSES.items()
    }


def value(name, logits, label, mask=None, **options):
    """A loss of one 2-D sample, given as nested lists."""
    mask = np.ones(np.shape(label)) if mask is None else mask
    logits, label, mask = (
        np.asarray(a, np.float32)[None, ..., None] for a in (logits, label, mask)
    )
    loss = jax.jit(partial(LOSSES[name], **options), compiler_options=QUICK)
    return float(loss(logits, label, mask))


def focal_options(params):
    weights = {k: params[k] for k in ("foreground_weight", "background_weight")}
    weights = weights if params["use_class_weights"] else {}
    return {"alpha": params["focal_alpha"], "gamma": params["focal_gamma"], **weights}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"case{case['case']}")
def test_values_and_gradients_of_the_original(case):
    index = case["case"]
    logits, label = ARRAYS[f"logits_{index}"], ARRAYS[f"label_{index}"]
    options = focal_options(case["params"])
    results = evaluate(logits, label, np.ones_like(label), **options)
    for name in PUBLISHED:
        expected, gradient = case["components"][name], ARRAYS[f"grad_{name}_{index}"]
        np.testing.assert_allclose(results[name][0], expected, rtol=1e-5, err_msg=name)
        error = np.linalg.norm(results[name][1] - gradient)
        assert error <= 1e-4 * np.linalg.norm(gradient), name
        np.testing.assert_allclose(
            results[name][1], gradient, atol=1e-4 * np.abs(gradient).max(), err_msg=name
        )


def test_total_of_the_original():
    index, case = 1, CASES[1]
    params = case["params"]
    logits, label = ARRAYS[f"logits_{index}"], ARRAYS[f"label_{index}"]
    options = {"focal": focal_options(params)}
    weights = {name: params[f"{name}_weight"] for name in PUBLISHED}

    @partial(jax.value_and_grad, has_aux=True)
    def total(logits):
        return combine(logits, label, np.ones_like(label), weights, options=options)

    (loss, components), gradient = jax.jit(total, compiler_options=QUICK)(logits)
    np.testing.assert_allclose(loss, case["components"]["total"], rtol=1e-5)
    for name in PUBLISHED:
        np.testing.assert_allclose(components[name], case["components"][name], rtol=1e-5)
    expected = ARRAYS[f"grad_total_{index}"]
    assert np.linalg.norm(gradient - expected) <= 1e-4 * np.linalg.norm(expected)


# By hand. A logit of 0 is p = 1/2; one of ±50 is p = 1 or 0 in float32.


def test_dice_by_hand():
    # Σpy = 1/2 + 1, Σp = 1/2 + 1 + 1/2, Σy = 2.
    whole = value("dice", [[0, 50], [0, -50]], [[1, 1], [0, 0]])
    assert whole == pytest.approx(1 - 3 / 4, abs=1e-5)
    # Under the mask go one hit and the half-hearted false alarm: 2·(1/2) / (1/2 + 1).
    masked = value("dice", [[0, 50], [0, -50]], [[1, 1], [0, 0]], [[1, 0], [0, 1]])
    assert masked == pytest.approx(1 - 1 / 1.5, abs=1e-5)
    assert value("dice", [[-50, -50]], [[0, 0]]) == pytest.approx(0, abs=1e-6)


def test_focal_and_cross_entropy_by_hand():
    log2 = math.log(2)
    assert value("cross_entropy", [[0, 50]], [[1, 1]]) == pytest.approx(log2 / 2)
    # α (1 - p_t)² log 2: 0.3 · 1/4 for the foreground, 0.7 · 1/4 for the background.
    arguments = [[0, 0]], [[1, 0]]
    assert value("focal", *arguments, alpha=0.3) == pytest.approx((0.3 + 0.7) / 8 * log2)
    weighted = value("focal", *arguments, alpha=0.3, foreground_weight=2, background_weight=4)
    assert weighted == pytest.approx((0.6 + 2.8) / 8 * log2)
    only_foreground = value("focal", *arguments, [[1, 0]], alpha=0.3, gamma=0)
    assert only_foreground == pytest.approx(0.3 * log2)
    # Confidently wrong: γ no longer matters, the loss is the logit.
    assert value("focal", [[-1e4]], [[1]], alpha=0.5) == pytest.approx(0.5e4)


def test_variance_and_entropy_by_hand():
    label = [[0, 0, 0, 0]]
    assert value("variance", [[0, 0, 0, 0]], label) == pytest.approx(1)  # v = 0, H = log 2
    # v = 4 · 1/4 / 3, H = 0.
    assert value("variance", [[50, 50, -50, -50]], label) == pytest.approx((2 / 3) ** 2 + 0.5)
    # Two labelled voxels, 0 and 1: v = 2 · 1/4 / 1.
    masked = value("variance", [[50, 50, -50, -50]], label, [[1, 0, 0, 1]])
    assert masked == pytest.approx(0.25 + 0.5)
    assert value("variance", [[50, 50, -50, -50]], label, [[1, 0, 0, 0]]) == 0
    assert value("entropy", [[0, 0, 0, 0]], label) == 0
    assert value("entropy", [[50, -50, 50, -50]], label) == pytest.approx(0.3)
    # H = log 2 / 4.
    assert value("entropy", [[50, -50, 50, 0]], label) == pytest.approx(0.3 - math.log(2) / 4)


def test_variance_floor_is_reached_and_never_passed():
    half = np.repeat([1.0, -1.0], 50_000)[None, :, None].astype(np.float32)
    known = np.ones_like(half)
    reached = [float(variance(half * logit, known, known)) for logit in np.linspace(1.3, 1.5, 21)]
    assert min(reached) == pytest.approx(VARIANCE_FLOOR, abs=1e-3)
    random = np.random.default_rng(0)
    for scale in (0.1, 1.4, 2, 5, 100):
        logits = random.normal(scale * random.choice([-1, 0, 1]), scale, half.shape)
        assert float(variance(logits.astype(np.float32), known, known)) > VARIANCE_FLOOR - 1e-4
    assert min(reached) > VARIANCE_FLOOR - 1e-4


@pytest.mark.parametrize("target", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("voxels", [2, 4, 10])
def test_the_floor_of_the_variance_term_for_few_voxels_and_other_targets(target, voxels):
    """Half at p and half at 1 - p reaches it, and no random prediction passes it."""
    assert variance_floor() == pytest.approx(VARIANCE_FLOOR, abs=1e-5)
    assert variance_floor(0.0) == pytest.approx(0.5625, abs=1e-5)  # (1 - 1/4)²
    assert variance_floor(0.5, 128**3) == pytest.approx(VARIANCE_FLOOR, abs=1e-5)
    floor = variance_floor(target, voxels)

    def least(logits):
        known = np.ones((*logits.shape, 1), np.float32)
        one = partial(variance, target_entropy=target)
        each = jax.vmap(one)(logits[..., None][:, None], known[:, None], known[:, None])
        return float(each.min())

    sign = np.where(np.arange(voxels) % 2, 1.0, -1.0).astype(np.float32)
    steps = np.concatenate([np.linspace(0, 8, 800), [50]]).astype(np.float32)
    assert least(steps[:, None] * sign) == pytest.approx(floor, abs=1e-3)
    random = np.random.default_rng(voxels).normal(0, 3, (5000, voxels)).astype(np.float32)
    assert least(random) > floor - 1e-4


def test_boundary_by_hand():
    label = [[1, 0, 0, 0, 0, 0, 0]]  # distances 1 1 2 3 4 5 6, weights 1 1 1 1 1/2 0 0
    right = np.array([[50, -50, -50, -50, -50, -50, -50.0]])
    for index, weight in enumerate((1, 1, 1, 1, 0.5, 0, 0)):
        wrong_there = np.where(np.arange(7) == index, -right, right)  # cross entropy 50
        expected = weight * 50 / 4.5
        assert value("boundary", wrong_there, label) == pytest.approx(expected, rel=1e-5)
    # With the foreground unlabelled there is no boundary at all.
    assert value("boundary", -right, label, [[0, 1, 1, 1, 1, 1, 1]]) == 0


def test_connectivity_by_hand():
    line = np.ones((1, 12))
    for gap, cost in ((0, 0), (2, 0), (3, 1), (5, 3)):  # dilation closes two voxels of a gap
        prediction = np.full((1, 12), 50.0)
        prediction[:, 5 : 5 + gap] = -50
        assert value("connectivity", prediction, line) == pytest.approx(cost / 12, abs=1e-6)
    # The prediction's only voxel, once unlabelled, no longer excuses its neighbour.
    patch = [[50, -50, -50]], [[1, 0, 1]]
    assert value("connectivity", *patch) == pytest.approx(1 / 3)
    assert value("connectivity", *patch, [[0, 1, 1]]) == pytest.approx(1)


def test_skeleton_losses_by_hand():
    line = np.zeros((5, 8), int)
    line[2] = 1
    everything, nothing = np.full((5, 8), 50.0), np.full((5, 8), -50.0)
    half = np.where((line == 1) & (np.arange(8) < 4), everything, nothing)
    for name in ("cldice", "skeleton_recall"):
        assert value(name, np.where(line, 50, -50), line) == pytest.approx(0, abs=1e-5)
        assert value(name, nothing, line) == pytest.approx(1, abs=1e-4)
    assert value("skeleton_recall", half, line) == pytest.approx(1 / 2, abs=1e-5)
    assert value("cldice", half, line) == pytest.approx(1 / 3, abs=1e-5)  # P = 1, S = 1/2
    assert value("skeleton_recall", everything, line) == pytest.approx(0, abs=1e-5)
    unlabelled = np.ones_like(line)
    unlabelled[:, 4:] = 0
    assert value("cldice", half, line, unlabelled) == pytest.approx(0, abs=1e-5)
    assert value("skeleton_recall", half, line, unlabelled) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("shape", [(9, 11), (7, 8, 9)])
def test_skeleton_against_scipy(shape):
    x = np.random.default_rng(1).random(shape).astype(np.float32)
    cross = ndimage.generate_binary_structure(x.ndim, 1)
    image, expected = x.astype(np.float64), 0
    for _ in range(4):
        eroded = ndimage.grey_erosion(image, footprint=cross, mode="nearest")
        opened = ndimage.grey_dilation(eroded, size=(3,) * x.ndim, mode="nearest")
        delta = np.maximum(image - opened, 0)
        expected = expected + np.maximum(delta - expected * delta, 0)
        image = eroded
    batch = x[None, ..., None]
    found = skeleton(jnp.asarray(batch), np.ones_like(batch))[0, ..., 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def clipped_scipy_distance(label):
    signed = ndimage.distance_transform_edt(1 - label) - ndimage.distance_transform_edt(label)
    return np.clip(signed, -5, 5)


def assert_distance_is_scipys(label):
    batch = label[None, ..., None]
    found = jax.jit(signed_distance)(batch, np.ones_like(batch))[0, ..., 0]
    np.testing.assert_allclose(found, clipped_scipy_distance(label), rtol=1e-6)


@settings(max_examples=40)
@given(
    shape=st.sampled_from([(17, 23), (11, 13, 12)]),
    density=st.sampled_from([0.001, 0.01, 0.1, 0.5, 0.99]),
    seed=st.integers(0, 2**16),
)
def test_distance_equals_scipy_on_random_labels(shape, density, seed):
    label = (np.random.default_rng(seed).random(shape) < density).astype(np.uint8)
    label.flat[0], label.flat[-1] = 0, 1  # both classes are there
    assert_distance_is_scipys(label)


@pytest.mark.parametrize("shape", [(17, 23), (11, 13, 12)])
@pytest.mark.parametrize("tilt", [0, 0.3, 1, 2.5])
def test_distance_equals_scipy_on_thin_sheets(shape, tilt):
    grid = np.indices(shape)
    height = grid[0] - tilt * grid[1] - 0.5 * np.sin(grid[-1]) - 3
    label = (np.abs(height) <= np.hypot(1, tilt)).astype(np.uint8)
    assert 0 < label.mean() < 0.5
    assert_distance_is_scipys(label)


def test_distance_sees_labelled_voxels_only():
    random = np.random.default_rng(3)
    label = (random.random((9, 10, 8)) < 0.1).astype(np.uint8)
    known = random.random(label.shape) < 0.5
    found = np.asarray(signed_distance(label[None, ..., None], known[None, ..., None])[0, ..., 0])
    foreground, background = np.argwhere(known & (label == 1)), np.argwhere(known & (label == 0))
    between = cdist(foreground, background)
    np.testing.assert_allclose(
        found[tuple(foreground.T)], -np.minimum(between.min(1), 5), rtol=1e-6
    )
    np.testing.assert_allclose(found[tuple(background.T)], np.minimum(between.min(0), 5), rtol=1e-6)


def test_a_masked_box_is_the_cropped_box():
    shape = SHAPES[1]
    box = (slice(None), *(slice(1 + a % 2, size - 1) for a, size in enumerate(shape[1:-1])))
    logits, label = random_patch(shape)
    mask = np.zeros(shape, bool)
    mask[box] = True
    garbage = np.where(mask, logits, np.where(label, 1e4, np.nan)).astype(np.float32)
    inside = evaluate(logits[box], label[box], mask[box])
    masked = evaluate(garbage, np.where(mask, label, 2), mask)
    for name in LOSSES:
        np.testing.assert_allclose(masked[name][0], inside[name][0], rtol=2e-6, err_msg=name)
        gradient = np.asarray(masked[name][1])
        np.testing.assert_allclose(gradient[box], inside[name][1], rtol=1e-4, atol=1e-8)
        assert not gradient[~mask].any(), name
        assert name == "entropy" or gradient.any(), name


@pytest.mark.parametrize("shape", SHAPES, ids=("2d", "3d"))
def test_what_lies_under_the_mask_changes_nothing(shape):
    logits, label = random_patch(shape, seed=1)
    others, other_label = random_patch(shape, seed=2)
    mask = (np.random.default_rng(4).random(shape) < 0.6).astype(np.uint8)
    results = evaluate(logits, label, mask)
    again = evaluate(np.where(mask, logits, 9 * others), np.where(mask, label, other_label), mask)
    for name in LOSSES:
        assert float(results[name][0]) == float(again[name][0]), name
        np.testing.assert_array_equal(results[name][1], again[name][1])
        assert not np.asarray(results[name][1])[mask == 0].any(), name


def test_an_unlabelled_sample_changes_nothing_in_its_batch():
    logits, label = random_patch(SHAPES[1])
    mask = np.ones_like(label)
    mask[1:] = 0
    batch = evaluate(logits, label, mask)
    # Copies of the first sample have the mean of the first alone, and share its gradient.
    copies = evaluate(*(np.stack([x[0]] * len(x)) for x in (logits, label, mask)))
    for name in LOSSES:
        np.testing.assert_allclose(batch[name][0], copies[name][0], rtol=1e-5, err_msg=name)
        expected = copies[name][1].sum(0)
        np.testing.assert_allclose(batch[name][1][0], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(SHAPES[0], jnp.float32), (SHAPES[1], jnp.float32), (SHAPES[1], jnp.bfloat16)],
)
def test_gradients_are_finite(shape, dtype):
    logits, label = random_patch(shape)
    empty, full = np.zeros_like(label), np.ones_like(label)
    for scale in (0, 1, 1e4):
        for target in (empty, full, label):
            for mask in (full, empty, label):
                results = evaluate(jnp.asarray(scale * logits, dtype), target, mask)
                for name, (loss, gradient) in results.items():
                    assert loss.dtype == jnp.float32 and loss.shape == (), name
                    assert gradient.dtype == dtype, name
                    assert np.isfinite(loss) and np.isfinite(gradient).all(), (name, scale)
                    if mask is empty:
                        assert loss == 0 and not gradient.any(), name


def test_bfloat16_logits_are_computed_in_float32():
    logits, label = random_patch(SHAPES[1])
    rounded = jnp.asarray(logits, jnp.bfloat16)
    mask = np.ones_like(label)
    half, single = evaluate(rounded, label, mask), evaluate(rounded.astype("float32"), label, mask)
    for name in LOSSES:
        assert float(half[name][0]) == pytest.approx(float(single[name][0]), rel=1e-6), name


def test_jit_equals_eager():
    logits, label = random_patch(SHAPES[0])
    mask = (np.random.default_rng(5).random(label.shape) < 0.7).astype(np.uint8)
    jitted = evaluate(logits, label, mask)
    for name, loss in LOSSES.items():
        options = {"alpha": 0.3} if name == "focal" else {}
        eager = loss(logits, label, mask, **options)
        np.testing.assert_allclose(jitted[name][0], eager, rtol=1e-5, err_msg=name)


def test_shapes_must_agree():
    logits, label = random_patch(SHAPES[0])
    for loss in LOSSES.values():
        options = {"alpha": 0.3} if loss is LOSSES["focal"] else {}
        with pytest.raises(ValueError, match="must have one shape"):
            loss(logits, label[..., 0], label, **options)


@pytest.fixture
def quick_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_benchmark_prints_one_table(capsys, quick_compilation):
    path = ROOT / "benchmarks" / "losses.py"
    runpy.run_path(str(path))["main"](["--small"])
    printed = capsys.readouterr().out
    for name in LOSSES:
        assert f"\n| {name} " in printed
    assert printed.count("step: ") == 2
