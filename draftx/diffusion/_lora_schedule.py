"""When in a chain the adapter is on: tuned and base model by turns, or mixed."""

import abc

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._checks import is_whole, not_negative, plain
from .._custom_types import Latents, Real
from ._denoiser import AbstractDenoiser


class AbstractLoRASchedule(eqx.Module):
    """Says how much of the adapter each step of a chain gets."""

    @abc.abstractmethod
    def check(self, num_inference_steps: int) -> None:
        """Raises a `ValueError` if a chain of `num_inference_steps` is too short."""

    @abc.abstractmethod
    def active_steps(self, num_inference_steps: int) -> frozenset[int]:
        """Says at which of `num_inference_steps` the adapter is on, 0 the noisiest."""

    @abc.abstractmethod
    def __call__(
        self, tuned: AbstractDenoiser, base: AbstractDenoiser, num_inference_steps: int
    ) -> AbstractDenoiser:
        """Makes one denoiser out of two.

        **Arguments:**

        - `tuned`, `base`: With the adapter, and without.
        - `num_inference_steps`: Of the chain.
        """


class LoRAWindow(AbstractLoRASchedule):
    """Has the adapter on for the `first` or for the `last` so many steps only.

    Nothing is computed twice: a step asks one of the two models.

    **Arguments:**

    - `first`, `last`: One of the two, a number of steps; the noisiest is the first.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix B.7.
    """

    first: int | None = eqx.field(
        static=True, converter=plain, default=None, kw_only=True
    )
    last: int | None = eqx.field(
        static=True, converter=plain, default=None, kw_only=True
    )

    def __check_init__(self):
        given = [n for n in (self.first, self.last) if n is not None]
        n = given[0] if len(given) == 1 else None
        if not is_whole(n, least=0):
            raise ValueError(
                "`LoRAWindow` must be given either `first` or `last`, a whole number "
                f"of at least 0; got first={self.first!r}, last={self.last!r}."
            )

    def check(self, num_inference_steps: int) -> None:
        name = "last" if self.first is None else "first"
        n = self.last if self.first is None else self.first
        if n is not None and n > num_inference_steps:
            raise ValueError(
                f"`{name}` must be at most {num_inference_steps}, the number of "
                f"sampling steps; got {n}."
            )

    def _range(self, num_inference_steps: int) -> tuple[int, int]:
        if self.first is not None:
            return 0, self.first
        assert self.last is not None
        return num_inference_steps - self.last, num_inference_steps

    def active_steps(self, num_inference_steps: int) -> frozenset[int]:
        return frozenset(range(*self._range(num_inference_steps)))

    def __call__(
        self, tuned: AbstractDenoiser, base: AbstractDenoiser, num_inference_steps: int
    ) -> AbstractDenoiser:
        start, stop = self._range(num_inference_steps)
        if stop - start == num_inference_steps:
            return tuned
        return base if stop == start else SwitchedDenoiser(tuned, base, start, stop)


class AnnealedGuidance(AbstractLoRASchedule):
    r"""Mixes the predictions of base and tuned model, the tuned one growing in.

    $$\hat\epsilon_i = (1 - w_i)\,\epsilon_0 + w_i\,\epsilon_\theta, \qquad
      w_i = (i / T)^p$$

    at step $i = 0 \ldots T - 1$, noisiest first: the base model lays out the image,
    which keeps images diverse. Both models are run at every step. $p = 0$ is the
    tuned model alone. The form with a jump from 0 to 1 is `LoRAWindow(last=...)`.

    It is meant for sampling; training through it works too.

    **Arguments:**

    - `power`: $p$, at least 0.

    ??? cite

        Annealed importance guidance of DRaFT+, in
        [NeMo-Aligner](https://github.com/NVIDIA/NeMo-Aligner).
    """

    power: Real = eqx.field(static=True, converter=plain, default=1.0)

    def __check_init__(self):
        not_negative("power", self.power)

    def check(self, num_inference_steps: int) -> None:
        del num_inference_steps  # Any will do.

    def active_steps(self, num_inference_steps: int) -> frozenset[int]:
        first = 0 if self.power == 0 else 1
        return frozenset(range(first, num_inference_steps))

    def __call__(
        self, tuned: AbstractDenoiser, base: AbstractDenoiser, num_inference_steps: int
    ) -> AbstractDenoiser:
        if self.power == 0:
            return tuned
        fractions = [i / num_inference_steps for i in range(num_inference_steps)]
        weights = [fraction**self.power for fraction in fractions]
        return MixedDenoiser(tuned, base, jnp.asarray(weights, jnp.float32))


class SwitchedDenoiser(AbstractDenoiser):
    """Asks one of two denoisers at each step.

    **Arguments:**

    - `tuned`, `base`: With the adapter, and without.
    - `start`, `stop`: `tuned` is asked from step `start` to before step `stop`, `base`
        at the others.
    """

    tuned: AbstractDenoiser
    base: AbstractDenoiser
    start: int = eqx.field(static=True)
    stop: int = eqx.field(static=True)

    def __call__(self, latents: Latents, index: Int[Array, ""]) -> Latents:
        return lax.cond(
            (index >= self.start) & (index < self.stop),
            lambda: self.tuned(latents, index),
            lambda: self.base(latents, index),
        )


class MixedDenoiser(AbstractDenoiser):
    """Mixes the predictions of two denoisers.

    **Arguments:**

    - `tuned`, `base`: With the adapter, and without.
    - `weights`: Of `tuned` at each step.
    """

    tuned: AbstractDenoiser
    base: AbstractDenoiser
    weights: Float[Array, " steps"]

    def __call__(self, latents: Latents, index: Int[Array, ""]) -> Latents:
        weight = self.weights[index].astype(latents.dtype)
        base = self.base(latents, index)
        return base + weight * (self.tuned(latents, index) - base)
