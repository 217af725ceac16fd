"""No dead field in a run of images: as `test_liveness`, for the fields that volumes lack."""

import functools

import jax
import jax.numpy as jnp
import pytest

from configs import base, images
from jax_seg import models
from jax_seg.system import configuration
from tests.tiny_images import get_config, write_images
from tests.training.test_image_runs import plain_unet
from tests.training.test_liveness import assert_alive, observe, once_per_fields, text_of

JITTERED = {"colour.probability": 0.5}
# field -> (another value, the fields without which it has nothing to do)
CHANGES = {
    "data.name": ("pictures", {}),
    "data.root": ("/nowhere", {}),
    "data.kind": ("NonCAM", {}),
    "data.super_classes": (("Aquatic",), {}),
    "data.validation_share": (0.5, {}),
    "data.grouped": (True, {}),
    "data.split_seed": (1, {}),
    "data.side": (16, {}),
    "data.batch": (3, {}),
    "data.random_batch": ((3,), {}),
    "data.threads": (2, {}),
    "data.passes": (2, {}),
    "data.memory_gb": (-1.0, {}),
    "augment.flip": ((0.0, 0.5), {}),
    "colour.probability": (0.9, {}),
    "colour.brightness": (0.1, JITTERED),
    "colour.contrast": (0.1, JITTERED),
    "colour.saturation": (0.1, JITTERED),
    "colour.hue": (0.2, JITTERED),
    "loss.dice_smooth": (1.0, {"loss.weights.dice": 0.5}),
    "train.start_encoder": ("/nowhere", {}),
}
CHANGES |= {f"loss.weights.{term}": (0.7, {}) for term in images.TERMS}
MODEL = {
    "depths": (2, 1, 1, 1),
    "dims": (16, 8, 8, 8),
    "heads": (2, 4, 2, 2),
    "kernel_sizes": (5, 3, 3, 3),
    "scales": (2, 2, 2, 4),
    "experts": ("edge", "hybrid"),
    "active": 2,
    "norm": "group",
    "batch_momentum": 0.5,
    "last_features": 4,
    "deep_supervision": True,
    "dtype": "bfloat16",
}
STARTS = {"layer_scale": 1.0, "foreground_prior": 0.1}
ELSEWHERE = {"model.name", "model.dropout", *(f"model.{name}" for name in STARTS)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def configured(root, fields):
    config = plain_unet(root)
    config.train.epochs = 2
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def before(root, tmp_path_factory):
    return once_per_fields(functools.partial(configured, root), tmp_path_factory)


def test_every_field_that_volumes_lack_is_listed(root):
    of_images = configuration.flat(images.get_config())
    new = of_images.keys() - configuration.flat(base.get_config()).keys()
    assert new <= CHANGES.keys() | {f"model.{name}" for name in MODEL} | ELSEWHERE
    assert CHANGES.keys() <= of_images.keys()


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_is_alive(field, before, root, tmp_path, monkeypatch):
    value, needed = CHANGES[field]
    changed = configured(root, needed | {field: value})
    assert_alive(
        field,
        changed,
        lambda: observe(changed, tmp_path / "run", monkeypatch),
        lambda: before(needed),
    )


def text(**fields):
    model = models.build(**fields)
    x = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)

    def apply(variables, x, key):
        return model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    return text_of(apply, shapes, x, jax.random.key(0))


@pytest.fixture(scope="module")
def tiny_model():
    return dict(get_config("").model.items())


@pytest.fixture(scope="module")
def tiny_text(tiny_model):
    return text(**tiny_model)


def test_the_same_detector_is_the_same_program(tiny_model, tiny_text):
    assert text(**tiny_model) == tiny_text


@pytest.mark.parametrize("field", MODEL)
def test_a_field_of_the_detector_is_alive(field, tiny_model, tiny_text):
    assert text(**tiny_model | {field: MODEL[field]}) != tiny_text


@pytest.mark.parametrize("field", STARTS)
def test_a_field_of_the_detectors_start_is_alive(field, tiny_model):
    x = jnp.zeros((1, 32, 32, 3))

    def starts(**fields):
        init = jax.jit(models.build(**tiny_model | fields).init).lower(jax.random.key(0), x)
        return init.as_text()

    assert starts() == starts()
    assert starts() != starts(**{field: STARTS[field]})


def test_dropout_is_alive(tiny_model):
    attentive = tiny_model | {"experts": ("attention",)}
    assert text(**attentive) != text(**attentive | {"dropout": 0.5})
