r"""Latents between signal and noise: $x_t = \alpha_t x_0 + \sigma_t \epsilon$."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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


def check_levels(
    config: SchedulerConfig,
    timesteps: Int[np.ndarray, " steps"],
    alpha_bar: Float[np.ndarray, " steps"],
    *,
    by_ratio: bool = False,
) -> None:
    r"""Raises a `ValueError` if a step of a chain would divide by zero.

    **Arguments:**

    - `config`: How the model was trained.
    - `timesteps`, `alpha_bar`: What it visits, and $\bar\alpha_t$ there, float32.
    - `by_ratio`: Whether $\sigma_t / \alpha_t$ is needed, whatever is predicted.
    """
    # Smaller numbers are zero to compiled programs.
    without_signal = timesteps[alpha_bar < np.finfo(np.float32).tiny]
    if without_signal.size and (by_ratio or config.prediction_type == "epsilon"):
        rule = (
            "Euler's method must not visit timesteps without signal"
            if by_ratio
            else "`prediction_type` must not be 'epsilon' where a chain visits "
            "timesteps without signal: noise alone less its noise says nothing"
        )
        raise ValueError(
            f"{rule}; got {config.prediction_type!r} and a signal of 0 at timesteps "
            f"{without_signal.tolist()}. Models trained so predict velocities: with "
            "`prediction_type='v_prediction'`, DDIM is right. One that does predict "
            "noise needs a `timestep_spacing` that leaves these timesteps out, as "
            "'leading' may, or a schedule (`trained_betas`) that keeps some signal."
        )
    without_noise = timesteps[alpha_bar >= 1]
    if without_noise.size:
        raise ValueError(
            "A chain must visit timesteps with noise only, because it divides by the "
            f"noise; got none at {without_noise.tolist()}. Begin later with "
            "`steps_offset`, or with a first beta above 1e-7 (`beta_start` or "
            "`trained_betas`)."
        )


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
