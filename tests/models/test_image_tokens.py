"""Tokens of a picture beside the text: parity with diffusers' IP-Adapter."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.kernels import dot_product_attention
from draftx.models import ImageTokens, named_parameters, replace_parameters

from ..goldens import make_image_tokens, make_models
from ..helpers import assert_close, operations, relative_error
from .parity import build, GRADIENT_TOLERANCE, jit_quickly, VALUE_TOLERANCE


def _tokens(config, golden):
    features = golden["in/embeddings"].shape[1]
    skeleton = eqx.filter_eval_shape(
        ImageTokens, config, embedding_features=features, key=jr.key(0)
    )
    state = {k[7:]: x for k, x in golden.items() if k.startswith("tokens/")}
    expected = {p.key: p.file_shape for p in named_parameters(skeleton)}
    assert expected == {key: x.shape for key, x in state.items()}
    return replace_parameters(skeleton, lambda p: jnp.asarray(state[p.key]))


@jit_quickly
def _compute(unet, tokens, data):
    def call(tokens, latents, text, embeddings):
        scale = jnp.asarray(make_image_tokens.SCALE)
        context = tokens.beside(unet.text_context(text), embeddings, scale)
        return unet.denoise(latents, unet.time_shifts(data["in/timesteps"]), context)

    names = ("latents", "text_embeddings", "embeddings")
    out, vjp = jax.vjp(call, tokens, *(data[f"in/{name}"] for name in names))
    d_tokens, *gradients = vjp(data["ct/prediction"])
    found = {f"grad/{n}": g for n, g in zip(names, gradients, strict=True)}
    return {"out/prediction": out} | found, d_tokens


def _check(name, of_unet, golden):
    unet = build(name, of_unet)
    tokens = _tokens(unet.config, golden)
    tokens.check(unet.config)
    parts = ("in/", "ct/")
    data = {k: jnp.asarray(x) for k, x in golden.items() if k.startswith(parts)}
    actual, gradients = _compute(unet, tokens, data)
    for p in named_parameters(gradients):
        actual[f"param_grad/{p.key}"] = p.to_file()
    assert actual.keys() == {k for k in golden if k[:3] in ("out", "gra", "par")}
    # Of tokens few enough that a softmax hardly tells them apart.
    keys = [k for k in golden if k.startswith("param_grad/")]
    floor = 1e-3 * np.linalg.norm([np.linalg.norm(golden[k]) for k in keys])
    for key, value in actual.items():
        limit = VALUE_TOLERANCE if key.startswith("out/") else GRADIENT_TOLERANCE
        size = max(np.linalg.norm(golden[key]), floor)
        error = relative_error(value, golden[key]) * np.linalg.norm(golden[key]) / size
        assert error < limit, f"{key}: {error:.1e}"


def test_matches_golden():
    name = make_image_tokens.NAME
    with np.load(make_image_tokens.PATH) as file:
        golden = dict(file)
    path = pathlib.Path(make_models.__file__).with_name(f"{name}.npz")
    with np.load(path) as file:
        _check(name, dict(file), golden)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["unet_sd1", "unet_sd2"])
def test_matches_live(name):
    pytest.importorskip("diffusers")
    config = make_models.CASES[name]
    live = make_image_tokens.reference(name, config)
    of_unet = make_models.reference(name, config)
    np.testing.assert_array_equal(live.pop("state"), of_unet["state"])
    del live["shapes"]
    _check(name, of_unet, live)


@pytest.fixture(scope="module")
def tokens(short_pipeline):
    config = short_pipeline.unet.config
    return ImageTokens(config, embedding_features=3, num_tokens=2, key=jr.key(7))


def test_without_a_picture_nothing_is_added(short_pipeline, tokens, getkey):
    unet = short_pipeline.unet
    latents, text = jr.normal(getkey(), (2, 8, 8, 4)), jr.normal(getkey(), (2, 9, 12))
    embeddings = jr.normal(getkey(), (2, 3))

    @jax.jit
    def call(scale):
        context = unet.text_context(text)
        context = tokens.beside(context, embeddings, scale)
        return unet.denoise(latents, unet.time_shifts(jnp.asarray([300])), context)

    alone = unet(latents, jnp.asarray([300, 300]), text)
    assert_close(call(jnp.asarray(0.0)), alone, scale=5)
    assert float(jnp.abs(call(jnp.asarray(1.0)) - alone).max()) > 1e-4


def test_a_picture_costs_its_own_attention_alone(short_pipeline, tokens):
    """Each cross-attention has one more, and no other."""
    unet = short_pipeline.unet
    latents, text = jnp.zeros((2, 8, 8, 4)), jnp.zeros((2, 9, 12))
    arrays, static = eqx.partition((unet, tokens), eqx.is_array)

    def count(with_one):
        def call(arrays):
            unet, tokens = eqx.combine(arrays, static)
            context = unet.text_context(text)
            if with_one:
                context = tokens.beside(context, jnp.zeros((2, 3)), jnp.ones(()))
            return unet.denoise(latents, unet.time_shifts(jnp.asarray([1])), context)

        return str(jax.make_jaxpr(call)(arrays)).count(" dot_general")

    layers = len(tokens.layers)
    # Keys and values, scores and what they weigh; and the projection.
    assert count(True) - count(False) == 4 * layers + 1


def _attended(operations):
    """The products of queries and keys, and of what these weigh."""
    products = [scope for scope, name in operations if name == "dot_general"]
    # Not the projections before and after.
    return [
        scope for scope in products if "attention" in scope and "linear" not in scope
    ]


def test_where_there_is_no_picture_there_is_no_trace_of_one(short_pipeline, tokens):
    latents, text = jnp.zeros((2, 8, 8, 4)), jnp.zeros((2, 9, 12))

    def trace(beside):
        def call(unet):
            context = beside(unet.text_context(text))
            return unet.denoise(latents, unet.time_shifts(jnp.asarray([1])), context)

        return [*operations(eqx.filter_make_jaxpr(call)(short_pipeline.unet)[0].jaxpr)]

    alone = trace(lambda context: context)
    seeing = trace(lambda c: tokens.beside(c, jnp.zeros((2, 3)), jnp.ones(())))
    heads = jnp.zeros((2, 9, 2, 4))
    one = jax.make_jaxpr(dot_product_attention)(heads, heads, heads).jaxpr
    one = sum(name == "dot_general" for _, name in operations(one))
    # Each block attends to the image, and to the text.
    count = len(tokens.layers) * one
    assert len(_attended(alone)) == 2 * count > 0
    assert len(_attended(seeing)) == 3 * count
    scopes = lambda found: {scope for scope, _ in found if "image_tokens" in scope}
    assert not scopes(alone)
    assert scopes(seeing)


def test_tokens_of_another_unet_are_named(short_pipeline, tokens):
    other = make_models.CASES["unet_sd1"]
    config = type(short_pipeline.unet.config).from_dict(other)
    with pytest.raises(ValueError, match="`tokens` must be for a UNet with cross-att"):
        tokens.check(config)
