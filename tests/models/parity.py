"""Our networks with a golden file's weights, compared with what the file says."""

import functools as ft
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    named_parameters,
    replace_parameters,
    UNet2DConditionModel,
    UNetConfig,
)

from ..helpers import relative_error


VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
_MODELS = {
    "unet": (UNet2DConditionModel, UNetConfig),
    "vae": (AutoencoderKL, AutoencoderConfig),
    "clip": (CLIPTextModel, CLIPTextConfig),
}

# For programs that are run once: time spent on optimizing them is lost.
jit_quickly = ft.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
_jit_check = ft.partial(jit_quickly, static_argnums=2)


def state_dict(golden) -> dict[str, np.ndarray]:
    """The arrays of a golden file by their published names."""
    shapes = json.loads(str(golden["shapes"]))
    sizes = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    parts = np.split(golden["state"], sizes[:-1])
    return {k: x.reshape(shapes[k]) for k, x in zip(shapes, parts, strict=True)}


def build(name: str, golden):
    """The model of a golden file; every array of the file must find its place."""
    model_cls, config_cls = _MODELS[name.partition("_")[0]]
    config = config_cls.from_dict(json.loads(str(golden["config"])))
    model = eqx.filter_eval_shape(model_cls, config, key=jr.key(0))
    state = state_dict(golden)
    expected = {p.key: p.file_shape for p in named_parameters(model)}
    assert expected == {key: array.shape for key, array in state.items()}
    return replace_parameters(model, lambda p: jnp.asarray(p.from_file(state[p.key])))


def check(name: str, golden, *, parameters: bool = False) -> dict[str, float]:
    """Compares values and gradients.

    **Arguments:**

    - `name`: Of the case; begins with `unet`, `vae` or `clip`.
    - `golden`: From `reference` of `make_models.py`, or a file it wrote.
    - `parameters`: Whether to compare the gradients of all weights too.

    **Returns:**

    The relative error of every array compared.
    """
    model = build(name, golden)
    compute = {"unet": _unet, "vae": _vae, "clip": _clip}[name.partition("_")[0]]
    actual, gradients = compute(
        model, {k: jnp.asarray(golden[k]) for k in _data(golden)}, parameters
    )
    errors = {k: relative_error(x, golden[k]) for k, x in actual.items()}
    if parameters:
        # Some are zero but for rounding: of the bias of keys, which moves all scores of
        # a softmax alike, and of a bias in front of groups of one channel.
        keys = [f"param_grad/{p.key}" for p in named_parameters(gradients)]
        floor = 1e-3 * np.linalg.norm([np.linalg.norm(golden[k]) for k in keys])
        for key, p in zip(keys, named_parameters(gradients), strict=True):
            difference = np.linalg.norm(p.to_file() - golden[key])
            errors[key] = difference / max(np.linalg.norm(golden[key]), floor)
    assert errors.keys() >= {k for k in _data(golden) if k[:2] not in ("in", "ct")}
    for key, error in errors.items():
        limit = VALUE_TOLERANCE if key.startswith("out/") else GRADIENT_TOLERANCE
        assert error < limit, f"{name} {key}: {error:.1e}"
    return errors


def _data(golden):
    return [k for k in golden if k.startswith(("in/", "out/", "ct/", "grad/"))]


def _vjp(call, model, *inputs, parameters):
    """That of the inputs alone gives `None` for the model: half to compile."""
    if parameters:
        return jax.vjp(call, model, *inputs)
    out, vjp = jax.vjp(ft.partial(call, model), *inputs)
    return out, lambda cotangent: (None, *vjp(cotangent))


@_jit_check
def _unet(model, data, parameters):
    call = lambda model, latents, text: model(latents, data["in/timesteps"], text)
    inputs = data["in/latents"], data["in/text_embeddings"]
    out, vjp = _vjp(call, model, *inputs, parameters=parameters)
    d_model, d_latents, d_text = vjp(data["ct/prediction"])
    return {
        "out/prediction": out,
        "grad/latents": d_latents,
        "grad/text_embeddings": d_text,
    }, d_model


@_jit_check
def _vae(model, data, parameters):
    encoded, encode_vjp = _vjp(
        lambda model, images: model.encode(images),
        model,
        data["in/images"],
        parameters=parameters,
    )
    decoded, decode_vjp = _vjp(
        lambda model, latents: model.decode_unclipped(latents),
        model,
        data["in/latents"],
        parameters=parameters,
    )
    d_encoder, d_images = encode_vjp(data["ct/encoded"])
    d_decoder, d_latents = decode_vjp(data["ct/decoded"])
    return {
        "out/encoded": encoded,
        "out/log_variance": model.posterior(data["in/images"])[1],
        "out/decoded": decoded,
        "grad/images": d_images,
        "grad/latents": d_latents,
    }, jax.tree.map(jnp.add, d_encoder, d_decoder)


@_jit_check
def _clip(model, data, parameters):
    del parameters  # One of its gradients is always compared.
    out, vjp = jax.vjp(lambda model: model(data["in/input_ids"]), model)
    (d_model,) = vjp(data["ct/hidden_states"])
    return {
        "out/hidden_states": out,
        "grad/token_embedding": d_model.token_embedding,
    }, d_model
