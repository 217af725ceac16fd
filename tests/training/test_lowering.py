"""Training and inference lower for a GPU; its convolutions are in the type asked for."""

import collections
import re

import pytest
from jax import export

from configs import surface, v6
from jax_seg.training import find_batch
from tests import tiny_images


def volumes(dtype):
    config = v6.get_config()
    config.data.update(patch=(16, 16, 16), batch=2)
    config.model.update(filters=4, poolings=2, dtype=dtype)
    return config


def lowered(config, program):
    """The text of a configuration's program for a GPU."""
    function, arguments = find_batch.abstract_programs(config)[program]
    return function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def convolutions(text):
    """How many convolutions a lowered program has by the types of their operands."""
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    return collections.Counter(
        frozenset(re.findall(r"x(bf16|f32)>", line.rpartition(" : ")[2])) for line in lines
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("program", "of_a_layer"), [("train", 3), ("validate", 1), ("predict", 1)])
def test_volumes_are_convolved_in_the_compute_type(dtype, program, of_a_layer):
    text = lowered(volumes(dtype), program)
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    # Eight shapes of layers, in training with both gradients, but without that of the images; and
    # the gradients of two upsamplings.
    wanted = 8 * of_a_layer + (2 * 2 - 1 if program == "train" else 0)
    assert convolutions(text) == {frozenset([short]): wanted}
    assert "custom_call" not in text  # nothing of a CPU's forms


@pytest.mark.parametrize("program", ["train", "validate", "predict"])
def test_a_program_is_exported_for_both_platforms(program):
    function, arguments = find_batch.abstract_programs(volumes("bfloat16"))[program]
    assert export.export(function, platforms=("cpu", "cuda"))(*arguments).platforms == (
        "cpu",
        "cuda",
    )


def residual():
    config = surface.get_config("demo")
    config.data.update(patch=(16, 16, 16), batch=2)
    config.model.update(filters=4, features=(4, 8, 16))
    return config


def of_classes():
    config = volumes("")
    config.data.update(classes=("sheet=1", "crust=2"), ignore=())
    config.model.out_channels = 2
    return config


@pytest.mark.parametrize("program", ["train", "validate", "predict"])
@pytest.mark.parametrize("configuration", [residual, of_classes])
def test_other_networks_are_convolved_in_bfloat16(configuration, program):
    config = configuration()
    config.model.dtype = "bfloat16"
    text = lowered(config, program)
    assert set(convolutions(text)) == {frozenset(["bf16"])} and "custom_call" not in text


@pytest.mark.parametrize(("program", "passes"), [("train", 2), ("validate", 1), ("predict", 1)])
def test_the_detector_is_convolved_in_the_compute_type(program, passes):
    config = tiny_images.get_config("unread")
    config.model.dtype = "bfloat16"
    text = lowered(config, program)
    counts = convolutions(text)
    # In float32 only the edge experts' fixed filters, at four levels, there and back.
    assert counts.pop(frozenset(["f32"])) == 4 * passes
    assert set(counts) == {frozenset(["bf16"])} and counts.total() > 4 * passes
    assert "custom_call" not in text


def test_a_gpu_writes_nothing_between_the_last_norm_and_the_logits():
    """The head is a sum: XLA ends fusions at matrix products, and so would write both."""
    for program in ("train", "predict"):
        products = [
            line for line in lowered(volumes("bfloat16"), program).splitlines() if "dot_gen" in line
        ]
        assert len(products) == 2 and all("bf16" in line for line in products)  # upsampling


def test_a_gpu_keeps_the_inputs_of_convolutions_and_not_what_they_came_from():
    """A barrier in the gradient of six norms: five convolutions and an upsampling follow them."""
    text = lowered(volumes("bfloat16"), "train")
    kept = re.findall(r"optimization_barrier %\w+ : tensor<2x([0-9x]+)xbf16>", text)
    assert sorted(kept) == sorted(
        ["16x16x16x4", "8x8x8x8", "4x4x4x16", "8x8x8x8", "8x8x8x8", "16x16x16x4"]
    )
