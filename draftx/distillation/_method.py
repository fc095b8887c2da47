"""What a user may choose about score distillation, and each rule about one option."""

from collections.abc import Callable
from typing import Any, get_args, Literal, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import check_is, check_whole, positive, within
from .._custom_types import Real, RealLike, WholeLike
from ._noises import RewardedNoises


Space: TypeAlias = Literal["images", "latents"]
# The names of weightings, or a function of the signal and of the noise in latents.
Weighting: TypeAlias = Literal["sigma_squared", "uniform"] | Callable[[Any, Any], Any]
_NAMED = ("sigma_squared", "uniform")
_TimeRange: TypeAlias = tuple[RealLike, RealLike]


class TimeAnnealing(eqx.Module):
    r"""Moves the range of times while a distillation goes on, and then leaves it there.

    $$[a, b]_s = (1 - f)\,[a, b]_0 + f\,[a, b]_1, \qquad f = \min(1, s / S)^p$$

    With $p = 1$ the ends move evenly; with $p = 1/2$, and ranges of one time each, this
    is the schedule of HiFA.

    ??? cite

        [HiFA](https://arxiv.org/abs/2305.18766), section 3.2.
    """

    final_time_range: tuple[Real, Real] = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    power: Real = eqx.field(static=True)

    def __init__(
        self,
        final_time_range: _TimeRange,
        num_steps: WholeLike,
        power: RealLike = 1.0,
    ):
        """**Arguments:**

        - `final_time_range`: As `time_range` of `ScoreDistillation`.
        - `num_steps`: $S$, training steps.
        - `power`: $p$.
        """
        self.final_time_range = _time_range("final_time_range", final_time_range)
        self.num_steps = check_whole("num_steps", num_steps)
        self.power = positive("power", power)

    def fraction(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Computes $f$ at a training step."""
        done = jnp.minimum(step.astype(jnp.float32) / self.num_steps, 1.0)
        return done**self.power


class ScoreDistillation(eqx.Module):
    r"""Says how the score of a model becomes a gradient of renderings.

    $$\nabla_\psi L = E_{t, \epsilon, c}\Bigl[w(t)\,(\hat\epsilon(z_t; t, y) - \epsilon)
      \,\frac{\partial z}{\partial \psi}\Bigr], \qquad z_t = \alpha_t z + \sigma_t
      \epsilon$$

    for latents $z$ of what is rendered of parameters $\psi$ from a view $c$, with
    guidance in $\hat\epsilon$: summed over the numbers of an image, and the mean over
    the images of a step. One time is drawn for all images of a step, and a noise for
    each.

    !!! info

        Of VP3D's own settings only the loss is published. What it and others leave open
        is an option here: times, weighting, annealing, where the gradient enters.
        Published guidance differs: 100 in DreamFusion, 30 in RewardSDS.

    ??? cite

        [DreamFusion](https://arxiv.org/abs/2209.14988), equation 3;
        [VP3D](https://arxiv.org/abs/2403.17001).
    """

    time_range: tuple[Real, Real] = eqx.field(static=True)
    annealing: TimeAnnealing | None
    weighting: Weighting = eqx.field(static=True)
    renders: Space = eqx.field(static=True)
    noises: RewardedNoises | None

    def __init__(
        self,
        time_range: _TimeRange = (0.02, 0.98),
        annealing: TimeAnnealing | None = None,
        weighting: Weighting = "sigma_squared",
        renders: Space = "images",
        noises: RewardedNoises | None = None,
    ):
        r"""**Arguments:**

        - `time_range`: Times are drawn evenly from these fractions of the training
            timesteps, from 0, clean, to 1.
        - `annealing`: Moves the range while training goes on; `None` leaves it.
        - `weighting`: $w(t)$: `"sigma_squared"`, DreamFusion's $\sigma_t^2$, or
            `"uniform"`, 1, or a function of $\alpha_t$ and $\sigma_t$.
        - `renders`: What the renderer gives: `"images"` in $[0, 1]$, which are encoded
            (the mean of what the encoder says), or `"latents"`, scaled, which rewards
            see decoded.
        - `noises`: RewardSDS's several noises a step; `None` is one.

        Raises a `ValueError` that names the argument for anything out of range.
        """
        if annealing is not None:
            example = "TimeAnnealing((0.02, 0.5), 500)"
            check_is("annealing", annealing, TimeAnnealing, example)
        if not callable(weighting) and weighting not in _NAMED:
            raise ValueError(
                f"`weighting` must be one of {list(_NAMED)}, or a function of signal "
                f"and noise; got {weighting!r}."
            )
        if renders not in get_args(Space):
            raise ValueError(
                f"`renders` must be one of {list(get_args(Space))}; got {renders!r}."
            )
        if noises is not None:
            check_is("noises", noises, RewardedNoises, "RewardedNoises(reward)")
        self.time_range = _time_range("time_range", time_range)
        self.annealing = annealing
        self.weighting = weighting
        self.renders = renders
        self.noises = noises

    @property
    def num_evaluations(self) -> int:
        """How often a step asks the model about each image, guidance aside."""
        noises = self.noises
        return 1 if noises is None else noises.num_noises * noises.num_steps

    def draw_timestep(
        self, key: PRNGKeyArray, step: Int[Array, ""], num_train_timesteps: int
    ) -> Int[Array, ""]:
        """Draws the training timestep of a step.

        **Arguments:**

        - `key`: Of the step.
        - `step`: Its number, for the annealing.
        - `num_train_timesteps`: Of the model.
        """
        low, high = (jnp.float32(end) for end in self.time_range)
        if self.annealing is not None:
            f, final = self.annealing.fraction(step), self.annealing.final_time_range
            low, high = (1 - f) * low + f * final[0], (1 - f) * high + f * final[1]
        last = num_train_timesteps - 1
        low, high = jnp.round(last * low), jnp.round(last * high)
        drawn = jnp.floor(jr.uniform(key) * (high - low + 1))
        return jnp.minimum(low + drawn, high).astype(jnp.int32)

    def weight(
        self, signal: Float[Array, ""], sigma: Float[Array, ""]
    ) -> Float[Array, ""]:
        r"""Computes $w(t)$.

        **Arguments:**

        - `signal`, `sigma`: $\alpha_t$ and $\sigma_t$.
        """
        if callable(self.weighting):
            return jnp.asarray(self.weighting(signal, sigma), jnp.float32)
        return sigma**2 if self.weighting == "sigma_squared" else jnp.ones(())


def _time_range(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(
            f"`{name}` must be two fractions of the training timesteps, such as "
            f"(0.02, 0.98); got {value!r}."
        )
    low, high = (within(name, end) for end in value)
    if low > high:
        raise ValueError(f"`{name}` must not fall; got {value!r}.")
    return low, high
