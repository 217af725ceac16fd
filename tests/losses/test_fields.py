"""Options of the losses as fields of a configuration: all of them, with the losses' defaults."""

import inspect

import numpy as np
import pytest

from configs import base, images
from jax_seg.losses import FIELDS, LOSSES, combine, group_options
from tests.random_arrays import random_patch

OPTIONS = {
    (name, p.name): p.default
    for name, loss in LOSSES.items()
    for p in inspect.signature(loss).parameters.values()
    if p.kind is p.KEYWORD_ONLY
}


def options_in(section):
    return {name: value for name, value in section.items() if not name.endswith("weights")}


def test_every_option_of_every_loss_is_a_field_of_volumes_with_its_default():
    assert {(field.term, field.option) for field in FIELDS.values()} == OPTIONS.keys()
    section = options_in(base.get_config().loss)
    assert section.keys() == FIELDS.keys()
    for name, value in section.items():
        default = OPTIONS[FIELDS[name].term, FIELDS[name].option]
        assert value == (0.5 if name == "focal_alpha" else default), name


def test_images_have_the_options_of_their_terms():
    section = options_in(images.get_config().loss)
    assert section.keys() == {name for name, field in FIELDS.items() if field.term in images.TERMS}
    for name, value in section.items():
        assert value == OPTIONS[FIELDS[name].term, FIELDS[name].option], name


def test_options_reach_their_term_alone():
    logits, label = random_patch((2, 9, 10, 1))
    mask = np.ones_like(label)
    names = ("dice", "entropy", "cldice", "skeleton_recall")
    options = group_options(
        {"cldice_iterations": 1, "cldice_smooth": 2.0, "entropy_target_entropy": 0.6}
    )
    assert options == {
        "cldice": {"iterations": 1, "smooth": 2.0},
        "entropy": {"target_entropy": 0.6},
    }
    _, plain = combine(logits, label, mask, dict.fromkeys(names, 1.0))
    _, changed = combine(logits, label, mask, dict.fromkeys(names, 1.0), options=options)
    for name in names:
        expected = LOSSES[name](logits, label, mask, **options.get(name, {}))
        np.testing.assert_allclose(changed[name], expected, rtol=1e-6)
        assert (changed[name] != plain[name]) == (name in options), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cldice_iteration": 3}, r"loss\.cldice_iteration .* loss\.cldice_iterations\?"),
        ({"cldice_iterations": -1}, r"loss\.cldice_iterations is -1; set it to 0 or more"),
        ({"dice_smooth": 0.0}, r"loss\.dice_smooth is 0\.0; set it to 1e-12 or more"),
        ({"focal_alpha": 1.5}, r"loss\.focal_alpha is 1\.5; set it to 0 to 1\."),
        ({"entropy_target_entropy": 0.7}, r"loss\.entropy_target_entropy is 0\.7; .* 0 to 0\.69"),
        ({"focal_gamma": float("nan")}, r"loss\.focal_gamma is nan"),
    ],
)
def test_what_cannot_be_meant_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        group_options(fields)
