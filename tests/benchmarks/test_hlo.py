"""What a compiled program does, read from its text: products, bytes, loops."""

import json
import textwrap

import jax
import jax.numpy as jnp
import pytest

from .helpers import load


_hlo, _hlo_work, _plan = load("_hlo"), load("_hlo_work"), load("_plan")
_targets = load("_targets")
H200, V5E = _targets.targets()["h200"], _targets.targets()["v5e"]


def _small_network(x, kernel, weight):
    """Products and convolutions of all kinds that draftx has, in a loop and outside."""
    conv = lambda x, stride, pad, **kwargs: jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, 1), (pad, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **kwargs,
    )
    body = lambda carry, _: (jnp.tanh(conv(carry, 1, 1)) @ weight, None)
    x, _ = jax.lax.scan(body, x, None, length=7)
    return conv(x, 2, 0), conv(x, 1, 1, lhs_dilation=(2, 2))


def _compiled(fn, *args):
    return jax.jit(fn).lower(*args).compile()


def test_products_are_those_that_xla_counts():
    args = (jnp.ones((2, 9, 10, 4)), jnp.ones((3, 3, 4, 4)), jnp.ones((4, 4)))
    once = lambda *args: _small_network(*args)
    compiled = _compiled(once, *args)
    module = _hlo.parse_hlo(compiled.as_text())
    parts = _plan.parts_of(module, H200)
    ours = _plan.totals(parts, H200)["floor_s"] * H200.flops["f32"]
    # XLA counts the body of a loop once, and what is neither product nor convolution.
    body = _compiled(
        lambda x, k, w: (
            jax.lax.conv_general_dilated(
                x, k, (1, 1), ((1, 1),) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            @ w
        ),
        *args,
    ).cost_analysis()["flops"]
    all_ = compiled.cost_analysis()["flops"]
    expected = all_ + 6 * body
    assert ours == pytest.approx(expected, rel=0.02)


def _module(*lines, entry="f32[4]"):
    body = "\n".join(f"  {line}" for line in lines)
    return _hlo.parse_hlo(
        f"HloModule m\n\nENTRY %main (a: f32[4]) -> {entry} {{\n{body}\n}}\n"
    )


def _work(module, name):
    where = module.computations[module.entry]
    return _hlo_work.work_of(module, where, where.instructions[name])


def test_a_product_of_cublas_is_counted_from_its_shapes():
    config = json.dumps(
        {
            "gemm_backend_config": {
                "dot_dimension_numbers": {"lhs_contracting_dimensions": ["1"]}
            }
        }
    )
    module = _module(
        "%a = bf16[64,32]{1,0} parameter(0)",
        "%b = bf16[16,32]{1,0} parameter(1)",
        "ROOT %c = (bf16[64,16]{1,0}, s8[4194304]{0}) custom-call(%a, %b), "
        f'custom_call_target="__cublas$lt$matmul", backend_config={config}',
    )
    work = _work(module, "c")
    assert (work.kind, work.flops) == ("products", 2 * 64 * 16 * 32)
    assert work.nbytes == 2 * (64 * 32 + 16 * 32 + 64 * 16)  # Not the workspace.


@pytest.mark.parametrize(("name", "products"), [("", 2), ("Backward", 5)])
def test_attention_of_cudnn_is_counted_from_its_shapes(name, products):
    module = _module(
        "%q = bf16[2,64,8,40]{3,2,1,0} parameter(0)",
        "%k = bf16[2,78,8,40]{3,2,1,0} parameter(1)",
        "ROOT %o = (bf16[2,8,64,40]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k), "
        f'custom_call_target="__cudnn$fmhaSoftmax{name}"',
    )
    work = _work(module, "o")
    assert work.kind == "attention"
    assert work.flops == 2 * products * 2 * 8 * 64 * 78 * 40


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("splash_mha_fwd_residuals.1", 2),
        ("splash_mha_dq_no_residuals.1", 2),
        ("splash_mha_dkv_no_residuals.1", 3),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_attention_of_a_tpu_is_counted_by_what_it_replaces(name, products, turned):
    queries, keys = ("40,64", "40,128") if turned else ("64,40", "128,40")
    module = _module(
        f"%q = bf16[2,8,{queries}]{{3,2,1,0}} parameter(0)",
        f"%k = bf16[2,8,{keys}]{{3,2,1,0}} parameter(1)",
        "%b = s8[1,8,8]{2,1,0} parameter(2)",
        f"ROOT %{name} = bf16[2,8,64,40]{{3,2,1,0}} custom-call(%b, %q, %k, %k), "
        'custom_call_target="tpu_custom_call"',
    )
    work = _work(module, name)
    assert (work.kind, work.is_opaque) == ("attention", False)
    assert work.flops == 2 * products * 2 * 8 * 64 * 128 * 40


def test_a_convolution_of_cudnn_and_its_transpose_have_the_same_products():
    forward = _module(
        "%x = bf16[2,8,8,16]{3,2,1,0} parameter(0)",
        "%w = bf16[32,3,3,16]{3,2,1,0} parameter(1)",
        "ROOT %y = (bf16[2,4,4,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), "
        "window={size=3x3 stride=2x2 pad=0_1x0_1}, dim_labels=b01f_o01i->b01f, "
        'custom_call_target="__cudnn$convForward"',
    )
    backward = _module(
        "%y = bf16[2,4,4,32]{3,2,1,0} parameter(0)",
        "%w = bf16[32,3,3,16]{3,2,1,0} parameter(1)",
        "ROOT %x = (bf16[2,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%y, %w), "
        "window={size=3x3 stride=2x2 pad=0_1x0_1}, dim_labels=b01f_o01i->b01f, "
        'custom_call_target="__cudnn$convBackwardInput"',
    )
    flops = _work(forward, "y").flops
    # Of 3 places along an axis, the last of 4 windows misses one.
    assert flops == 2 * 2 * 32 * 16 * (4 * 3 - 1) ** 2
    assert _work(backward, "x").flops == flops


def test_an_unknown_call_is_said_to_be_opaque():
    module = _module(
        "%a = f32[4]{0} parameter(0)",
        'ROOT %b = f32[4]{0} custom-call(%a), custom_call_target="new"',
    )
    parts = _plan.parts_of(module, H200)
    assert _plan.totals(parts, H200)["opaque"] == ["call of new"]


def test_memory_that_nothing_is_written_to_is_no_work():
    module = _module(
        'ROOT %b = f32[4]{0} custom-call(), custom_call_target="AllocateBuffer"'
    )
    parts = _plan.parts_of(module, H200)
    assert _plan.totals(parts, H200)["opaque"] == []
    ((kernel,),) = [part.kernels for part in parts]
    assert kernel.work.nbytes == 0


_FUSIONS = """\
HloModule m

%sliced (p: f32[100,8], q: s32[]) -> f32[2,8] {
  %p = f32[100,8]{1,0} parameter(0)
  %q = s32[] parameter(1)
  %z = s32[] constant(0)
  %s = f32[2,8]{1,0} dynamic-slice(%p, %q, %z), dynamic_slice_sizes={2,8}
  ROOT %e = f32[2,8]{1,0} negate(%s)
}

%updated (p: f32[100,8], u: f32[2,8], q: s32[]) -> f32[100,8] {
  %p = f32[100,8]{1,0} parameter(0)
  %u = f32[2,8]{1,0} parameter(1)
  %q = s32[] parameter(2)
  %z = s32[] constant(0)
  ROOT %d = f32[100,8]{1,0} dynamic-update-slice(%p, %u, %q, %z)
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%summed (p: f32[100,8], r: f32[100,8]) -> f32[8] {
  %p = f32[100,8]{1,0} parameter(0)
  %r = f32[100,8]{1,0} parameter(1)
  %m = f32[100,8]{1,0} multiply(%p, %r)
  %z = f32[] constant(0)
  ROOT %s = f32[8]{0} reduce(%m, %z), dimensions={0}, to_apply=%add
}

ENTRY %main (x: f32[100,8], i: s32[]) -> f32[8] {
  %x = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %a = f32[2,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%sliced
  %b = f32[100,8]{1,0} fusion(%x, %a, %i), kind=kLoop, calls=%updated
  %t = (f32[100,8]{1,0}, f32[100,8]{1,0}) tuple(%b, %b)
  %g = f32[100,8]{1,0} get-tuple-element(%t), index=0
  %h = f32[100,8]{1,0} get-tuple-element(%t), index=1
  %c = f32[8]{0} fusion(%g, %h), kind=kLoop, calls=%summed
  ROOT %d = f32[8]{0} fusion(%g, %h), kind=kInput, calls=%summed
}
"""


def test_fusions_move_what_they_need():
    module = _hlo.parse_hlo(_FUSIONS)
    row = 4 * 2 * 8
    assert _work(module, "a").nbytes == row + 4 + row  # A slice of `x` and an index.
    assert _work(module, "b").nbytes == row + 4 + row  # In place.
    # One array under two names is read once.
    assert _work(module, "c").nbytes == 4 * (100 * 8 + 8)
    # A sum that is a plain loop is one thread's alone.
    assert _work(module, "c").serial == 100
    assert _work(module, "d").serial == 0
    assert [_work(module, n).kind for n in "abc"] == ["elementwise", "updates", "sums"]


def _loop(bound, start, carried):
    """A loop from `start` to `bound`, as a TPU's program or an NVIDIA GPU's has it."""
    limit = (
        "%n = s32[] get-tuple-element(%c), index=1"
        if carried
        else f"%n = s32[] constant({bound})"
    )
    return _hlo.parse_hlo(
        textwrap.dedent(f"""\
        HloModule m

        %body (b: (s32[], s32[], f32[8])) -> (s32[], s32[], f32[8]) {{
          %b = (s32[], s32[], f32[8]{{0}}) parameter(0)
          %i = s32[] get-tuple-element(%b), index=0
          %n = s32[] get-tuple-element(%b), index=1
          %x = f32[8]{{0}} get-tuple-element(%b), index=2
          %y = f32[8]{{0}} exponential(%x)
          ROOT %t = (s32[], s32[], f32[8]{{0}}) tuple(%i, %n, %y)
        }}

        %condition (c: (s32[], s32[], f32[8])) -> pred[] {{
          %c = (s32[], s32[], f32[8]{{0}}) parameter(0)
          %i = s32[] get-tuple-element(%c), index=0
          {limit}
          ROOT %l = pred[] compare(%i, %n), direction=LT
        }}

        ENTRY %main (x: f32[8]) -> f32[8] {{
          %x = f32[8]{{0}} parameter(0)
          %s = s32[] constant({start})
          %e = s32[] constant({bound})
          %t = (s32[], s32[], f32[8]{{0}}) tuple(%s, %e, %x)
          %w = (s32[], s32[], f32[8]{{0}}) while(%t), condition=%condition, body=%body
          ROOT %o = f32[8]{{0}} get-tuple-element(%w), index=2
        }}
        """)
    )


@pytest.mark.parametrize("carried", [False, True])
def test_a_loop_counts_as_often_as_it_turns(carried):
    (part,) = _plan.parts_of(_loop(50, 3, carried), H200)
    (kernel,) = (k for k in part.kernels if k.operation == "exponential")
    assert kernel.times == 47
    figures = part.figures(H200)
    assert figures["kinds"]["elementwise"]["kernels"] == 47
    assert figures["ms"] == pytest.approx(47 * H200.launch * 1e3)


def test_a_tpu_compiler_s_own_estimate_is_taken():
    module = _module(
        "%a = f32[4]{0} parameter(0)",
        "ROOT %b = f32[4]{0:T(128)(2,1)S(1)} exponential(%a), "
        'backend_config={"window_config":{"estimated_cycles":"1500"}}',
    )
    (part,) = _plan.parts_of(module, V5E)
    assert part.kernels[0].seconds == pytest.approx(1e-6)
    assert part.kernels[0].work.nbytes == 16  # The result lies near the core.


def test_cycles_that_a_tpus_compiler_does_not_know_are_none():
    module = _module(
        "%a = f32[74000]{0} parameter(0)",
        "ROOT %b = f32[74000]{0} exponential(%a), "
        f'backend_config={{"window_config":{{"estimated_cycles":"{2**63 - 1}"}}}}',
    )
    (part,) = _plan.parts_of(module, V5E)
    # Bytes over bandwidth: 592,000 over 7.4e11.
    assert part.kernels[0].seconds == pytest.approx(8e-7)
