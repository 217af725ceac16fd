"""What is read off a compiled program's text, by hand."""

import pytest

from benchmarks.program_text import kernels, shape_bytes
from jax_seg.system.cards import CARDS, target_config

TEXT = """
HloModule jit_step

%fused_slice (p.0: bf16[2,8,8,8,4]) -> f32[4] {
  %p.0 = bf16[2,8,8,8,4]{4,3,2,1,0} parameter(0)
  %wide.1 = f32[2,8,8,8,4]{4,3,2,1,0} convert(%p.0)
  %few = f32[2,1,8,8,4]{4,3,2,1,0} slice(%wide.1), slice={[0:2], [0:8:8], [0:8], [0:8], [0:4]}
  ROOT %sum = f32[4]{0} reduce(%few), dimensions={0,1,2,3}
}

%fused_update (p.0: f32[8,25], p.1: f32[25]) -> f32[8,25] {
  %p.0 = f32[8,25]{1,0} parameter(0)
  %p.1 = f32[25]{0} parameter(1)
  %row.2 = f32[1,25]{1,0} bitcast(%p.1)
  %number.3 = s32[] constant(2)
  ROOT %updated = f32[8,25]{1,0} dynamic-update-slice(%p.0, %row.2, %number.3, %number.3)
}

%body (state: (s32[], f32[100])) -> (s32[], f32[100]) {
  %state = (s32[], f32[100]{0}) parameter(0)
  %one = f32[100]{0} get-tuple-element(%state), index=1
  %rows = f32[8,25]{1,0} get-tuple-element(%state), index=2
  %row = f32[25]{0} get-tuple-element(%state), index=3
  %update_fusion = f32[8,25]{1,0} fusion(%rows, %row), kind=kLoop, calls=%fused_update
  ROOT %loop_add_fusion = f32[100]{0} fusion(%one), kind=kLoop, calls=%add
}

ENTRY %main (x: bf16[2,8,8,8,4], k: bf16[6,3,3,3,4]) -> f32[4] {
  %x = bf16[2,8,8,8,4]{4,3,2,1,0} parameter(0)
  %k = bf16[6,3,3,3,4]{4,3,2,1,0} parameter(1)
  %cudnn-conv.1 = (bf16[2,8,8,8,6]{4,3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3x3 pad=1_1x1_1x1_1}, dim_labels=b012f_o012i->b012f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/jvp(Model)/encoder_0/conv_0/x"}
  %y = bf16[2,8,8,8,6]{4,3,2,1,0} get-tuple-element(%cudnn-conv.1), index=0
  %cudnn-conv-bw-input.2 = (bf16[2,8,8,8,4]{4,3,2,1,0}, u8[0]{0}) custom-call(%y, %k), window={size=3x3x3 pad=1_1x1_1x1_1}, dim_labels=b012f_o012i->b012f, custom_call_target="__cudnn$convBackwardInput"
  %cudnn-conv-bw-filter.3 = (bf16[6,3,3,3,4]{4,3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=3x3x3 pad=1_1x1_1x1_1}, dim_labels=b012f_o012i->b012f, custom_call_target="__cudnn$convBackwardFilter"
  %input_transpose_fusion.4 = bf16[4,2,8,8,8]{4,3,2,1,0} fusion(%x), kind=kInput, calls=%t
  %while.5 = (s32[], f32[100]{0}) while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %input_reduce_fusion.6 = f32[4]{0} fusion(%x), kind=kInput, calls=%fused_slice
}
"""  # noqa: E501
X, Y, K = 2 * 512 * 4 * 2, 2 * 512 * 6 * 2, 6 * 27 * 4 * 2  # bytes
PRODUCTS = 2 * (2 * 512) * 27 * 4 * 6  # operations of the convolution and of either gradient


def test_bytes_of_shapes():
    assert shape_bytes("(bf16[2,3]{1,0}, f32[], pred[5])") == 12 + 4 + 5


def test_kernels_of_a_program():
    found = {kernel.name: kernel for kernel in kernels(TEXT)}
    assert {name: kernel.kind for name, kernel in found.items()} == {
        "cudnn-conv.1": "convolution",
        "cudnn-conv-bw-input.2": "convolution",
        "cudnn-conv-bw-filter.3": "convolution",
        "input_transpose_fusion.4": "transpose or copy",
        "update_fusion": "elementwise",
        "loop_add_fusion": "elementwise",
        "input_reduce_fusion.6": "reduction",
    }
    assert found["cudnn-conv.1"].traffic == X + K + Y
    assert [kernel.operations for kernel in found.values()] == [PRODUCTS] * 3 + [0] * 4
    assert found["cudnn-conv.1"].layout == "b012f_o012i" and found["cudnn-conv.1"].type == "bf16"
    assert found["input_transpose_fusion.4"].traffic == 2 * X
    assert found["loop_add_fusion"].traffic == 3 * (400 + 400)  # as often as the loop runs
    assert found["loop_add_fusion"].calls == 3
    # Of eight rows one is written, in place; what it holds is read.
    assert found["update_fusion"].traffic == 3 * (100 + 100)
    assert found["input_reduce_fusion.6"].traffic == X // 8 + 16  # every eighth slice is read


@pytest.mark.parametrize("name", CARDS)
def test_descriptions_of_cards(name):
    text = target_config(CARDS[name])
    assert text.count("{") == text.count("}") == 4
    assert f"core_count: {CARDS[name].cores} " in text
