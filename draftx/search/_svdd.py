import time
from typing import Any

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from .._checks import check_is, check_whole, not_negative
from .._compilation import compiled
from .._custom_types import Images, Latents, RealLike, WholeLike
from .._table import Rows, Table
from ..diffusion import random_steps
from ..episodes import count
from ..io.checkpoints import check_checkpoints, Checkpoints
from ..pipeline import check_drawn, Pipeline, Sampling
from ..rewards import Reward
from ._ahead import advance, Ahead, check_value, jump, look, stand
from ._particles import take
from ._result import SearchResult
from ._setup import ask, facts, Question
from ._steps import Naming, take_steps
from .values import AbstractValue, PosteriorMean


def svdd(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(eta=1.0),
    *,
    num_candidates: WholeLike = 8,
    temperature: RealLike = 0.0,
    value: AbstractValue = PosteriorMean(),
    select_last: bool = True,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> SearchResult:
    r"""Draws every step several times and takes the best: soft value-based decoding.

    Each step draws $M$ candidates for $x_{t-1}$ and asks a value what each is worth.
    One of them is taken, for each image by itself, with probabilities
    $\mathrm{softmax}(v / \alpha)$. Needs no gradient of anything.

    With `PosteriorMean()` a candidate costs what a step does: the prediction that it
    needs serves the next step as well. With a `LearnedValue` an image costs as many
    UNet evaluations as without a search.

    **Arguments:**

    - `reward`: Need not be differentiable.
    - `num_candidates`: $M$. With 1 the images are those of `draftx.sample`.
    - `temperature`: $\alpha$; 0 takes the candidate with the largest value.
    - `value`: What candidates are worth: `PosteriorMean()`, the reward of the image
        that each would become in one jump, or what [`draftx.search.fit_value`][] has
        learned, or one's own.
    - `select_last`: Whether the last step is drawn several times too, where it adds
        noise, and taken by the reward itself. In the authors' code it is not.
    - `pipeline`, `prompts`, `sampling`, `key`, `latents`: As for `draftx.sample`. The
        steps must add noise: `eta` above 0, or a sampler that does so by itself.
    - `checkpoints`: Where the search is saved, and goes on from when it is called
        again; a step of the chain is a step. `None` is nowhere.
    - `progress`: Whether a bar is shown.

    **Returns:**

    The images; of a search that was `stopped` those that the candidates taken last
    would become in one jump. The `history` lists what the candidates that were taken
    are worth, step after step; the last are the rewards of the images.

    ??? cite

        [SVDD](https://arxiv.org/abs/2408.08252), algorithm 1: SVDD-PM by default,
        SVDD-MC with a learned value.
    """
    num_candidates = check_whole("num_candidates", num_candidates)
    temperature = not_negative("temperature", temperature)
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    check_is("select_last", select_last, bool, "True")
    check_checkpoints(checkpoints)
    table, total = Table.of(prompts), sampling.num_inference_steps
    start = time.perf_counter()
    question = ask(pipeline, reward, table, sampling, key=key, latents=latents)
    value = check_value(value, pipeline, question)
    random = random_steps(question.batch.plan.sampler, total, sampling.eta)
    # Candidates of a step without noise would all be the same.
    last = num_candidates if select_last and total - 1 in random else 1

    def take_step(ahead: Ahead, step: int):
        choice = _Choice(num_candidates, temperature, jnp.asarray(step))
        return _advance(question, ahead, choice, value)

    options = dict(
        sampling=sampling,
        num_candidates=num_candidates,
        temperature=temperature,
        value=value,
        select_last=select_last,
    )
    taken = take_steps(
        take_step,
        _begin(question, value),
        total - 1,
        Naming("svdd", "num_inference_steps"),
        checkpoints=checkpoints,
        facts=facts("svdd", pipeline, question, table, options),
        progress=progress,
        start=start,
    )
    history, done = taken.history, len(taken.history)
    if done < total - 1:
        last = 1
        images, clean, rewards = jump(question, taken.state, jnp.asarray(done))
    else:
        choice = _Choice(last, temperature, jnp.asarray(done))
        images, clean, rewards = _finish(question, taken.state, choice)
        history = [*history, np.asarray(rewards)]
    # Each latent that was compared, or each that was gone on from.
    compared = num_candidates if value.needs_prediction else 1
    asked = num_candidates if value.asks_reward else 0
    budget = count(
        len(table),
        guided=question.is_guided,
        forwards=1 + compared * done,
        queries=asked * done + last,
        seconds=taken.seconds + time.perf_counter() - start,
    )
    check_drawn(pipeline, clean, images)
    noise = question.batch.latents
    return SearchResult(
        images, rewards, noise, clean, np.stack(history), budget, taken.stopped
    )


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
        return take((candidates, rewards), chosen)

    def _keys(self, question: Question) -> tuple[PRNGKeyArray, PRNGKeyArray]:
        batch = question.batch
        others, choice = jr.split(jr.fold_in(batch.key, batch.plan.num_inference_steps))
        return others, choice


@compiled()
def _begin(question: Question, value: AbstractValue) -> Ahead:
    chain = question.chain()
    return stand(chain, chain.begin(question.batch.latents), jnp.asarray(0), value)


@compiled()
def _advance(
    question: Question, ahead: Ahead, choice: _Choice, value: AbstractValue
) -> tuple[Ahead, Float[Array, " batch"]]:
    """Takes a step, one candidate after the other."""
    chain, following = question.chain(), choice.index + 1
    prediction = ahead.predicted(chain, choice.index)

    def look_ahead(noise_key: PRNGKeyArray):
        state = advance(chain, ahead, prediction, choice.index, noise_key)
        candidate = stand(chain, state, following, value)
        return candidate, look(question, chain, candidate, following, value)

    candidates, worth = lax.map(look_ahead, choice.noise_keys(question))
    return choice.take(question, candidates, worth)


@compiled()
def _finish(
    question: Question, ahead: Ahead, choice: _Choice
) -> tuple[Images, Latents, Float[Array, " batch"]]:
    """Takes the last step."""
    chain = question.chain()
    prediction = ahead.predicted(chain, choice.index)

    def draw(noise_key: PRNGKeyArray):
        clean = advance(chain, ahead, prediction, choice.index, noise_key).latents
        images, rewards = question.judge(clean)
        return (images, clean), rewards

    drawn, rewards = lax.map(draw, choice.noise_keys(question))
    (images, clean), rewards = choice.take(question, drawn, rewards)
    return images, clean, rewards
