"""The densities of chains with noise: what policy gradients are made of."""

import math
from typing import Any, get_args, Literal, TypeAlias

import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._checks import finite
from .._custom_types import Latents, Real, RealLike
from ._sampler import AbstractSampler, AbstractSteps


# How the log-density of the numbers of one image makes one number.
DensityReduction: TypeAlias = Literal["mean", "sum"]


def log_prob(
    sampler: AbstractSampler,
    latents: Latents,
    prediction: Latents,
    step: AbstractSteps,
    following: Latents,
    *,
    memory: Any = None,
    reduction: DensityReduction = "mean",
) -> Float[Array, " batch"]:
    r"""Computes $\log p(x_{t-1} \mid x_t)$ of a chain with noise, for each image.

    A step is Gaussian, with the mean that the sampler gives and the standard deviation
    $\sigma_t$ of its noise. Where a step adds no noise there is no density; the number
    given is then of no use.

    **Arguments:**

    - `sampler`: Of the chain.
    - `latents`, `following`: $x_t$ and the $x_{t-1}$ that was drawn.
    - `prediction`: The model's output at $x_t$.
    - `step`: One row of `sampler.steps(..., eta=...)`.
    - `memory`: What the sampler remembered before the step.
    - `reduction`: `"sum"` is the log-density. `"mean"` divides it by the number of
        dimensions, as DDPO's authors do, so that ratios of probabilities are near 1
        for latents of any size.
    """
    mean, _ = sampler.update(latents, prediction, step, memory)
    scale = jnp.where(step.noise_scale > 0, step.noise_scale, 1)
    normalized = (following - mean) / scale
    each = -(normalized**2) / 2 - jnp.log(scale) - math.log(2 * math.pi) / 2
    reduce = jnp.mean if reduction == "mean" else jnp.sum
    return reduce(each, axis=(1, 2, 3))


def log_ratio(
    sampler: AbstractSampler,
    latents: Latents,
    predictions: tuple[Latents, Latents],
    step: AbstractSteps,
    following: Latents,
    *,
    memory: Any = None,
    reduction: DensityReduction = "mean",
) -> Float[Array, " batch"]:
    r"""Computes $\log (p_1 / p_0)(x_{t-1} \mid x_t)$ of two models, for each image.

    Not as a difference of two sums, each of which is rounded: with their means $m_0$
    and $m_1$ it is, number by number,

    $$\frac{(m_1 - m_0)\,\bigl((x_{t-1} - m_0) + (x_{t-1} - m_1)\bigr)}{2 \sigma_t^2},$$

    exactly 0 for equal predictions. Where a step adds no noise, the number given is of
    no use.

    **Arguments:**

    - `sampler`, `latents`, `following`, `step`, `memory`, `reduction`: As for
        `log_prob`.
    - `predictions`: The outputs at $x_t$ of the new model, whose density is $p_1$, and
        of the old one, $p_0$; no gradient passes through the latter.
    """
    new, old = predictions[0], lax.stop_gradient(predictions[1])
    mean = lambda output: sampler.update(latents, output, step, memory)[0]
    old_mean, slope = jax.jvp(mean, (old,), (new - old,))
    moved = _unless_bent(slope, mean(new), old_mean, (latents, new, old))
    scale = jnp.where(step.noise_scale > 0, step.noise_scale, 1)
    each = moved / scale * (2 * (following - old_mean) - moved) / (2 * scale)
    reduce = jnp.mean if reduction == "mean" else jnp.sum
    return reduce(each, axis=(1, 2, 3))


def _unless_bent(
    slope: Latents, new: Latents, old: Latents, others: tuple[Latents, ...]
) -> Latents:
    """How far a mean has moved from `old` to `new`: `slope`, the derivative times the
    way, if that is it.

    A mean is a straight function of the prediction but for clipping. Its derivative
    then has the difference of means without the rounding of either, which is as large
    as what a small update moves.
    """
    size = sum(jnp.abs(x) for x in (new, old, *others))
    rounding = 64 * jnp.finfo(new.dtype).eps * size
    difference = new - old
    is_straight = jnp.abs(lax.stop_gradient(slope - difference)) <= rounding
    return jnp.where(is_straight, slope, difference)


def random_steps(
    sampler: AbstractSampler, num_inference_steps: int, eta: Real
) -> Int[np.ndarray, " random"]:
    """Finds the indices of the steps that add noise: only these have a density.

    The last step adds none where the chain ends without noise (`set_alpha_to_one`).

    **Arguments:**

    - `sampler`, `num_inference_steps`, `eta`: Of the chain.
    """
    with jax.ensure_compile_time_eval():
        scale = np.asarray(sampler.steps(num_inference_steps, eta=eta).noise_scale)
    (indices,) = np.nonzero(scale > 0)
    if len(indices) == 0:
        raise ValueError(
            "`sampling` must leave a step that adds noise, or there is no probability "
            f"to raise; got {num_inference_steps} steps of {type(sampler).__name__} "
            f"with eta={eta}. Use more steps, an `eta` above 0, or a sampler whose "
            "steps add noise, such as `draftx.Ancestral`."
        )
    return indices.astype(np.int32)


def check_density_reduction(reduction: str) -> None:
    """Raises unless `reduction` names a way to reduce a log-density."""
    if reduction not in get_args(DensityReduction):
        raise ValueError(f"`reduction` must be 'mean' or 'sum'; got {reduction!r}.")


def check_noise(eta: RealLike) -> None:
    r"""Raises unless a chain with `eta`, $\eta$, has a density."""
    rule = "lie in (0, 1]: without noise there is no density"
    finite("eta", eta, rule, lambda x: 0 < x <= 1)
