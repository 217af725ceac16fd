"""What is read off a compiled program's text, by hand."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import gpu_program
from benchmarks.program_text import kernels, shape_bytes
from jax_seg.system import startup
from jax_seg.system.cards import CARDS, target_config
from jax_seg.training import find_batch
from tests.conftest import ROOT, TIME_LIMIT

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

%gemm_fusion_dot.7_computation (p.0: bf16[1024,4], p.1: bf16[4,16]) -> bf16[1024,16] {
  %p.0 = bf16[1024,4]{1,0} parameter(0)
  %p.1 = bf16[4,16]{1,0} parameter(1)
  ROOT %dot.1 = bf16[1024,16]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="up"}, backend_config={"sizes":["16"]}
}

%there_and_back (p.0: bf16[2,8,8,8,4]) -> bf16[2,8,8,8,4] {
  %p.0 = bf16[2,8,8,8,4]{4,3,2,1,0} parameter(0)
  %there = bf16[8,2,8,8,4]{4,3,2,1,0} transpose(%p.0), dimensions={2,0,1,3,4}, metadata={op_name="x"}
  ROOT %back = bf16[2,8,8,8,4]{4,3,2,1,0} transpose(%there), dimensions={1,2,0,3,4}
}

%t (p.0: bf16[2,8,8,8,4]) -> bf16[4,2,8,8,8] {
  %p.0 = bf16[2,8,8,8,4]{4,3,2,1,0} parameter(0)
  ROOT %one_way = bf16[4,2,8,8,8]{4,3,2,1,0} transpose(%p.0), dimensions={4,0,1,2,3}
}

%copied (p.0: bf16[2,8,8,8,4]) -> bf16[2,8,8,8,4] {
  %p.0 = bf16[2,8,8,8,4]{4,3,2,1,0} parameter(0)
  ROOT %copy.0 = bf16[2,8,8,8,4]{1,2,3,4,0} copy(%p.0)
}

%both_ways (p.0: bf16[2,8,8,8,4]) -> (bf16[2,8,8,8,4], bf16[4,2,8,8,8]) {
  %p.0 = bf16[2,8,8,8,4]{4,3,2,1,0} parameter(0)
  %kept = bf16[2,8,8,8,4]{4,3,2,1,0} negate(%p.0)
  %moved = bf16[4,2,8,8,8]{4,3,2,1,0} transpose(%kept), dimensions={4,0,1,2,3}
  ROOT %pair = (bf16[2,8,8,8,4]{4,3,2,1,0}, bf16[4,2,8,8,8]{4,3,2,1,0}) tuple(%kept, %moved)
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
  %loop_transpose_fusion.9 = bf16[2,8,8,8,4]{4,3,2,1,0} fusion(%x), kind=kLoop, calls=%there_and_back
  %copy_fusion.2 = bf16[2,8,8,8,4]{1,2,3,4,0} fusion(%x), kind=kLoop, calls=%copied
  %loop_transpose_fusion.3 = (bf16[2,8,8,8,4]{4,3,2,1,0}, bf16[4,2,8,8,8]{4,3,2,1,0}) fusion(%x), kind=kLoop, calls=%both_ways
  %rows.0 = bf16[1024,4]{1,0} bitcast(%x)
  %square.0 = bf16[4,16]{1,0} bitcast(%k)
  %gemm_fusion_dot.7 = bf16[1024,16]{1,0} fusion(%rows.0, %square.0), kind=kCustom, calls=%gemm_fusion_dot.7_computation
  %cublas-gemm.8 = (bf16[1024,16]{1,0}, s8[64]{0}) custom-call(%rows.0, %square.0), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %while.5 = (s32[], f32[100]{0}) while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %input_reduce_fusion.6 = f32[4]{0} fusion(%x), kind=kInput, calls=%fused_slice
}
"""  # noqa: E501
X, Y, K = 2 * 512 * 4 * 2, 2 * 512 * 6 * 2, 6 * 27 * 4 * 2  # bytes
PRODUCTS = 2 * (2 * 512) * 27 * 4 * 6  # operations of the convolution and of either gradient


def test_operations_of_a_strided_convolution_count_its_results():
    """From 8³ voxels to 4³: every weight meets each of the 4³ results once, in all three."""
    window = "window={size=3x3x3 stride=2x2x2 pad=1_1x1_1x1_1}, dim_labels=b012f_o012i->b012f"
    calls = {
        "Forward": ("bf16[2,4,4,4,6]", "%x, %k"),
        "BackwardInput": ("bf16[2,8,8,8,4]", "%y, %k"),
        "BackwardFilter": ("bf16[6,3,3,3,4]", "%x, %y"),
    }
    lines = [
        f"  %c{kind} = ({shape}{{4,3,2,1,0}}, u8[0]{{0}}) custom-call({operands}), {window}, "
        f'custom_call_target="__cudnn$conv{kind}"'
        for kind, (shape, operands) in calls.items()
    ]
    text = "\n".join(
        [
            "ENTRY %main () -> bf16[6,3,3,3,4] {",
            "  %x = bf16[2,8,8,8,4]{4,3,2,1,0} parameter(0)",
            "  %k = bf16[6,3,3,3,4]{4,3,2,1,0} parameter(1)",
            "  %y = bf16[2,4,4,4,6]{4,3,2,1,0} parameter(2)",
            *lines,
            "}",
        ]
    )
    operations = [kernel.operations for kernel in kernels(text)]
    assert operations == 3 * [2 * (2 * 4**3) * 27 * 4 * 6]


def test_bytes_of_shapes():
    assert shape_bytes("(bf16[2,3]{1,0}, f32[], pred[5])") == 12 + 4 + 5
    assert shape_bytes("(bf16[2,3]{1,0}, f32[], pred[5])", "f32") == 4


def test_kernels_of_a_program():
    found = {kernel.name: kernel for kernel in kernels(TEXT)}
    assert {name: kernel.kind for name, kernel in found.items()} == {
        "cudnn-conv.1": "convolution",
        "cudnn-conv-bw-input.2": "convolution",
        "cudnn-conv-bw-filter.3": "convolution",
        "input_transpose_fusion.4": "transpose or copy",
        "copy_fusion.2": "transpose or copy",
        "loop_transpose_fusion.3": "transpose or copy",
        "loop_transpose_fusion.9": "elementwise",  # its transpositions cancel
        "gemm_fusion_dot.7": "matrix product",
        "cublas-gemm.8": "matrix product",
        "update_fusion": "elementwise",
        "loop_add_fusion": "elementwise",
        "input_reduce_fusion.6": "reduction",
    }
    assert found["cudnn-conv.1"].traffic == X + K + Y
    of_products = [2 * 1024 * 16 * 4] * 2
    operations = [PRODUCTS] * 3 + [0] * 4 + of_products + [0] * 3
    assert [kernel.operations for kernel in found.values()] == operations
    assert found["cudnn-conv.1"].layout == "b012f_o012i" and found["cudnn-conv.1"].type == "bf16"
    assert found["input_transpose_fusion.4"].traffic == 2 * X
    assert found["loop_add_fusion"].traffic == 3 * (400 + 400)  # as often as the loop runs
    assert found["loop_add_fusion"].calls == 3
    # Of eight rows one is written, in place; what it holds is read.
    assert found["update_fusion"].traffic == 3 * (100 + 100)
    assert found["input_reduce_fusion.6"].traffic == X // 8 + 16  # every eighth slice is read
    # What is float32 of it: sums of bfloat16, rows and their update.
    wide = {name: kernel.wide for name, kernel in found.items() if kernel.wide}
    assert wide == {
        "update_fusion": 3 * 200,
        "loop_add_fusion": 3 * 800,
        "input_reduce_fusion.6": 16,
    }


def test_what_a_report_says(monkeypatch):
    """By hand: 8 GB of memory for 2 samples leave room for 15 in three quarters of 80 GB."""
    card = CARDS["a100"]._replace(memory=80 * 10**9)
    memory = SimpleNamespace(
        temp_size_in_bytes=7 * 10**9,
        argument_size_in_bytes=10**9,
        output_size_in_bytes=9 * 10**8,
        alias_size_in_bytes=9 * 10**8,
    )
    compiled = SimpleNamespace(memory_analysis=lambda: memory, as_text=lambda: TEXT)
    monkeypatch.setattr(gpu_program, "LARGE", 500)  # bytes
    said = "\n".join(gpu_program.report(compiled, card, 2))
    assert "7.00 GB temporary, 1.00 GB arguments, 8.00 GB at the peak, 10% of" in said
    assert "largest batch: at least about 15," in said  # 60 / 4
    assert "3 b012f_o012i in bf16" in said and "transposes and copies above 64 MB: 3" in said
    assert "in 1 kernels above 64 MB\n    0.00 GB  elementwise" in said  # 800 bytes in a loop


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--card", "h1000"], "invalid choice: 'h1000'"),
        (["--config", "configs/cod10k.py", "--model", "unet"], "networks of volumes"),
    ],
)
def test_what_cannot_be_named(flags, message, capsys):
    with pytest.raises(SystemExit):
        gpu_program.main(flags)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", gpu_program.MODELS)
def test_a_network_can_be_chosen(name, monkeypatch, capsys):
    seen = []

    def compile_for(card, function, *arguments):
        seen.extend(arguments[0].params)
        raise ValueError("It is enough.")

    monkeypatch.setattr(find_batch, "compile_for", compile_for)
    assert gpu_program.main(["--model", name, "--patch", "32", "--batch", "1"]) == 1
    assert "It is enough." in capsys.readouterr().err
    assert ("stem" in seen) == (name == "residual_unet")


@pytest.mark.skipif(startup.has_plugin(), reason="a plugin is there")
def test_without_the_plugin_both_commands_say_what_is_missing(volumes_folder):
    """In processes of their own: they turn JAX to a CPU."""
    tiny = ["--config.data.patch=(16,16,16)", "--config.model.filters=2"]
    tiny += ["--config.model.poolings=1", f"--config.data.root={volumes_folder}"]
    for command in (
        ["-m", "benchmarks.gpu_program", "--patch", "32", "--batch", "1"],
        ["launch.py", "--config", "configs/v6.py", "--find_batch", "--for", "h100", *tiny],
    ):
        ended = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT
        )
        said = ended.stderr.strip().splitlines()[-1]
        assert ended.returncode == 1 and "Cannot compile for NVIDIA H100" in said
        assert "pip install '.[gpu-program]'" in said


@pytest.mark.parametrize("name", CARDS)
def test_descriptions_of_cards(name):
    text = target_config(CARDS[name])
    assert text.count("{") == text.count("}") == 4
    assert f"core_count: {CARDS[name].cores} " in text
