r"""Latents between signal and noise: $x_t = \alpha_t x_0 + \sigma_t \epsilon$."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._custom_types import Latents
from ._schedule import SchedulerConfig


def mix(
    clean: Latents,
    noise: Latents,
    signal: Float[Array, "..."],
    sigma: Float[Array, "..."],
) -> Latents:
    r"""Mixes clean latents and noise: $\alpha_t x_0 + \sigma_t \epsilon$.

    **Arguments:**

    - `clean`, `noise`: $x_0$ and $\epsilon$.
    - `signal`, `sigma`: $\alpha_t$ and $\sigma_t$.
    """
    return signal * clean + sigma * noise


def unmix(
    prediction_type: str,
    latents: Latents,
    prediction: Latents,
    signal: Float[Array, ""],
    sigma: Float[Array, ""],
) -> tuple[Latents, Latents]:
    r"""Computes the clean latents $\hat x_0$ and the noise $\hat\epsilon$ that a
    prediction means.

    **Arguments:**

    - `prediction_type`: `"epsilon"` for $\epsilon$, `"sample"` for $x_0$,
        `"v_prediction"` for $\alpha_t \epsilon - \sigma_t x_0$, from which the two
        follow where $\alpha_t^2 + \sigma_t^2 = 1$.
    - `latents`, `prediction`: $x_t$, and the model's output there.
    - `signal`, `sigma`: $\alpha_t$ and $\sigma_t$.
    """
    match prediction_type:
        case "epsilon":
            return (latents - sigma * prediction) / signal, prediction
        case "sample":
            return prediction, (latents - signal * prediction) / sigma
        case _:
            pred_x0 = signal * latents - sigma * prediction
            return pred_x0, signal * prediction + sigma * latents


def clip(config: SchedulerConfig, pred_x0: Latents) -> Latents:
    """Clips predicted clean latents, where the model's file says so."""
    if not config.clip_sample:
        return pred_x0
    limit = config.clip_sample_range
    return jnp.clip(pred_x0, -limit, limit)


def training_target(
    prediction_type: str,
    clean: Latents,
    noise: Latents,
    signal: Float[Array, "..."],
    sigma: Float[Array, "..."],
) -> Latents:
    """Computes what a model is trained to predict of clean latents noised.

    The inverse of `unmix`.

    **Arguments:**

    - `prediction_type`: `"epsilon"`, `"sample"` or `"v_prediction"`.
    - `clean`, `noise`: What the latents are mixed of.
    - `signal`, `sigma`: The weights of both in the mixture.
    """
    match prediction_type:
        case "epsilon":
            return noise
        case "sample":
            return clean
        case _:
            return signal * noise - sigma * clean
