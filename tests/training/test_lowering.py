"""The training step lowers for a GPU, with the platform's convolutions in the type asked for."""

import re

import pytest

from configs import v6
from jax_seg.training import find_batch


def volumes(dtype):
    config = v6.get_config()
    config.data.update(patch=(16, 16, 16), batch=2)
    config.model.update(filters=4, poolings=2, dtype=dtype)
    return config


def convolutions(text):
    """[(operand types)] of the convolutions in a lowered program."""
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    return [re.findall(r"x(bf16|f32)>", line.rpartition(" : ")[2]) for line in lines]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_step_of_volumes_lowers_for_a_gpu(dtype):
    step, arguments = find_batch.abstract_step(volumes(dtype))
    traced = step.trace(*arguments)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    found = convolutions(text)
    # Eight shapes of layers, each with both gradients, but the first without that of the images.
    assert len(found) == 3 * 8 - 1
    assert {kind for types in found for kind in types} == {short}
    assert "custom_call" not in text  # nothing of a CPU's forms
