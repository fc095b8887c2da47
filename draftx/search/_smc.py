import time
from typing import Any, get_args, Literal, TypeAlias

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from .._checks import check_is, check_whole, not_negative, positive, within
from .._compilation import compiled
from .._custom_types import Latents, RealLike, WholeLike
from .._table import Rows, Table
from ..diffusion import random_steps
from ..episodes import count
from ..io.checkpoints import check_checkpoints, Checkpoints
from ..pipeline import check_drawn, Pipeline, Sampling
from ..rewards import Reward
from ._ahead import advance, Ahead, check_value, jump, look, stand
from ._particles import normalized, Particles, Potential, Rules, take
from ._result import SearchResult
from ._setup import ask, facts, Question
from ._steps import Naming, take_steps
from .values import AbstractValue, PosteriorMean


Kept: TypeAlias = Literal["best", "draw"]


def smc(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(eta=1.0),
    *,
    num_particles: WholeLike = 8,
    temperature: RealLike = 1.0,
    value: AbstractValue = PosteriorMean(),
    potential: Potential = "difference",
    tempering: RealLike = 0.0,
    resample_below: RealLike = 0.5,
    keep: Kept = "best",
    key: PRNGKeyArray | None = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> SearchResult:
    r"""Draws several chains for each image together: sequential Monte Carlo.

    Before every step the $N$ chains of an image, its particles, are weighed by what a
    value $v$ says of them. When the weights have become uneven the particles are drawn
    anew by their weights: the bad ones end, the good ones go on several times. With
    many particles their images are those of the model, weighed by $e^{r / \alpha}$.

    **Arguments:**

    - `reward`: Need not be differentiable.
    - `num_particles`: $N$. With 1 the images are those of `draftx.sample`.
    - `temperature`: $\alpha$, above 0, in the units of the reward.
    - `value`: As for `draftx.search.svdd`.
    - `potential`: What a particle is weighed by each time: `"difference"`, the gain
        $e^{(v_t - v_{t+1}) / \alpha}$; `"max"`, the largest value until then,
        $e^{\max_s v_s / \alpha}$; `"sum"`, $e^{\sum_s v_s / \alpha}$. The last weight
        makes up for whichever it was.
    - `tempering`: $\gamma$ of DAS: after $k$ steps only the part
        $\min(1, (1 + \gamma)^k - 1)$ of a value counts. 0 is all of it from the start.
    - `resample_below`: Particles are drawn anew where their effective number is below
        this part of $N$, in $(0, 1]$; 1 is before every step.
    - `keep`: Which particle's image is given: `"best"`, that with the largest reward;
        `"draw"`, one drawn by the last weights.
    - `pipeline`, `prompts`, `sampling`, `key`: As for `draftx.sample`, with a noise to
        start from for each particle, those of the first as there. The steps must add
        noise.
    - `checkpoints`: Where the search is saved, and goes on from when it is called
        again; a step of the chain is a step. `None` is nowhere.
    - `progress`: Whether a bar is shown.

    **Returns:**

    The images; of a search that was `stopped` those that the heaviest particles would
    become in one jump. The `history` lists the mean value of the particles, step after
    step; the last is their mean reward.

    ??? cite

        SMC as a baseline of [SVDD](https://arxiv.org/abs/2408.08252), there among all
        images of a batch, here among the particles of each;
        [FK steering](https://arxiv.org/abs/2501.06848), the potentials;
        [DAS](https://arxiv.org/abs/2501.05803), the tempering, without its gradient.
    """
    num_particles = check_whole("num_particles", num_particles)
    temperature = positive("temperature", temperature)
    tempering = not_negative("tempering", tempering)
    resample_below = within("resample_below", resample_below, "(0, 1]")
    rules = Rules(num_particles, temperature, potential, tempering, resample_below)
    if keep not in get_args(Kept):
        raise ValueError(f"`keep` must be one of {list(get_args(Kept))}; got {keep!r}.")
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    check_checkpoints(checkpoints)
    table, total = Table.of(prompts), sampling.num_inference_steps
    start = time.perf_counter()
    question = ask(pipeline, reward, table, sampling, key=key, latents=None)
    value = check_value(value, pipeline, question)
    random_steps(question.batch.plan.sampler, total, sampling.eta)

    def take_step(particles: Particles, step: int):
        return _advance(question, particles, rules, jnp.asarray(step), value)

    options = dict(
        sampling=sampling,
        num_particles=num_particles,
        temperature=temperature,
        potential=potential,
        tempering=tempering,
        resample_below=resample_below,
        value=value,
    )
    taken = take_steps(
        take_step,
        _begin(question, rules, value),
        total - 1,
        Naming("smc", "num_inference_steps"),
        checkpoints=checkpoints,
        facts=facts("smc", pipeline, question, table, options),
        progress=progress,
        start=start,
    )
    history, done = taken.history, len(taken.history)
    asked = num_particles * (1 + done) if value.asks_reward else 0
    forwards, images_made = num_particles * (1 + done), num_particles
    if done < total - 1:
        heaviest, origin = _heaviest(taken.state)
        images, clean, rewards = jump(question, heaviest, jnp.asarray(done))
        images_made = 1
        if not value.needs_prediction:
            forwards = num_particles * done + 1
    else:
        ended = _finish(question, taken.state, rules, jnp.asarray(done))
        particles, (all_images, all_clean), all_rewards = ended
        history = [*history, np.asarray(all_rewards).mean(axis=0)]
        chosen = _choose(question, particles, all_rewards, keep)
        ends = (all_images, all_clean, all_rewards)
        (images, clean, rewards), origin = take((ends, particles.origin), chosen)
    budget = count(
        len(table),
        guided=question.is_guided,
        forwards=forwards,
        images=images_made,
        queries=asked + images_made,
        seconds=taken.seconds + time.perf_counter() - start,
    )
    check_drawn(pipeline, clean, images)
    noise = take(_starts(question, num_particles), origin)
    return SearchResult(
        images, rewards, noise, clean, np.stack(history), budget, taken.stopped
    )


def _keys(question: Question) -> tuple[PRNGKeyArray, PRNGKeyArray, PRNGKeyArray]:
    """For the noise of the steps, for that of the start, and for drawing anew."""
    batch = question.batch
    key = jr.fold_in(batch.key, batch.plan.num_inference_steps)
    noise, start, anew = jr.split(key, 3)
    return noise, start, anew


def _noise_keys(question: Question, num_particles: int) -> Key[Array, " particles"]:
    """Those of the particles; the first is that of `draftx.sample`."""
    noise, _, _ = _keys(question)
    others = jr.split(noise, num_particles - 1)
    return jnp.stack([question.batch.key, *others])


def _starts(
    question: Question, num_particles: int
) -> Float[Array, "particles batch height width channels"]:
    """The starting noise of the particles; that of the first is that of the batch."""
    first = question.batch.latents
    _, start, _ = _keys(question)
    others = jr.normal(start, (num_particles - 1, *first.shape), first.dtype)
    return jnp.concatenate([first[None], others])


@compiled()
def _begin(question: Question, rules: Rules, value: AbstractValue) -> Particles:
    chain, index = question.chain(), jnp.asarray(0)

    def begin(noise: Latents):
        ahead = stand(chain, chain.begin(noise), index, value)
        return ahead, look(question, chain, ahead, index, value)

    ahead, worth = lax.map(begin, _starts(question, rules.num_particles))
    particles = Particles.begin(ahead, rules).weighed(rules, worth, index)
    return particles.drawn_anew(rules, _anew(question, index))


@compiled()
def _advance(
    question: Question,
    particles: Particles,
    rules: Rules,
    index: Int[Array, ""],
    value: AbstractValue,
) -> tuple[Particles, Float[Array, " batch"]]:
    """Takes a step, one particle after the other."""
    chain, following = question.chain(), index + 1

    def one(args: Any):
        ahead, noise_key = args
        prediction = ahead.predicted(chain, index)
        state = advance(chain, ahead, prediction, index, noise_key)
        ahead = stand(chain, state, following, value)
        return ahead, look(question, chain, ahead, following, value)

    noise_keys = _noise_keys(question, rules.num_particles)
    ahead, worth = lax.map(one, (particles.ahead, noise_keys))
    moved = eqx.tree_at(lambda p: p.ahead, particles, ahead)
    weighed = moved.weighed(rules, worth, following)
    anew = weighed.drawn_anew(rules, _anew(question, following))
    return anew, jnp.mean(worth, axis=0)


@compiled()
def _finish(
    question: Question, particles: Particles, rules: Rules, index: Int[Array, ""]
) -> tuple[Particles, Any, Float[Array, "particles batch"]]:
    """Takes the last step of all particles."""
    chain = question.chain()

    def draw(args: Any):
        ahead, noise_key = args
        prediction = ahead.predicted(chain, index)
        clean = advance(chain, ahead, prediction, index, noise_key).latents
        images, rewards = question.judge(clean)
        return (images, clean), rewards

    noise_keys = _noise_keys(question, rules.num_particles)
    drawn, rewards = lax.map(draw, (particles.ahead, noise_keys))
    return particles.rewarded(rules, rewards), drawn, rewards


def _anew(question: Question, index: Int[Array, ""]) -> PRNGKeyArray:
    _, _, anew = _keys(question)
    return jr.fold_in(anew, index)


def _choose(
    question: Question,
    particles: Particles,
    rewards: Float[Array, "particles batch"],
    keep: Kept,
) -> Int[Array, " batch"]:
    """The particle of each image that is given, of those at their end."""
    if keep == "best":
        known = jnp.where(jnp.isnan(rewards), -jnp.inf, rewards)
        return jnp.argmax(known, axis=0)
    weights = normalized(particles.log_weights)
    key = _anew(question, jnp.asarray(question.batch.plan.num_inference_steps))
    return jr.categorical(key, jnp.log(weights), axis=0)


def _heaviest(particles: Particles) -> tuple[Ahead, Int[Array, " batch"]]:
    """Where the heaviest particle of each image stands, and its starting noise."""
    chosen = jnp.argmax(particles.log_weights, axis=0)
    return take((particles.ahead, particles.origin), chosen)
