"""No dead field: changing any field of the base changes what a run computes, or is refused.

Each field is changed in a run of a few epochs whose compiled programs are only traced: what is
compared is the text of every program with its constants, what goes into each call, the events, the
files and the scores.
"""

import functools
import hashlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jax_seg.data import pipeline
from jax_seg.report import plots
from jax_seg.runs import checkpoints
from jax_seg.runs.events import read_events
from jax_seg.system import configuration
from jax_seg.training import judge, programs
from jax_seg.training import run as training
from tests.conftest import tiny_config
from tests.shared_programs import once

# Validation losses by epoch: better, three times worse than the best, far worse, better again.
LOSSES = (1.0, 0.9, 0.92, 0.94, 0.93, 1.3, 0.85, 0.84)
MEASURED = ("patches_per_second", "memory_gib")

LONG = {"train.epochs": 6}
TWO_WORSE = LONG | {"plateau.worse_epochs": 2}
RESTARTS = LONG | {"schedule.name": "cosine_restarts", "schedule.t_0": 2, "schedule.t_mult": 1}
REDUCED = LONG | {"schedule.name": "plateau", "reduction.patience": 0, "plateau.worse_epochs": 0}
SWA = LONG | {"average.swa_every": 1, "average.swa_start": 2}
NOISE = LONG | {"noise.std": 0.01, "noise.start_epoch": 1, "noise.every": 2}
SYNTHETIC = {
    "data.name": "synthetic",
    "data.root": "",
    "synthetic.volumes": 6,
    "synthetic.size": 32,
}
SYNTHETIC |= {"data.group": "", "data.folds": 3}
FOCAL = {"loss.weights.focal": 0.5}

# field -> (another value, the fields without which it has nothing to do)
CHANGES = {
    "seed": (1, {}),
    "data.name": ("synthetic", {}),  # beside a root, it is refused
    "data.root": ("/nowhere", {}),
    "data.images": ("elsewhere", {}),
    "data.labels": ("elsewhere", {}),
    "data.background": ((5,), {}),
    "data.foreground": ((5,), {}),
    "data.ignore": ((), {}),
    "data.classes": (("sheet=5",), {}),  # it learns of several in test_runs_of_classes.py
    "data.fold": ("1", {}),
    "data.folds": (2, {}),
    "data.group": ("", {}),
    "data.spacing": ((4.0, 1.0, 1.0), {}),
    "data.target_spacing": ((4.0, 1.0, 1.0), {}),
    "data.resample": ("sometimes", {}),  # 'never' is in tests/data/test_spacing.py
    "data.split_seed": (1, {}),
    "data.patch": ((16, 16, 8), {}),
    "data.batch": (3, {}),
    "data.random_batch": ((3,), {}),
    "data.patches_per_volume": (3, {}),
    "data.foreground_share": (1.0, {}),
    "data.balance_target": (0.5, {"data.patch": (8, 8, 8)}),
    "data.threads": (2, {}),
    "data.cache": ("", {}),
    "data.cache_gb": (1e-7, {"data.cache": ""}),
    "synthetic.volumes": (7, SYNTHETIC),
    "synthetic.size": (40, SYNTHETIC),
    "synthetic.seed": (1, SYNTHETIC),
    "preprocess.name": ("zscore", {}),
    "preprocess.low_percentile": (5.0, {}),
    "preprocess.high_percentile": (90.0, {}),
    "preprocess.per_volume": (True, {}),
    "preprocess.region": ("nonzero", {"preprocess.per_volume": True}),
    "augment.rotate_degrees": ((-5.0, 5.0), {"augment.rotate": 0.5}),
    "augment.scale_range": ((0.9, 1.1), {"augment.scale": 0.5}),
    "augment.in_plane_only": (True, {}),
    "augment.blur_range": ((0.6, 0.9), {"augment.blur": 0.5}),
    "augment.low_resolution_range": ((0.6, 0.9), {"augment.low_resolution": 0.5}),
    "augment.gamma_range": ((0.8, 1.2), {"augment.gamma": 0.5}),
    "augment.noise_range": ((0.0, 0.2), {}),
    "augment.brightness_range": ((0.8, 1.2), {}),
    "augment.contrast_range": ((0.8, 1.2), {}),
    "model.name": ("vnet", {}),
    "model.filters": (3, {}),
    "model.poolings": (2, {}),
    "model.in_channels": (2, {}),
    "model.out_channels": (2, {}),
    "model.dimensions": (2, {}),
    "model.planar_levels": (1, {}),
    "model.features": ((2, 3), {}),
    "model.kernels": (((1, 3, 3), (3, 3, 3)), {}),
    "model.strides": (((1, 1, 1), (1, 2, 2)), {}),
    "model.convolutions": ((1, 2), {}),
    "model.decoder_convolutions": ((1,), {}),
    "model.downsample": ("stride", {}),
    "model.affine": (True, {}),
    "model.slope": (0.2, {}),
    "model.dtype": ("bfloat16", {}),
    "model.deep_supervision": (1, {"model.poolings": 2}),
    "model.foreground_prior": (0.1, {}),
    "model.rematerialise": (True, {}),
    "loss.focal_alpha": (0.3, FOCAL),
    "loss.focal_gamma": (1.0, FOCAL),
    "loss.foreground_weight": (2.0, FOCAL),
    "loss.background_weight": (2.0, FOCAL),
    "loss.dice_smooth": (1.0, {}),
    "loss.variance_target_entropy": (0.3, {"loss.weights.variance": 0.5}),
    "loss.entropy_target_entropy": (0.5, {"loss.weights.entropy": 0.5}),
    "loss.boundary_smooth": (1.0, {"loss.weights.boundary": 0.5}),
    "loss.cldice_iterations": (1, {"loss.weights.cldice": 0.5}),
    "loss.cldice_smooth": (1.0, {"loss.weights.cldice": 0.5}),
    "loss.skeleton_recall_iterations": (1, {"loss.weights.skeleton_recall": 0.5}),
    "loss.skeleton_recall_smooth": (1.0, {"loss.weights.skeleton_recall": 0.5}),
    "loss.level_weights": ((1.0, 1.0), {"model.poolings": 2, "model.deep_supervision": 1}),
    "optimizer.name": ("adamw", {}),
    "optimizer.momentum": (0.5, {}),
    "optimizer.nesterov": (False, {}),
    "optimizer.weight_decay": (0.1, {}),
    "optimizer.clip_norm": (2.0, {}),
    "schedule.name": ("cosine", {}),
    "schedule.learning_rate": (0.1, {}),
    "schedule.warmup_epochs": (2, {}),
    "schedule.t_0": (3, RESTARTS),
    "schedule.t_mult": (2, RESTARTS),
    "schedule.eta_min": (0.01, RESTARTS),
    "schedule.power": (2.0, {"schedule.name": "polynomial"}),
    "reduction.patience": (2, REDUCED),
    "reduction.factor": (0.1, REDUCED),
    "reduction.threshold": (0.2, REDUCED),
    "reduction.cooldown": (2, REDUCED),
    "reduction.min_scale": (0.4, REDUCED),
    "plateau.rule": ("capped", TWO_WORSE),
    "plateau.maximum_scale": (1.5, TWO_WORSE),
    "plateau.worse_epochs": (2, LONG),
    "plateau.rollback_fraction": (0.0, LONG),
    "plateau.substantial_progress": (0.05, TWO_WORSE),
    "plateau.threshold": (0.5, LONG),
    "plateau.noise_factor": (9.0, LONG),
    "plateau.patience": (2, LONG),
    "parts.all.pattern": ("encoder", {}),
    "parts.all.rate": (0.5, {}),
    "average.swa_start": (3, SWA),
    "average.swa_every": (2, SWA),
    "average.swa_learning_rate": (0.01, SWA),
    "average.ema_decay": (0.9, {}),
    "noise.start_epoch": (2, NOISE),
    "noise.every": (1, NOISE),
    "noise.std": (0.02, NOISE),
    "noise.decay": (0.5, NOISE),
    "noise.patterns": (("encoder",), NOISE),
    "noise.gradient_eta": (0.1, {}),
    "train.epochs": (2, {}),
    "train.accumulate": (2, {}),
    "train.minutes": (1e-9, {}),
    "train.epoch_length": ("minutes", {"train.minutes": 1e-6}),
    "train.log_every": (1, {}),
    "train.start_from": ("/nowhere", {}),
    "train.start_stage": ("second", {}),
    "validate.metric": ("dice", {}),
    "validate.patches_per_volume": (2, {}),
    "validate.volumes_every": (2, {}),
    "validate.overlap": (0.9, {}),
    "validate.windows": (2, {}),
    "validate.threshold": (0.9, {}),
    "validate.background_target": ((0.3, 0.7), {}),
    "postprocess.steps": (("remove_small:voxels=100000",), {}),
    "checkpoint.keep": (2, LONG),
    "checkpoint.minutes": (1e-9, {}),
    "devices.count": (2, {}),
    "devices.space": (2, {}),
}
PROBABILITIES = ("flip", "rotate90", "rotate", "scale", "noise", "blur", "brightness", "contrast")
PROBABILITIES += ("low_resolution", "gamma", "gamma_inverted")
CHANGES |= {f"augment.{name}": (0.3, {}) for name in PROBABILITIES}
TERMS = ("dice", "cross_entropy", "focal", "variance", "entropy", "boundary", "cldice")
TERMS += ("skeleton_recall", "connectivity")
CHANGES |= {f"loss.weights.{term}": (0.7, {}) for term in TERMS}


# Taken once: one observation may run inside another's patches. Most fields leave the programs as
# they are, which are then those of the run before, traced already.
ORIGINALS = once(programs.build), pipeline.batches, checkpoints.save, judge.validate_patches
TRACED = {}  # (function, static arguments, types of the others) -> (text, types of the results)


def digest(*values):
    leaves = jax.tree.leaves(values)
    texts = (x.encode() if isinstance(x, str) else np.asarray(x).tobytes() for x in leaves)
    return hashlib.sha256(b"|".join(texts)).hexdigest()


def text_of(function, *arguments):
    """A digest of a program: its operations, their parameters and every constant in it."""
    return digest(*_parts(jax.make_jaxpr(function)(*arguments)))


def traced_once(function, *arguments, **static):
    """(`text_of`, types of the results) of a jitted function, traced once for the same types."""
    leaves, tree = jax.tree.flatten(arguments)
    types = [jax.typeof(leaf) for leaf in leaves]
    types = tuple((one.shape, one.dtype, one.weak_type) for one in types)
    key = function, tuple(static.items()), tree, types
    if key not in TRACED:
        bound = functools.partial(function, **static)
        TRACED[key] = text_of(bound, *arguments), jax.eval_shape(bound, *arguments)
    return TRACED[key]


def _parts(traced):
    for constant in traced.consts:
        if not jax.dtypes.issubdtype(constant.dtype, jax.dtypes.prng_key):
            yield np.asarray(constant)
    for equation in traced.jaxpr.eqns:
        yield equation.primitive.name
        yield from (str(variable.aval) for variable in equation.outvars)
        yield from (np.asarray(v.val) for v in equation.invars if isinstance(v, Literal))
        for name, value in sorted(equation.params.items()):
            inner = [v for v in jax.tree.leaves(value, is_leaf=_is_program) if _is_program(v)]
            for program in inner:
                closed = program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())
                yield from _parts(closed)
            if not inner and not callable(value):
                yield f"{name}={value}"


def _is_program(value):
    return isinstance(value, ClosedJaxpr | Jaxpr)


def traced_only(real, seen):
    """The programs with the same inputs and outputs, that record and do not compile."""
    known = set()

    def noted(function, *arguments, **static):
        text, results = traced_once(function, *arguments, **static)
        if text not in known:
            known.add(text)
            seen["programs"].append(text)
        return results

    def fresh_state():
        shapes = noted(real.fresh_state)
        state = jax.tree.map(lambda s: np.full(s.shape, 0.1).astype(s.dtype), shapes)
        return state._replace(step=jnp.zeros((), jnp.int32), finite=jnp.ones((), bool))

    def train_step(state, batch, knobs, accumulate):
        seen["calls"].append(digest(batch, knobs, state.params, str(accumulate)))
        _, results = noted(real.train_step, state, batch, knobs, accumulate=accumulate)
        figures = {name: np.float32(0.2) for name in results} | {"finite": np.True_}
        return state._replace(step=state.step + 1), figures

    def evaluate(variables, batch, weights):
        noted(real.evaluate, variables, batch, weights)
        seen["calls"].append(digest(batch, weights))
        share = np.asarray(batch["label"] == 1).reshape(len(batch["label"]), -1).mean(1)
        return {name: share for name in ("loss", *weights)}

    def network(variables, image, own=None):
        noted(real.network, variables, image, own)
        seen["calls"].append(digest(image, own))
        return (image[..., :1].astype(np.float32) - 130) / 20

    return real._replace(
        fresh_state=fresh_state, train_step=train_step, evaluate=evaluate, network=network
    )


def observe(config, workdir, monkeypatch):
    """All that a run does, as JSON."""
    seen = {"programs": [], "calls": [], "threads": [], "saves": []}
    build, batches, save, validate_patches = ORIGINALS
    losses = iter(LOSSES * 4)

    def recorded_save(checkpoints, state, loop, metrics=None):
        position = {k: v for k, v in loop["loop"].items() if k not in ("seconds", "sums")}
        seen["saves"].append(position | {"spacing": loop["spacing"]} | (metrics or {}))
        save(checkpoints, state, loop, metrics)

    def recorded_batches(*arguments, threads, **options):
        seen["threads"].append(threads)
        return batches(*arguments, threads=0, **options)

    def planned_losses(*arguments, **options):
        figures = validate_patches(*arguments, **options)
        return figures | {"loss": next(losses), "standard_error": 0.01}

    monkeypatch.setattr(programs, "build", lambda *a, **k: traced_only(build(*a, **k), seen))
    monkeypatch.setattr(pipeline, "batches", recorded_batches)
    monkeypatch.setattr(checkpoints, "save", recorded_save)
    monkeypatch.setattr(judge, "validate_patches", planned_losses)
    for picture in ("slices", "learning_curve", "cases"):  # they take longer than all the rest
        monkeypatch.setattr(plots, picture, lambda *_, **__: None)
    training.run(config, workdir)
    events = [{k: v for k, v in e.items() if k not in MEASURED} for e in read_events(workdir)]
    files = sorted(
        str(path.relative_to(workdir))
        for path in workdir.rglob("*")
        if path.parent.name == "checkpoints" or (path.is_dir() and path.parent == workdir)
    )
    scores = json.loads((workdir / "scores.json").read_text())
    return json.dumps([seen, events, files, scores])


def configured(root, fields):
    config = tiny_config(root)
    config.train.epochs = 3
    config.checkpoint.minutes = 0.0
    config.validate.volumes_every = 3
    config.data.cache = str(root.with_name("decoded"))  # once for all runs here
    config.update_from_flattened_dict(fields)
    return config


def once_per_fields(configure, tmp_path_factory):
    """fields -> what the run of `configure(fields)` does, once per set of fields."""
    seen = {}

    def of(fields):
        key = json.dumps(fields, sort_keys=True)
        if key not in seen:
            with pytest.MonkeyPatch.context() as patch:
                workdir = tmp_path_factory.mktemp("before") / "run"
                seen[key] = observe(configure(fields), workdir, patch)
        return seen[key]

    return of


@pytest.fixture(scope="module")
def before(volumes_folder, tmp_path_factory):
    return once_per_fields(functools.partial(configured, volumes_folder), tmp_path_factory)


def names(field, fields, message):
    """Whether a message names a field: by its path, or by its last part if no other ends so.

    A value is no name: a 2 is in every shape.
    """
    last = field.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == last for other in fields) == 1
    return any(
        re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message) for name in (field, *[last] * alone)
    )


def assert_alive(field, config, observed, expected):
    """`observed()` differs from `expected()`, or is refused in words that name the field."""
    try:
        seen = observed()
    except (ValueError, OSError) as refusal:
        assert names(field, configuration.flat(config), str(refusal)), refusal
    else:
        assert seen != expected()


def test_every_field_of_the_base_is_listed(volumes_folder):
    assert set(CHANGES) == set(configuration.flat(tiny_config(volumes_folder)))


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("model.poolings is 2", True),
        ("--config.model.poolings=2 does not fit", True),
        ("2 poolings need multiples of 4", True),
        ("Logits (2, 16, 16, 2) must have one shape", False),
        ("model.pooling is 2", False),
    ],
)
def test_what_names_a_field(message, named):
    assert names("model.poolings", ["model.poolings", "model.filters"], message) == named
    assert not names("model.poolings", ["model.poolings", "other.poolings"], "2 poolings")


def test_the_same_configuration_does_the_same(before, volumes_folder, tmp_path, monkeypatch):
    assert observe(configured(volumes_folder, {}), tmp_path / "run", monkeypatch) == before({})


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_is_alive(field, before, volumes_folder, tmp_path, monkeypatch):
    value, needed = CHANGES[field]
    changed = configured(volumes_folder, needed | {field: value})
    assert configuration.differences(
        changed, configuration.as_dict(configured(volumes_folder, needed))
    )
    assert_alive(
        field,
        changed,
        lambda: observe(changed, tmp_path / "run", monkeypatch),
        lambda: before(needed),
    )
