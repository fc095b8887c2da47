"""The sampling chain, and Algorithm 1 of DRaFT: which of its steps are differentiated.

[DRaFT](https://arxiv.org/abs/2309.17400), Algorithm 1 and section 4. One function
runs steps, `run`; the frozen prefix, the differentiated tail and the recorded chain are
a few lines each out of it.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._autodiff import stop_gradient
from .._custom_types import Latents
from ._charge import AbstractStepCost, add, Charge
from ._denoiser import AbstractDenoiser
from ._sampler import AbstractSampler, AbstractSteps
from ._step_noise import Part, step_noise


class State(eqx.Module):
    """Says where a chain stands.

    **Arguments:**

    - `latents`: At this step.
    - `memory`: What the sampler remembers; `None` for nothing.
    - `charge`: What the steps until here were charged (see `Chain`).
    """

    latents: Latents
    memory: Any = None
    charge: Charge | None = None


class Prediction(eqx.Module):
    """Holds the output of the model at one step, and what it is charged.

    **Arguments:**

    - `output`: Noise, sample or velocity, as the model was trained.
    - `charge`: `None` where nothing is charged.
    """

    output: Latents
    charge: Charge | None = None


class Record(eqx.Module):
    """Holds a chain as it went: states, predictions and the end.

    **Arguments:**

    - `states`: Before each of the steps, stacked.
    - `predictions`: Of each of the steps, stacked.
    - `end`: After the last step.
    """

    states: State
    predictions: Prediction
    end: State

    def latents(self) -> Float[Array, "visited batch height width channels"]:
        """Joins the latents visited: the first noise to the clean ones, T + 1 rows."""
        return jnp.concatenate([self.states.latents, self.end.latents[None]])


class Chain(eqx.Module):
    """Binds a sampler to a model made ready for all steps, and the numbers of each.

    **Arguments:**

    - `sampler`: Says how to go on from a prediction.
    - `denoiser`: The model; asked with latents and the index of a step.
    - `steps`: The numbers of all steps, noisiest first.
    - `key`: Draws the noise of the steps; `None` where they add none.
    - `cost`: What the differentiated steps are charged; `None` for nothing.
    - `is_frozen`: Whether that is waived, the chain being a constant.
    - `part`: Of a larger batch; `None` for all of it.
    """

    sampler: AbstractSampler
    denoiser: AbstractDenoiser
    steps: AbstractSteps
    key: PRNGKeyArray | None = None
    cost: AbstractStepCost | None = None
    is_frozen: bool = eqx.field(static=True, default=False)
    part: Part | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def frozen(self) -> "Chain":
        """Makes the chain a constant, whose steps are charged nothing."""
        return dataclasses.replace(stop_gradient(self), is_frozen=True)

    def begin(self, noise: Latents) -> State:
        """Makes the state before the first step of unit-variance noise."""
        return self.state(self.sampler.start(noise, self.steps))

    def state(self, latents: Latents) -> State:
        """Makes a state of latents, with nothing to remember and nothing charged."""
        charge = None if self.cost is None else Charge.nothing(latents)
        return State(latents, self.sampler.memory(latents), charge)

    def predict(self, state: State, index: Int[Array, ""]) -> Prediction:
        """Asks the model about a `state` at step `index`."""
        output = self.denoiser(state.latents, index)
        if self.cost is None:
            return Prediction(output)
        if self.is_frozen:
            return Prediction(output, Charge.nothing(state.latents))
        charged = self.cost(self.denoiser, state.latents, output, index)
        return Prediction(output, Charge.once(charged))

    def advance(
        self, state: State, prediction: Prediction, index: Int[Array, ""]
    ) -> State:
        """Moves a `state` on from step `index` by the `prediction` there."""
        step = self.steps[index]
        latents, memory = self.sampler.update(
            state.latents, prediction.output, step, state.memory
        )
        if self.key is not None:
            noise = step_noise(self.key, index, latents, self.part)
            latents = latents + step.noise_scale * noise
        return State(latents, memory, add(state.charge, prediction.charge))

    def jump(
        self, state: State, prediction: Prediction, index: Int[Array, ""]
    ) -> State:
        r"""Jumps from a `state` to the clean latents $\hat x_0$ predicted there.

        **Arguments:**

        - `state`, `prediction`: At step `index`, and what the model said there.
        """
        pred_x0, _ = self.sampler.predict(
            state.latents, prediction.output, self.steps[index]
        )
        return State(pred_x0, state.memory, add(state.charge, prediction.charge))

    def noised(self, latents: Latents, noise: Latents, index: Int[Array, ""]) -> State:
        """Noises clean `latents` to step `index` by `noise`, to go on from there."""
        return self.state(self.sampler.add_noise(latents, noise, self.steps[index]))

    @jax.named_scope("draftx.step")
    def step(self, state: State, index: Int[Array, ""]) -> tuple[State, Prediction]:
        """Takes step `index` from a `state`; gives the next, and the prediction."""
        prediction = self.predict(state, index)
        return self.advance(state, prediction, index), prediction


def run(
    chain: Chain,
    state: State,
    start: int | Int[Array, ""],
    stop: int | Int[Array, ""],
    *,
    checkpoint: bool = False,
) -> State:
    """Runs the steps from `start` to before `stop`.

    **Arguments:**

    - `chain`: Its arrays are what gradients are taken with respect to.
    - `state`: Before step `start`.
    - `start`, `stop`: Whole numbers or traced ones; with the latter the steps cannot be
        differentiated, being as many as the numbers say.
    - `checkpoint`: Whether the backward pass is left one state a step, and computes
        the step again.
    """
    if isinstance(start, int) and isinstance(stop, int) and stop - start <= 1:
        # Without a loop, nothing before the first adapted layer is differentiated.
        step = eqx.filter_checkpoint(Chain.step) if checkpoint else Chain.step
        return step(chain, state, jnp.asarray(start))[0] if stop > start else state
    # A loop's body is a program of its own: no need for a barrier.
    step = Chain.step
    if checkpoint:
        step = eqx.filter_checkpoint(Chain.step, prevent_cse=False)
    return lax.fori_loop(start, stop, lambda i, state: step(chain, state, i)[0], state)


def run_frozen(
    chain: Chain, state: State, start: int | Int[Array, ""], stop: int | Int[Array, ""]
) -> State:
    """Runs the steps from `start` to before `stop` as constants.

    **Arguments:**

    - `chain`, `state`: As for `run`; no gradient passes through either.
    - `start`, `stop`: Whole numbers or traced ones.
    """
    # Stopping the gradient of what goes in, not of what comes out: nothing of these
    # steps is then linearized, let alone kept.
    state = run(chain.frozen(), stop_gradient(state), start, stop)
    return stop_gradient(state)


def run_truncated(
    chain: Chain,
    noise: Latents,
    truncation_steps: int | None = None,
    *,
    checkpoint: bool = True,
) -> State:
    r"""Runs the whole chain, differentiable through its last $K$ steps: Algorithm 1.

    **Arguments:**

    - `chain`: The model, its sampler and its steps.
    - `noise`: $x_T$, unit-variance.
    - `truncation_steps`: $K$, from 0 (a constant) to $T$ (also the gradient with
        respect to `noise`). `None` is $T$.
    - `checkpoint`: Whether one state a step is kept, and the step computed again.

    **Returns:**

    The state after the last step; its latents are $x_0$, float32.
    """
    total = len(chain)
    first = 0 if truncation_steps is None else total - truncation_steps
    state = chain.begin(noise)
    if first > 0:
        state = run_frozen(chain, state, 0, first)
    return run(chain, state, first, total, checkpoint=checkpoint)


def record(chain: Chain, noise: Latents) -> Record:
    """Runs the whole chain as a constant, and remembers how it went.

    **Arguments:**

    - `chain`: The model, its sampler and its steps.
    - `noise`: $x_T$, unit-variance.
    """
    chain = chain.frozen()

    def body(state: State, index: Int[Array, ""]):
        following, prediction = chain.step(state, index)
        return following, (state, prediction)

    state = chain.begin(lax.stop_gradient(noise))
    end, (states, predictions) = lax.scan(body, state, jnp.arange(len(chain)))
    return stop_gradient(Record(states, predictions, end))
