"""Reading programs that are compiled for devices that are not there."""

import argparse
import json
import re
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .helpers import load


compiled_plan, _hlo, _hlo_work = load("compiled_plan"), load("_hlo"), load("_hlo_work")
_plan, _plan_show, _targets = load("_plan"), load("_plan_show"), load("_targets")
_plan_programs, _plan_record = load("_plan_programs"), load("_plan_record")
H200, V5E = _targets.targets()["h200"], _targets.targets()["v5e"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--target h300", "--target must be one of h200, h100, .*; got 'h300'"),
        ("--k 0", "--k must be at least 1; got 0"),
        ("--k 51", "--k must be at most --num-inference-steps, 50; got 51"),
        ("--batch 0", "--batch must be at least 1"),
        ("--images-at-once 0", "--images-at-once must be at least 1"),
        ("--images-at-once 3", "--images-at-once must divide --batch, 4; got 3"),
        ("--topology v5e:2x4", "--topology is of TPUs; got --target h200"),
        ("--flags fast", "--flags must be NAME=VALUE; got 'fast'"),
        ("--remat half", "--remat: invalid choice"),
        ("--model nowhere", "--model: invalid choice: 'nowhere'"),
        (
            "--what sampling --images-at-once 2",
            "--images-at-once is of --what gradient",
        ),
        ("--suite --num-inference-steps 20", "--suite has K = 50: it needs"),
        ("--out .", "--out must be a file; got the folder '.'"),
    ],
)
def test_what_is_impossible_is_refused(options, message, capsys):
    with pytest.raises(SystemExit) as error:
        compiled_plan.parse_args(options.split())
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("target", ["h200", "v5e"])
def test_a_compiler_that_is_not_installed_is_named(target, monkeypatch, capsys):
    monkeypatch.setattr(_targets.importlib.util, "find_spec", lambda _: None)
    assert compiled_plan.main(["--target", target]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"needs the compiler of .*pip install -e '\.\[examples,", line)


def test_too_large_a_program_says_by_how_much():
    error = jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.94G of "
        "15.75G hbm. Exceeded hbm capacity by 2.19G."
    )
    translated = _plan_programs._translated(error, V5E)
    assert isinstance(translated, _plan_programs.DoesNotFit)
    assert "needs 17.9 GiB, 1.9 GiB too much" in str(translated)
    error = jax.errors.JaxRuntimeError("INVALID_ARGUMENT: No such compile option: 'x'")
    translated = _plan_programs._translated(error, V5E)
    assert isinstance(translated, _plan_programs.CannotBeCompiled)
    assert str(translated).startswith("--flags must be XLA's own options")
    other = jax.errors.JaxRuntimeError("INTERNAL: something else")
    assert _plan_programs._translated(other, V5E) is other


def test_a_plan_larger_than_the_device_says_by_how_much():
    sizes = dict.fromkeys(("output", "alias", "generated_code"), 0)
    sizes |= {"argument": 2 * 2**30, "temp": 150 * 2**30}
    memory = types.SimpleNamespace(
        **{f"{name}_size_in_bytes": size for name, size in sizes.items()}
    )
    with pytest.raises(_plan_programs.DoesNotFit, match=r"152\.0 GiB, 11\.0 GiB too"):
        _plan_programs._check_fits(memory, H200)
    memory.temp_size_in_bytes = 130 * 2**30
    _plan_programs._check_fits(memory, H200)


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
def test_attention_of_a_tpu_is_counted_by_what_it_replaces(name, products):
    module = _module(
        "%q = bf16[2,8,64,40]{3,2,1,0} parameter(0)",
        "%k = bf16[2,8,128,40]{3,2,1,0} parameter(1)",
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


def _row(**changes):
    key = {name: None for name in _plan_record.KEY} | {"target": "h200", "flags": []}
    part = {
        "part": "frozen step",
        "times": 50,
        "ms": 2.0,
        "floor_ms": 1.0,
        "kernels": 3,
        "gib": 1.0,
        "tflop": 1.0,
        "kinds": {"sums": {"kernels": 3, "ms": 2.0, "gib": 1.0, "tflop": 0.0}},
    }
    figures = {
        "compile_s": 10.0,
        "seconds": 0.1,
        "floor_s": 0.05,
        "share": 0.5,
        "launches": 150,
        "collectives": {},
        "opaque": [],
        "memory_mib": {"arguments": 1.0, "temporaries": 2.0, "code": 0.0},
        "parts": [part],
        "what": "sampling",
        "num_inference_steps": 50,
        "batch": 4,
        "dtype": "bfloat16",
        "model": "sd14-shape",
    }
    return key | figures | changes


def test_the_record_keeps_one_plan_of_each_program(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_plan_record, "RECORD", tmp_path / "plans" / "plans.json")
    _plan_record.keep(_row())
    _plan_record.keep(_row(target="v5e"))
    _plan_record.keep(_row(seconds=0.0800001, largest=[1]))
    assert len(_plan_record.read()) == 2
    kept = _plan_record.find(_row())
    assert kept["seconds"] == 0.08
    assert "largest" not in kept
    assert _plan_record.find(_row(batch=8)) is None
    key = dict(what="sampling", rank=None)
    beside = _plan_record.beside("NVIDIA H200", **key)
    assert beside == {"plan_s": 0.08, "plan_temp_mib": 2.0}
    assert _plan_record.beside("NVIDIA A100-SXM4-80GB", **key) == {}
    _plan_show.compare(kept, _row(seconds=0.06))
    assert re.search(r"seconds +0.08 -> +0.06  -25.0%", capsys.readouterr().out)


def test_the_committed_record_is_of_the_suite():
    """All of it for the GPU that is watched, and nothing that could not be read."""
    rows = _plan_record.read()
    for case in compiled_plan.SUITE:
        found = [
            row
            for row in rows
            if row["target"] == "h200"
            and all(row[key] == value for key, value in case.items())
            and row["flags"] == []
            and row["images_at_once"] is None
            and row["remat"] in (None, "step")
        ]
        assert len(found) == 1, case
    for row in rows:
        assert row["target"] in _targets.targets()
        assert not row["opaque"]
        assert 0 < row["share"] <= 1


@pytest.mark.parametrize("name", list(_targets.targets()))
def test_targets_say_all_that_estimates_need(name):
    target = _targets.targets()[name]
    assert target.memory_gib > 0
    assert target.bandwidth > 0
    assert set(target.flops) >= {"bf16", "f32"}
    if target.platform == "cuda":
        assert target.launch > 0
        assert target.serial > 0
        text = (_targets._FOLDER / target.description).read_text()
        major, minor = target.compute_capability
        assert f"major: {major}" in text
        assert np.isclose(
            int(re.search(r"device_memory_size: (\d+)", text)[1]) / 2**30,
            target.memory_gib,
            rtol=0.01,
        )
        assert int(re.search(r"memory_bandwidth: (\d+)", text)[1]) > target.bandwidth
    else:
        assert target.clock > 0
        assert target.topology.startswith(name)


def test_options_of_the_suite_are_those_of_the_command():
    args = compiled_plan.parse_args([])
    for case in compiled_plan.SUITE:
        assert set(case) <= set(vars(args))
    assert isinstance(args, argparse.Namespace)
