"""Kinds of kernels, and their sums."""

import types

import pytest

from .helpers import load


_profile = load("_profile")


@pytest.mark.parametrize(
    ("name", "operation", "kind"),
    [
        (
            "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize",
            "cudnn-conv.7",
            "convolution",
        ),
        ("sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32", "", "convolution"),
        ("cutlass_tensorop_bf16_s16816fprop_optimized_bf16_nhwc", "", "convolution"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma", "", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma", "", "attention"),
        ("kernel", "__cudnn$fmhaSoftmaxBackward", "attention"),
        (
            "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT",
            "custom-call.4",
            "matrix product",
        ),
        ("gemm_fusion_dot_general_17", "gemm_fusion_dot_general_17", "matrix product"),
        ("cublasLt::splitKreduce_kernel<32, 16, int>", "", "matrix product"),
        ("input_reduce_fusion_3", "input_reduce_fusion.3", "norms, elementwise"),
        ("loop_convert_fusion", "loop_convert_fusion", "norms, elementwise"),
        ("triton_softmax_12", "", "norms, elementwise"),
        ("loop_dynamic_update_slice_fusion", "", "copy"),
        ("wrapped_transpose", "", "copy"),
        ("input_concatenate_fusion", "", "copy"),
        ("MemcpyD2D", "", "copy"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "", "copy"),
        ("unheard_of", "", "other"),
    ],
)
def test_kinds(name, operation, kind):
    assert _profile.kind_of(name, operation) == kind


def test_sums_are_of_one_evaluation():
    events = [("gemm_fusion_dot.1", "", 2e6), ("gemm_fusion_dot.2", "", 4e6)] * 2
    events += [("loop_add_fusion", "", 2e6)] * 2
    result = _profile.totals(events, evaluations=2)
    assert result["kinds_ms"] == {
        "matrix product": 6.0,
        "norms, elementwise": 2.0,
        "total": 8.0,
    }
    assert result["top"][0] == {
        "kind": "matrix product",
        "name": "gemm_fusion_dot",
        "ms": 6.0,
        "calls": 2.0,
        "share": 0.75,
    }


def _plane(name, **lines):
    def event(name, operation, nanoseconds):
        stats = [("hlo_op", operation)] if operation else []
        return types.SimpleNamespace(name=name, stats=stats, duration_ns=nanoseconds)

    return types.SimpleNamespace(
        name=name,
        lines=[
            types.SimpleNamespace(
                name=key.replace("_", " "), events=[event(*e) for e in events]
            )
            for key, events in lines.items()
        ],
    )


def test_events_of_a_gpu_are_those_of_its_streams():
    host = _plane("/host:CPU", python=[("dot", "dot.1", 5)])
    device = _plane(
        "/device:GPU:0",
        Stream__13=[("nvjet", "dot.1", 7), ("MemcpyD2D", "", 1)],
        XLA_Ops=[("dot.1", "dot.1", 7)],
    )
    profile = types.SimpleNamespace(planes=[host, device])
    assert list(_profile.kernels(profile)) == [
        ("nvjet", "dot.1", 7),
        ("MemcpyD2D", "", 1),
    ]
    # Without a GPU, what has an operation.
    host = _plane("/host:CPU", worker=[("dot", "dot.1", 5), ("ExecuteHelper", "", 9)])
    profile = types.SimpleNamespace(planes=[host])
    assert list(_profile.kernels(profile)) == [("dot", "dot.1", 5)]
