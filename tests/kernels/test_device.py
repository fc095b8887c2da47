"""The device compiled for: who says it, and that no cache mixes two of them up."""

import threading
import types

import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx.kernels import (
    compiling_for,
    conv2d,
    Device,
    dot_product_attention,
    target_device,
)


_CPU, _HOPPER = Device("cpu"), Device("cuda", (9, 0))


def test_it_is_a_platform_of_the_rules_without_a_context():
    device = target_device()
    assert device.platform in ("cpu", "cuda", "rocm", "tpu")
    assert (device.compute_capability is None) == (device.platform != "cuda")


@pytest.mark.parametrize("default", ["cpu", "device"])
def test_it_is_the_default_one_without_a_context(default):
    default = jax.local_devices(backend="cpu")[0] if default == "device" else default
    with jax.default_device(default):
        assert target_device() == _CPU


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("9.0", _HOPPER),
        ("8.0", Device("cuda", (8, 0))),
        ("gfx942", Device("rocm")),
    ],
)
def test_gpus_are_told_apart(capability, expected, monkeypatch):
    gpu = types.SimpleNamespace(platform="gpu", compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda backend: [gpu])
    assert target_device() == expected


def test_the_innermost_context_counts_until_it_ends():
    outside = target_device()
    with compiling_for("cuda", (9, 0)) as device:
        assert target_device() == device == _HOPPER
        with compiling_for("tpu"), jax.default_device("cpu"):
            assert target_device() == Device("tpu")
        with compiling_for("cuda"):
            assert target_device() == Device("cuda", (8, 0))
        with pytest.raises(ValueError, match="must be None"), compiling_for("tpu"):
            dot_product_attention(*jnp.ones((3, 1, 2, 1, 8)), implementation="none")
        assert target_device() == _HOPPER
    assert target_device() == outside


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("gpu",), r"`platform` must be one of \['cpu', 'cuda', .*; got 'gpu'"),
        (("tpu", (9, 0)), r"`compute_capability` is of CUDA .* \(9, 0\) for 'tpu'"),
    ],
)
def test_what_is_no_device_is_refused_at_once(args, text):
    with pytest.raises(ValueError, match=text):
        compiling_for(*args)


def _network(x, weight):
    """Every way by which JAX keeps a trace: jit, checkpoint, scan, custom VJPs."""

    @jax.checkpoint
    def step(x, _):
        y = conv2d(x, weight, padding=(1, 1))
        tokens = y.reshape(x.shape[0], -1, 1, x.shape[-1])
        y = jax.jit(dot_product_attention)(tokens, tokens, tokens).reshape(x.shape)
        return y, None

    return jnp.sum(lax.scan(step, x, length=2)[0].astype(jnp.float32))


def _calls(program, platform, *args):
    text = program.trace(*args).lower(lowering_platforms=(platform,)).as_text()
    return text.count("@__cudnn$fmha"), text.count("stablehlo.convolution")


def test_no_cache_takes_one_device_for_another():
    # Of so few pixels a CPU takes patches instead of a convolution.
    x = jnp.ones((1, 2, 2, 8), jnp.bfloat16)
    weight = jnp.ones((3, 3, 8, 8), jnp.bfloat16)
    program = jax.jit(jax.grad(_network))
    with jax.default_device("cpu"):
        before = program(x, weight)
        assert _calls(program, "cpu", x, weight) == (0, 0)
        with compiling_for("cuda", (9, 0)):
            assert min(_calls(program, "cuda", x, weight)) >= 2
            with compiling_for("cpu"):
                assert _calls(program, "cpu", x, weight) == (0, 0)
        assert _calls(program, "cpu", x, weight) == (0, 0)
        np.testing.assert_array_equal(program(x, weight), before)


def test_contexts_of_two_threads_do_not_meet():
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    asked = lambda: fused.check_compute_capability("9.0")
    ours = fused.check_compute_capability
    barrier, seen = threading.Barrier(2, timeout=30), {}

    def run(name, args):
        with compiling_for(*args):
            barrier.wait()
            seen[name] = target_device(), asked()
            barrier.wait()

    cases = {"a": ("cuda", (8, 0)), "b": ("cuda", (10, 3))}
    threads = [threading.Thread(target=run, args=case) for case in cases.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {
        "a": (Device("cuda", (8, 0)), False),
        "b": (Device("cuda", (10, 3)), True),
    }
    assert fused.check_compute_capability is ours


def test_jax_is_answered_in_the_thread_that_compiles_and_in_no_other():
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    ask = lambda: (
        fused.check_compute_capability("9.0"),
        fused.is_cuda_compute_capability_equal("9.0"),
    )
    outside, seen = ask(), []
    with compiling_for("cuda", (9, 0)):
        assert ask() == (True, True)
        assert fused.check_cudnn_version() > 91100
        thread = threading.Thread(target=lambda: seen.append(ask()))
        thread.start()
        thread.join()
    assert seen == [outside]
    assert ask() == outside
