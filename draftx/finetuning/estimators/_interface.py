"""What a gradient estimator is: an objective, and what it says of itself."""

import abc
from collections.abc import Iterable

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import is_whole
from ...diffusion import AbstractSampler, AbstractSteps, find_idle_steps
from ...episodes import Budget, Episode
from ...rewards import Scores


class TrainedSteps(eqx.Module):
    """Says which steps of a chain a gradient passes through, 0 the noisiest.

    `always` are differentiated whatever is drawn, `ever` for some draw.
    """

    always: frozenset[int] = eqx.field(static=True)
    ever: frozenset[int] = eqx.field(static=True)

    def __init__(self, always: Iterable[int], ever: Iterable[int] | None = None):
        """**Arguments:**

        - `always`: Indices of steps.
        - `ever`: These and more; `None` is the same.
        """
        self.always = frozenset(always)
        self.ever = self.always if ever is None else frozenset(ever)


class AbstractGradientEstimator(eqx.Module):
    r"""Estimates the gradient of $\mathbb{E}[r(x_0)]$.

    An estimator is a differentiable objective: the gradient of its value with respect
    to the adapter *is* the estimate. What must not be differentiated is stopped inside.
    The other methods are facts about it, which others ask.
    """

    @abc.abstractmethod
    def check(self, num_inference_steps: int) -> None:
        """Raises a `ValueError` if a chain of `num_inference_steps` is too short."""

    def check_batch(self, batch_size: int) -> None:
        """Raises a `ValueError` if a batch of `batch_size` images is too small.

        Unless an estimator says otherwise, none is.
        """
        del batch_size

    def trained_steps(self, num_inference_steps: int) -> TrainedSteps:
        """Says which of `num_inference_steps` are differentiated.

        Unless an estimator says otherwise: any may be, none must be.
        """
        return TrainedSteps((), range(num_inference_steps))

    def idle_steps(
        self, sampler: AbstractSampler, steps: AbstractSteps
    ) -> frozenset[int]:
        """Finds the steps whose prediction the images do not depend on.

        Unless an estimator says otherwise: those from a noise level to the same.

        **Arguments:**

        - `sampler`, `steps`: Of the chain, 0 the noisiest.
        """
        return find_idle_steps(sampler, steps)

    def draws_only(self, steps: frozenset[int], num_inference_steps: int) -> bool:
        """Says whether a draw may differentiate none but some of the steps.

        Unless an estimator says otherwise, the smallest draw is of the steps that it
        always differentiates.

        **Arguments:**

        - `steps`: The indices of these.
        - `num_inference_steps`: Of the chain.
        """
        always = self.trained_steps(num_inference_steps).always
        return bool(always) and always <= steps

    def steps_at_once(self, num_inference_steps: int) -> int:
        """Says how many steps wait for their gradient at once, their insides kept.

        Unless an estimator says otherwise: all that it ever differentiates.
        """
        return len(self.trained_steps(num_inference_steps).ever)

    def passes_through_steps(self, num_inference_steps: int) -> bool:
        """Says whether a step's gradient reaches the latents, and the steps before.

        Unless an estimator says otherwise, it does.
        """
        del num_inference_steps
        return True

    def needs_reward_gradient(self) -> bool:
        """Says whether the reward must be differentiable in the images.

        Unless an estimator says otherwise, it must.
        """
        return True

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget | None:
        """Says what one gradient costs, on average over what the estimator draws.

        `None`, which is what this method gives unless an estimator has its own, is for
        not known.

        **Arguments:**

        - `num_inference_steps`, `batch_size`: Of the chain.
        - `guided`: Whether every prediction takes two evaluations of the UNet.
        """
        del num_inference_steps, batch_size, guided
        return None

    @abc.abstractmethod
    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Scores | Float[Array, " batch"]]:
        """Computes the objective, a number, and the rewards.

        **Arguments:**

        - `episode`: Noise, chain and reward. `episode.score(state)` gives both results
            for clean latents; `episode.objective(scores, charge)` the first for what
            stands for rewards.
        - `key`: For estimators that draw more noise.

        **Returns:**

        The objective, and the reward of every image of the chain: as the episode gave
        it, with what it is made of, or an array `[batch]`.
        """


def check_steps(
    name: str, value: int, *, least: int = 1, most: int | None = None
) -> None:
    """Raises unless a number of sampling steps is a whole one in its range."""
    if is_whole(value, least=least) and (most is None or value <= most):
        return
    of_chain = "" if most is None else f" and at most {most}, the number of steps"
    raise ValueError(
        f"`{name}` must be a whole number of at least {least}{of_chain}; got {value!r}."
    )
