import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from .._checks import check_is, check_whole, not_negative
from .._compilation import compiled
from .._custom_types import Images, Latents, RealLike, WholeLike
from .._table import Rows, Table
from ..diffusion import Chain, Prediction, random_steps, State
from ..episodes import count
from ..io.checkpoints import check_checkpoints, Checkpoints
from ..pipeline import check_drawn, Pipeline, Sampling
from ..rewards import Reward
from ._result import SearchResult
from ._setup import ask, facts, Question
from ._steps import take_steps


def svdd(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(eta=1.0),
    *,
    num_candidates: WholeLike = 8,
    temperature: RealLike = 0.0,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> SearchResult:
    r"""Draws every step several times and takes the best: soft value-based decoding.

    Each step draws $M$ candidates for $x_{t-1}$ and scores the image that each would
    become in one jump, $r(\hat x_0(x_{t-1}))$, in place of its value. One of them is
    taken with probabilities $\mathrm{softmax}(r / \alpha)$. Needs no gradient of
    anything. The prediction that the jump needs serves the next step as well.

    **Arguments:**

    - `reward`: Need not be differentiable.
    - `num_candidates`: $M$. With 1 the images are those of `draftx.sample`.
    - `temperature`: $\alpha$; 0 takes the candidate with the largest reward.
    - `pipeline`, `prompts`, `sampling`, `key`, `latents`: As for `draftx.sample`. The
        steps must add noise: `eta` above 0, or a sampler that does so by itself.
    - `checkpoints`: Where the search is saved, and goes on from when it is called
        again; a step of the chain is a step. `None` is nowhere.
    - `progress`: Whether a bar is shown.

    **Returns:**

    The images; of a search that was `stopped` those that the candidates taken last
    would become in one jump. The `history` lists the scores of the candidates that were
    taken, step after step; the last are those of the images.

    ??? cite

        [SVDD](https://arxiv.org/abs/2408.08252), algorithm 1, as SVDD-PM.
    """
    num_candidates = check_whole("num_candidates", num_candidates)
    temperature = not_negative("temperature", temperature)
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    check_checkpoints(checkpoints)
    table, total = Table.of(prompts), sampling.num_inference_steps
    start = time.perf_counter()
    question = ask(pipeline, reward, table, sampling, key=key, latents=latents)
    random = random_steps(question.batch.plan.sampler, total, sampling.eta)
    # Candidates of a step without noise would all be the same.
    last = num_candidates if total - 1 in random else 1

    def take_step(ahead: _Ahead, step: int):
        choice = _Choice(num_candidates, temperature, jnp.asarray(step))
        return _advance(question, ahead, choice)

    options = dict(
        sampling=sampling, num_candidates=num_candidates, temperature=temperature
    )
    taken = take_steps(
        take_step,
        _begin(question),
        total - 1,
        name="svdd",
        argument="num_inference_steps",
        checkpoints=checkpoints,
        facts=facts("svdd", pipeline, question, table, options),
        progress=progress,
        start=start,
    )
    history, done = taken.history, len(taken.history)
    if done < total - 1:
        last = 1
        images, clean, rewards = _jump(question, taken.state, jnp.asarray(done))
    else:
        choice = _Choice(last, temperature, jnp.asarray(done))
        images, clean, rewards = _finish(question, taken.state, choice)
        history = [*history, np.asarray(rewards)]
    budget = count(
        len(table),
        guided=question.is_guided,
        forwards=1 + num_candidates * done,
        queries=num_candidates * done + last,
        seconds=taken.seconds + time.perf_counter() - start,
    )
    check_drawn(pipeline, clean, images)
    noise = question.batch.latents
    return SearchResult(
        images, rewards, noise, clean, np.stack(history), budget, taken.stopped
    )


class _Ahead(eqx.Module):
    """Holds where the chains stand, and what the model says there."""

    state: State
    prediction: Prediction


class _Choice(eqx.Module):
    """Says how one of the candidates of a step is taken."""

    num_candidates: int = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    index: Int[Array, ""]

    def noise_keys(self, question: Question) -> Key[Array, " candidates"]:
        """Makes the keys of the candidates; the first is that of `draftx.sample`."""
        others, _ = self._keys(question)
        keys = jr.split(others, self.num_candidates - 1)
        return jnp.stack([question.batch.key, *keys])

    def take(
        self,
        question: Question,
        candidates: Any,
        rewards: Float[Array, "candidates batch"],
    ) -> tuple[Any, Float[Array, " batch"]]:
        """Takes a candidate for each image, of every array of a tree, and its score."""
        # What is not a number is not to be taken.
        known = jnp.where(jnp.isnan(rewards), -jnp.inf, rewards)
        if self.temperature == 0:
            chosen = jnp.argmax(known, axis=0)
        else:
            _, choice_key = self._keys(question)
            logits = (known - jnp.max(known, axis=0, keepdims=True)) / self.temperature
            key = jr.fold_in(choice_key, self.index)
            chosen = jr.categorical(key, logits, axis=0)
        taken = lambda x: x[chosen, jnp.arange(len(chosen))]
        return jax.tree.map(taken, candidates), taken(rewards)

    def _keys(self, question: Question) -> tuple[PRNGKeyArray, PRNGKeyArray]:
        batch = question.batch
        others, choice = jr.split(jr.fold_in(batch.key, batch.plan.num_inference_steps))
        return others, choice


@compiled()
def _begin(question: Question) -> _Ahead:
    chain = question.chain()
    start = chain.begin(question.batch.latents)
    return _Ahead(start, chain.predict(start, jnp.asarray(0)))


@compiled()
def _advance(
    question: Question, ahead: _Ahead, choice: _Choice
) -> tuple[_Ahead, Float[Array, " batch"]]:
    """Takes a step, one candidate after the other."""
    chain, following = question.chain(), choice.index + 1

    def look_ahead(noise_key: PRNGKeyArray):
        state = _step(chain, ahead, choice.index, noise_key)
        candidate = _Ahead(state, chain.predict(state, following))
        _, _, rewards = _jump(question, candidate, following)
        return candidate, rewards

    candidates, rewards = lax.map(look_ahead, choice.noise_keys(question))
    return choice.take(question, candidates, rewards)


def _step(chain: Chain, ahead: _Ahead, index, noise_key: PRNGKeyArray) -> State:
    candidate = dataclasses.replace(chain, key=noise_key)
    return candidate.advance(ahead.state, ahead.prediction, index)


@compiled()
def _jump(
    question: Question, ahead: _Ahead, index: Int[Array, ""]
) -> tuple[Images, Latents, Float[Array, " batch"]]:
    """The images that the latents of a step would become at once."""
    jumped = question.chain().jump(ahead.state, ahead.prediction, index).latents
    images = question.task.pipeline.decode(jumped)
    return images, jumped, question.score(images)


@compiled()
def _finish(
    question: Question, ahead: _Ahead, choice: _Choice
) -> tuple[Images, Latents, Float[Array, " batch"]]:
    """Takes the last step."""
    chain = question.chain()

    def draw(noise_key: PRNGKeyArray):
        clean = _step(chain, ahead, choice.index, noise_key).latents
        images = question.task.pipeline.decode(clean)
        return (images, clean), question.score(images)

    drawn, rewards = lax.map(draw, choice.noise_keys(question))
    (images, clean), rewards = choice.take(question, drawn, rewards)
    return images, clean, rewards
