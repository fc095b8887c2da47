import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._autodiff import stop_gradient
from .._checks import check_is, not_negative
from .._compilation import compiled
from .._custom_types import Images, Latents, RealLike
from .._table import Rows, Table
from ..diffusion import Chain, Prediction, State
from ..episodes import count, image_spec
from ..io.checkpoints import check_checkpoints, Checkpoints
from ..layers import Remat
from ..pipeline import check_drawn, Pipeline, Sampling
from ..rewards import check_differentiable, Reward
from ._ahead import Ahead, jump
from ._result import SearchResult
from ._setup import ask, facts, Question
from ._steps import Naming, take_steps


def dps(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(eta=1.0),
    *,
    scale: RealLike = 1.0,
    normalize: bool = False,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> SearchResult:
    r"""Pushes every step up the gradient of the reward: diffusion posterior sampling.

    After the step that the model takes, the latents are moved by

    $$x_{t-1} \leftarrow x_{t-1} + \zeta\, \nabla_{x_t} r(\hat x_0(x_t)),$$

    the gradient of the reward of the image that $x_t$ would become in one jump, through
    the decoder and the UNet. One evaluation forward and one backward a step.

    **Arguments:**

    - `reward`: Differentiable.
    - `scale`: $\zeta$, at least 0; with 0 the images are those of `draftx.sample`. What
        is right depends on the reward: a few values have to be tried.
    - `normalize`: Whether the gradient of each image is divided by its root mean
        square, so that `scale` is how far a step moves a latent: about 0.1 then. The
        paper divides by the root of its squared distance, which a reward has not.
    - `pipeline`, `prompts`, `sampling`, `key`, `latents`: As for `draftx.sample`.
    - `checkpoints`: Where the search is saved, and goes on from when it is called
        again; a step of the chain is a step. `None` is nowhere.
    - `progress`: Whether a bar is shown.

    **Returns:**

    The images; of a search that was `stopped` those that the latents would become in
    one jump. The `history` lists the rewards of the images that were jumped to, step
    after step; the last are those of the images.

    ??? cite

        [Diffusion Posterior Sampling](https://arxiv.org/abs/2209.14687), algorithm 1
        with a reward in place of the squared distance to a measurement.
    """
    scale = not_negative("scale", scale)
    check_is("normalize", normalize, bool, "True")
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    check_checkpoints(checkpoints)
    table, total = Table.of(prompts), sampling.num_inference_steps
    start = time.perf_counter()
    question = ask(pipeline, reward, table, sampling, key=key, latents=latents)
    noise = question.batch.latents
    spec = image_spec(pipeline, noise.shape)
    check_differentiable(question.task.reward, spec, question.batch.features)

    def take_step(state: State, step: int):
        return _guide(question, state, jnp.asarray(step), jnp.asarray(scale), normalize)

    options = dict(sampling=sampling, scale=scale, normalize=normalize)
    taken = take_steps(
        take_step,
        _begin(question),
        total,
        Naming("dps", "num_inference_steps"),
        checkpoints=checkpoints,
        facts=facts("dps", pipeline, question, table, options),
        progress=progress,
        start=start,
    )
    history, done = taken.history, len(taken.history)
    if done < total:
        ahead = Ahead(taken.state, None)
        images, clean, rewards = jump(question, ahead, jnp.asarray(done))
    else:
        clean = taken.state.latents
        images, rewards = _judge(question, clean)
    budget = count(
        len(table),
        guided=question.is_guided,
        forwards=done + (done < total),
        backwards=done,
        queries=done + 1,
        seconds=taken.seconds + time.perf_counter() - start,
    )
    check_drawn(pipeline, clean, images)
    history = np.stack([*history, np.asarray(rewards)])
    return SearchResult(images, rewards, noise, clean, history, budget, taken.stopped)


@compiled()
def _begin(question: Question) -> State:
    return question.chain().begin(question.batch.latents)


@compiled()
def _judge(question: Question, clean: Latents) -> tuple[Images, Float[Array, " batch"]]:
    return question.judge(clean)


@compiled()
def _guide(
    question: Question,
    state: State,
    index: Int[Array, ""],
    scale: Float[Array, ""],
    normalize: bool,
) -> tuple[State, Float[Array, " batch"]]:
    """The state after a step, and the rewards of what it was jumped to before it."""
    question = stop_gradient(question)
    chain = question.chain()
    gradient, prediction, rewards = gradient_of_jump(question, chain, state, index)
    if normalize:
        square = jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True)
        # Where there is no gradient there is nothing to follow.
        gradient = gradient / jnp.sqrt(jnp.where(square > 0, square, 1))
    following = chain.advance(state, prediction, index)
    latents = following.latents + scale * gradient
    return dataclasses.replace(following, latents=latents), rewards


def gradient_of_jump(
    question: Question, chain: Chain, state: State, index: Int[Array, ""]
) -> tuple[Latents, Prediction, Float[Array, " batch"]]:
    r"""Computes $\nabla_{x_t} r(\hat x_0(x_t))$, the prediction and the rewards.

    **Arguments:**

    - `question`: Who judges.
    - `chain`, `state`, `index`: Where $x_t$ is.
    """

    def worth(latents: Latents):
        there = dataclasses.replace(state, latents=latents)
        prediction = chain.predict(there, index)
        jumped = chain.jump(there, prediction, index).latents
        decode = eqx.filter_checkpoint(question.task.pipeline.decode)
        images = decode(jumped, remat=Remat.BLOCK)
        rewards = eqx.filter_checkpoint(question.score)(images)
        return jnp.sum(rewards), (prediction, rewards)

    gradient, (prediction, rewards) = jax.grad(worth, has_aux=True)(state.latents)
    return gradient, prediction, rewards
