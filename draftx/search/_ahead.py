"""Looking ahead from where chains stand: what searches along a chain share."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import check_is
from .._compilation import compiled
from .._custom_types import Images, Latents
from .._mesh import everywhere, mesh_of, to_mesh
from ..diffusion import Chain, Prediction, State
from ..pipeline import Pipeline
from ._setup import Question
from .values import AbstractValue, Outlook


class Ahead(eqx.Module):
    """Holds where chains stand, and what the model says there, if it was asked."""

    state: State
    prediction: Prediction | None

    def predicted(self, chain: Chain, index: Int[Array, ""]) -> Prediction:
        """Says what the model says at step `index` of a `chain`."""
        if self.prediction is not None:
            return self.prediction
        return chain.predict(self.state, index)


def check_value(value: Any, pipeline: Pipeline, question: Question) -> Any:
    """Raises unless a value is one, and is good for what is asked.

    **Arguments:**

    - `value`: As its user gave it.
    - `pipeline`: On whose devices it is put.
    - `question`: What is asked for.
    """
    check_is("value", value, AbstractValue, "draftx.search.PosteriorMean()")
    batch = question.batch
    value.check(pipeline, batch.plan, batch.latents.shape)
    mesh = mesh_of(pipeline)
    return value if mesh is None else to_mesh(value, everywhere(mesh))


def stand(
    chain: Chain, state: State, index: Int[Array, ""], value: AbstractValue
) -> Ahead:
    """Stands at a step, and asks the model there if the value does.

    **Arguments:**

    - `chain`, `state`, `index`: Where.
    - `value`: That is going to look.
    """
    prediction = chain.predict(state, index) if value.needs_prediction else None
    return Ahead(state, prediction)


def look(
    question: Question,
    chain: Chain,
    ahead: Ahead,
    index: Int[Array, ""],
    value: AbstractValue,
) -> Float[Array, " batch"]:
    """Asks a value what it is worth to stand there.

    **Arguments:**

    - `question`: What images are wanted.
    - `chain`, `ahead`, `index`: Where the chains stand.
    - `value`: As it was given.
    """
    worth = value(Outlook(question, chain, ahead.state, index, ahead.prediction))
    batch = ahead.state.latents.shape[:1]
    if jnp.shape(worth) != batch:
        raise ValueError(
            f"`value` must give one number for each image, shape {batch}; "
            f"{type(value).__name__} gave shape {jnp.shape(worth)}."
        )
    return worth.astype(jnp.float32)


def advance(
    chain: Chain,
    ahead: Ahead,
    prediction: Prediction,
    index: Int[Array, ""],
    noise_key: PRNGKeyArray,
) -> State:
    """Takes a step with the noise of a key.

    **Arguments:**

    - `chain`, `ahead`, `prediction`, `index`: The step.
    - `noise_key`: In place of the chain's.
    """
    candidate = dataclasses.replace(chain, key=noise_key)
    return candidate.advance(ahead.state, prediction, index)


@compiled()
def jump(
    question: Question, ahead: Ahead, index: Int[Array, ""]
) -> tuple[Images, Latents, Float[Array, " batch"]]:
    """Draws the images that the latents of a step would become at once.

    **Arguments:**

    - `question`: What images are wanted.
    - `ahead`, `index`: Where the chains stand.
    """
    chain = question.chain()
    prediction = ahead.predicted(chain, index)
    jumped = chain.jump(ahead.state, prediction, index).latents
    images, rewards = question.judge(jumped)
    return images, jumped, rewards
