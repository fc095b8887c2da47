"""What a renderer is, and what is wrong with one, said before any long work."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import finite, wants_numbers
from .._custom_types import Images
from ..pipeline import latent_shape, Pipeline, Sampling
from ._method import Space


# Parameters and a key, which draws views, to images [batch, height, width, 3] in [0, 1]
# (or to latents, where the method says so): as many each time, differentiable by the
# parameters.
Renderer: TypeAlias = Callable[[Any, PRNGKeyArray], Images]
# Sums of weights overshoot 1 by rounding.
_SLACK = 1e-3


def check_renderer(
    pipeline: Pipeline,
    render: Renderer,
    params: Any,
    key: PRNGKeyArray,
    sampling: Sampling,
    renders: Space,
) -> jax.ShapeDtypeStruct:
    """Renders once, and raises a `ValueError` for what a model cannot look at.

    **Arguments:**

    - `pipeline`: Whose networks say which sizes fit.
    - `render`, `params`: The renderer, and its parameters as they begin.
    - `key`: Draws views, and what the gradient is tried on.
    - `sampling`: May say height and width.
    - `renders`: What it gives.

    **Returns:**

    Shape and dtype of what is rendered.
    """
    if not callable(render):
        raise ValueError(
            "`render` must be a function of parameters and a key; got "
            f"{type(render).__name__}."
        )
    _check_arguments(render, params, key)
    trainable, frozen = eqx.partition(params, eqx.is_inexact_array)
    if not jax.tree.leaves(trainable):
        raise ValueError(
            "`params` must have arrays of floats, which are optimized; got none. Make "
            "them by `jnp.asarray`."
        )
    try:
        spec = eqx.filter_eval_shape(render, params, key)
    except Exception as error:
        if not wants_numbers(error):
            raise
        raise ValueError(
            "`render` must be computed by `jax.numpy`, without a `float` or an `if` of "
            "what it computes: it is compiled before its numbers are known. JAX said: "
            f"{str(error).splitlines()[0]}"
        ) from error
    _check_shape(pipeline, spec, sampling, renders)
    rendered, gradient = _try(render, trainable, frozen, key)
    _check_values(np.asarray(rendered), renders)
    norm = float(np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(gradient))))
    finite("render", norm, "have a finite gradient at `params`")
    if norm == 0:
        raise ValueError(
            "`render` must have a gradient with respect to `params`; got zero in every "
            "number. Rounding, comparisons and integers have none, nor has what is "
            "clipped or hidden."
        )
    return spec


def _check_arguments(render: Renderer, params: Any, key: PRNGKeyArray) -> None:
    try:
        signature = inspect.signature(render)
    except ValueError:  # Of what is not written in Python there may be none.
        return
    try:
        signature.bind(params, key)
    except TypeError as error:
        raise ValueError(
            "`render` must take parameters and a key, `render(params, key)`; it is "
            f"{getattr(render, '__name__', type(render).__name__)}{signature}: {error}."
        ) from error


def _check_shape(
    pipeline: Pipeline, spec: Any, sampling: Sampling, renders: Space
) -> None:
    channels = 3 if renders == "images" else pipeline.latent_shape[2]
    shape = getattr(spec, "shape", None)
    if shape is None or len(shape) != 4 or shape[0] == 0 or shape[3] != channels:
        got = shape if shape is not None else type(spec).__name__
        raise ValueError(
            f"`render` must give {renders} of shape (batch, height, width, {channels}),"
            f" channels last; got {got}."
        )
    if not jnp.issubdtype(spec.dtype, jnp.floating):
        raise ValueError(f"`render` must give floats; got {spec.dtype}.")
    factor = pipeline.vae.config.downsampling_factor if renders == "latents" else 1
    height, width = (factor * side for side in shape[1:3])
    for name, side in (("height", height), ("width", width)):
        asked = getattr(sampling, name)
        if asked not in (None, side):
            raise ValueError(
                f"`{name}` of `sampling` must be that of what `render` gives, {side}; "
                f"got {asked}. Leave it out."
            )
    try:
        latent_shape(pipeline, Sampling(height=height, width=width))
    except ValueError as error:
        raise ValueError(
            f"`render` must give images of a size that fits the model: {error}"
        ) from error


def _check_values(rendered: np.ndarray, renders: Space) -> None:
    bad = int(np.sum(~np.isfinite(rendered)))
    if bad:
        raise ValueError(
            f"`render` must give finite {renders}; {bad} of {rendered.size} numbers "
            "are not. Look for a division, a root or a logarithm at zero."
        )
    low, high = float(rendered.min()), float(rendered.max())
    remedy = "`jax.nn.sigmoid` or `jnp.clip` keep colors there."
    if high > 2:
        remedy = "Divide bytes by 255."
    if renders == "images" and not (-_SLACK <= low and high <= 1 + _SLACK):
        raise ValueError(
            f"`render` must give images in [0, 1]; got values from {low:.3g} to "
            f"{high:.3g}. {remedy}"
        )


@eqx.filter_jit
def _try(
    render: Renderer, trainable: Any, frozen: Any, key: PRNGKeyArray
) -> tuple[Float[Array, "..."], Any]:
    """What is rendered, and a gradient of its numbers in some direction."""
    call = lambda trainable: render(eqx.combine(trainable, frozen), key)
    rendered, pullback = jax.vjp(call, trainable)
    return rendered, pullback(jr.normal(key, rendered.shape, rendered.dtype))[0]
