"""Products in halves, and of heads: what a call gives, values and gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from draftx.kernels import choose_halves, compiling_for, in_halves
from draftx.layers import GEGLUFeedForward, Linear
from draftx.lora import LoRALinear

from ..helpers import assert_close


_IMPLEMENTATIONS = ("whole", "apart", "stacked")


def _linear(getkey):
    layer = Linear(4, 6, key=getkey())
    return eqx.tree_at(lambda m: m.bias, layer, jr.normal(getkey(), (6,)))


def _adapted(getkey, scale=None):
    down, up = jr.normal(getkey(), (2, 4)), jr.normal(getkey(), (6, 2))
    return LoRALinear(_linear(getkey), down, up, scale)


# Each, and whether it is made ready for a chain.
_LAYERS = {
    "linear": (_linear, False),
    "no bias": (lambda getkey: Linear(4, 6, use_bias=False, key=getkey()), False),
    "lora": (_adapted, False),
    "scaled lora": (lambda getkey: _adapted(getkey, jnp.asarray(0.5)), False),
    "premerged": (_adapted, True),
    "scaled premerged": (lambda getkey: _adapted(getkey, jnp.asarray(0.5)), True),
}


def _joined(layer, x):
    return jnp.concatenate(layer.in_halves(x), axis=-1)


def _of_heads(layer, x):
    return layer.of_heads(x.reshape(*x.shape[:-1], 2, 2))


def _both(call, layer, x, d_out, premerge):
    fn = lambda layer, x: call(layer.premerged() if premerge else layer, x)
    out, vjp = jax.vjp(fn, layer, x)
    return out, vjp(d_out)


@pytest.mark.parametrize("chosen", _IMPLEMENTATIONS)
@pytest.mark.parametrize("name", _LAYERS)
def test_halves_are_those_of_a_call(chosen, name, getkey, monkeypatch):
    make, premerge = _LAYERS[name]
    layer = make(getkey)
    monkeypatch.setattr("draftx.kernels._in_halves.choose_halves", lambda *_: chosen)
    args = layer, jr.normal(getkey(), (2, 3, 4)), jr.normal(getkey(), (2, 3, 6))
    expected = _both(lambda layer, x: layer(x), *args, premerge)
    assert_close(_both(_joined, *args, premerge), expected, scale=4)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("name", _LAYERS)
def test_heads_give_what_they_give_merged(name, platform, getkey):
    make, premerge = _LAYERS[name]
    args = make(getkey), jr.normal(getkey(), (2, 3, 4)), jr.normal(getkey(), (2, 3, 6))
    expected = _both(lambda layer, x: layer(x), *args, premerge)
    with compiling_for(platform):
        actual = _both(_of_heads, *args, premerge)
    assert_close(actual, expected, scale=4)


def test_a_tpu_has_no_product_of_both_halves(getkey):
    layer = GEGLUFeedForward(4, expansion=2, key=getkey())
    x = jr.normal(getkey(), (3, 5, 4))
    with compiling_for("tpu"):
        text = str(jax.make_jaxpr(layer)(x))
        assert_close(layer(x), _on_cpu(layer, x))
    assert "f32[3,5,16]" not in text
    with compiling_for("cpu"):
        assert "f32[3,5,16]" in str(jax.make_jaxpr(layer)(x))


def _on_cpu(layer, x):
    with compiling_for("cpu"):
        return layer(x)


@pytest.mark.parametrize(
    ("platform", "rows", "chosen"),
    [
        ("cpu", 2**20, "whole"),
        ("cuda", 2**20, "whole"),
        ("tpu", 8 * 4096, "apart"),
        ("tpu", 8 * 256, "stacked"),
    ],
)
def test_choice(platform, rows, chosen):
    with compiling_for(platform):
        assert choose_halves(rows, 2560) == chosen


def test_unknown_implementation_is_named():
    with pytest.raises(ValueError, match=r"one of \['whole', 'apart', 'stacked'\]"):
        in_halves(jnp.dot, jnp.ones((2, 3)), jnp.ones((4, 3)), implementation="half")
