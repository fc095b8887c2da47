"""Which backend is chosen, and what is said about one that cannot be used."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.kernels import (
    attention_reference,
    AttentionShape,
    choose_attention,
    compiling_for,
    Device,
    dot_product_attention,
)
from draftx.kernels.attention import _api

from ...helpers import assert_close


_CPU, _TPU = Device("cpu"), Device("tpu")
_HOPPER, _AMPERE = Device("cuda", (9, 0)), Device("cuda", (8, 0))
_ROCM = Device("rocm")
_TEXT = (77, 77, 64)


@pytest.mark.parametrize(
    ("device", "dtype", "lengths_and_head_dim", "is_causal", "expected"),
    [
        # Stable Diffusion's UNet, text encoder and autoencoder on CUDA.
        (_HOPPER, "bfloat16", (4096, 4096, 40), False, "cudnn"),
        (_HOPPER, "float16", (1024, 77, 80), False, "cudnn"),
        (_HOPPER, "bfloat16", (64, 64, 160), False, "cudnn"),
        (_HOPPER, "bfloat16", _TEXT, True, "cudnn"),
        (_HOPPER, "bfloat16", (4096, 4096, 512), False, "chunked"),
        (_HOPPER, "bfloat16", (1024, 1024, 512), False, "xla"),
        # Float32, a head that is no multiple of 8, wide heads before Hopper.
        (_HOPPER, "float32", (256, 256, 40), False, "xla"),
        (_HOPPER, "bfloat16", (256, 256, 36), False, "xla"),
        (_AMPERE, "bfloat16", (256, 256, 160), False, "xla"),
        (_AMPERE, "bfloat16", (256, 256, 80), False, "cudnn"),
        (_HOPPER, "bfloat16", (64, 77, 64), True, "xla"),
        (_ROCM, "bfloat16", (1024, 1024, 80), False, "xla"),
        (_TPU, "bfloat16", (4096, 4096, 40), False, "pallas_tpu"),
        (_TPU, "float32", (1024, 1024, 80), False, "pallas_tpu"),
        (_TPU, "bfloat16", (256, 256, 160), False, "xla"),
        (_TPU, "bfloat16", (4096, 77, 40), False, "xla"),
        (_TPU, "bfloat16", (4096, 4096, 512), False, "chunked"),
        (_TPU, "bfloat16", _TEXT, True, "xla"),
        (_CPU, "float32", (256, 256, 32), False, "xla"),
        (_CPU, "bfloat16", _TEXT, True, "xla"),
        (_CPU, "float32", (1024, 1024, 80), False, "chunked"),
        (Device("metal"), "float32", (256, 256, 32), False, "xla"),
    ],
)
def test_choice(device, dtype, lengths_and_head_dim, is_causal, expected):
    shape = AttentionShape(1, 8, *lengths_and_head_dim)
    chosen = choose_attention(
        device=device, dtype=jnp.dtype(dtype), shape=shape, is_causal=is_causal
    )
    assert chosen == expected


@pytest.mark.parametrize(
    ("device", "batch", "expected"),
    [
        (_TPU, 8, "xla"),
        (_TPU, 64, "chunked"),
        (_CPU, 8, "chunked"),
        (_ROCM, 8, "chunked"),
    ],
)
def test_text_of_a_batch(device, batch, expected):
    shape = AttentionShape(batch, 8, 4096, 77, 40)
    dtype = jnp.dtype("bfloat16")
    chosen = choose_attention(device=device, dtype=dtype, shape=shape, is_causal=False)
    assert chosen == expected


def _problem(dtype=jnp.bfloat16, head_dim=40, kv_len=6):
    query = jr.normal(jr.key(0), (1, 6, 2, head_dim), dtype)
    key = jr.normal(jr.key(1), (1, kv_len, 2, head_dim), dtype)
    return query, key, key


@pytest.mark.parametrize(
    ("device", "implementation", "problem", "is_causal", "text"),
    [
        (_CPU, "cudnn", {}, False, "'cudnn'` runs on cuda .* got 'cpu'"),
        (_CPU, "pallas_tpu", {}, False, "'pallas_tpu'` runs on tpu .* got 'cpu'"),
        (_ROCM, "cudnn", {}, False, "runs on cuda devices only; got 'rocm'"),
        (
            _HOPPER,
            "cudnn",
            dict(dtype=jnp.float32),
            False,
            "takes float16 and bfloat16 arrays only; got float32",
        ),
        (_HOPPER, "cudnn", dict(head_dim=36), False, "multiple of 8 .* 256; got 36"),
        (_HOPPER, "cudnn", dict(head_dim=264), False, "<= 256; got 264"),
        (_AMPERE, "cudnn", dict(head_dim=160), False, "<= 128; got 160"),
        (_HOPPER, "cudnn", dict(kv_len=5), True, "q_len=6, kv_len=5"),
        (_TPU, "pallas_tpu", dict(dtype=jnp.float16), False, "got float16"),
        (_TPU, "pallas_tpu", dict(head_dim=512), False, "<= 256; got 512"),
    ],
)
def test_named_backend_refuses(device, implementation, problem, is_causal, text):
    text = f"`implementation=.*{text}.* Possible here: .*'xla', 'chunked', 'reference'"
    with compiling_for(*device), pytest.raises(ValueError, match=text):
        dot_product_attention(
            *_problem(**problem), is_causal=is_causal, implementation=implementation
        )


def test_unknown_backend_is_named():
    text = "`implementation` must be None or one of .*'xla'.*; got 'flash'"
    with pytest.raises(ValueError, match=text):
        dot_product_attention(*_problem(), implementation="flash")


@pytest.mark.parametrize("implementation", ["xla", "chunked", "reference", None])
def test_name_reaches_a_backend(implementation):
    args = _problem(jnp.float32)
    actual = dot_product_attention(*args, implementation=implementation)
    assert_close(actual, attention_reference(*args))


def test_chosen_backend_is_the_one_called(monkeypatch):
    called = []
    spy = lambda name: lambda query, *_, **__: called.append(name) or query
    backends = {name: spy(name) for name in _api.IMPLEMENTATIONS}
    monkeypatch.setattr(_api, "_BACKENDS", backends)
    for device, implementation in ((_HOPPER, None), (_CPU, None), (_CPU, "chunked")):
        with compiling_for(*device):
            dot_product_attention(*_problem(), implementation=implementation)
    np.testing.assert_array_equal(called, ["cudnn", "xla", "chunked"])
