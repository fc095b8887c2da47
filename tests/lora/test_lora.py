import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.models import iter_linears

from ..helpers import assert_close


@pytest.fixture(scope="module")
def base(base_pipeline):
    return base_pipeline


def _randomize(pipeline, key):
    """Replaces the zeros of a fresh adapter."""
    mask = draftx.lora.lora_filter(pipeline)
    adapter, rest = eqx.partition(pipeline, mask)
    leaves, treedef = jax.tree.flatten(adapter)
    keys = jr.split(key, len(leaves))
    leaves = [jr.normal(k, x.shape) / 3 for k, x in zip(keys, leaves, strict=True)]
    return eqx.combine(jax.tree.unflatten(treedef, leaves), rest)


@eqx.filter_jit
def _predict(pipeline, latents):
    text = jnp.full((2, 3, 12), 0.3) * jnp.arange(3.0)[None, :, None]
    return pipeline.unet(latents, jnp.array([7, 800]), text)


@pytest.fixture(scope="module")
def latents():
    return jr.normal(jr.key(5), (2, 8, 8, 4))


def _updates(pipeline):
    return {name: layer.update() for name, layer in draftx.lora.iter_lora(pipeline)}


def test_fresh_adapter_is_exactly_a_no_op(base, latents, getkey):
    adapted = draftx.add_lora(base, rank=3, key=getkey())
    np.testing.assert_array_equal(_predict(adapted, latents), _predict(base, latents))


def test_default_targets_are_the_papers(base, getkey):
    names = set(_updates(draftx.add_lora(base, rank=2, key=getkey())))
    linears = [name for name, _ in iter_linears(base)]
    expected = {n for n in linears if ".attn2." in n or ".ff." in n}
    assert names == expected
    assert all(name.startswith("unet.") for name in names)


@pytest.mark.parametrize(
    ("target", "count"),
    [("to_q", 8), ("attn1.to_k", 4), ("projections", 8), ("text_encoder", 12)],
)
def test_other_targets(base, target, count, getkey):
    adapted = draftx.add_lora(base, rank=1, targets=[target], key=getkey())
    assert len(_updates(adapted)) == count


def test_merging_gives_the_same_model(base, latents, getkey):
    targets = ["cross_attention", "feed_forward", "self_attention", "projections"]
    adapted = draftx.add_lora(base, rank=3, alpha=2.0, targets=targets, key=getkey())
    adapted = _randomize(adapted, getkey())
    merged = draftx.merge_lora(adapted)
    assert not _updates(merged)
    assert_close(_predict(merged, latents), _predict(adapted, latents), scale=5.0)


def test_scaling_and_mixing_are_linear_in_the_update(base, getkey):
    first = _randomize(draftx.add_lora(base, rank=3, alpha=2.0, key=getkey()), getkey())
    second = _randomize(
        draftx.add_lora(base, rank=2, targets=["to_q", "attn2.to_k"], key=getkey()),
        getkey(),
    )
    a, b = _updates(first), _updates(second)
    half = _updates(draftx.scale_lora(first, 0.5))
    mixed = _updates(draftx.mix_lora([first, second], [0.7, -2.0]))
    assert mixed.keys() == a.keys() | b.keys()
    for name in mixed:
        zero = jnp.zeros_like(mixed[name])
        expected = 0.7 * a.get(name, zero) - 2.0 * b.get(name, zero)
        assert_close(mixed[name], expected)
        if name in a:
            assert_close(half[name], 0.5 * a[name])


def test_scale_zero_is_the_base(base, latents, getkey):
    adapted = _randomize(draftx.add_lora(base, rank=3, key=getkey()), getkey())
    off = draftx.scale_lora(adapted, 0.0)
    assert_close(_predict(off, latents), _predict(base, latents))


def test_state_dict_names_are_diffusers(base, getkey):
    state = draftx.lora_state_dict(draftx.add_lora(base, rank=3, key=getkey()))
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"
    assert state[f"{name}.lora.down.weight"].shape == (3, 8)
    assert state[f"{name}.lora.up.weight"].shape == (8, 3)
    ff = "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"
    assert state[f"{ff}.lora.up.weight"].shape == (128, 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(rank=0), "`rank` must be a whole number of at least 1; got 0"),
        (dict(rank=9), "`rank` must be at most 8"),
        (dict(rank=1, alpha=float("nan")), "`alpha` must be finite"),
        (dict(rank=1, targets=[]), "`targets` must be a non-empty"),
        (dict(rank=1, targets=["to_x"]), "'to_x', which matches none"),
    ],
)
def test_add_lora_errors(base, kwargs, message, getkey):
    with pytest.raises(ValueError, match=message):
        draftx.add_lora(base, key=getkey(), **kwargs)


def test_algebra_errors(base, getkey):
    adapted = draftx.add_lora(base, rank=1, key=getkey())
    for call in (lambda: draftx.merge_lora(base), lambda: draftx.scale_lora(base, 1.0)):
        with pytest.raises(ValueError, match="must carry a LoRA adapter"):
            call()
    with pytest.raises(ValueError, match="`scale` must be finite; got inf"):
        draftx.scale_lora(adapted, float("inf"))
    with pytest.raises(ValueError, match="one number for each"):
        draftx.mix_lora([adapted], [1.0, 2.0])
