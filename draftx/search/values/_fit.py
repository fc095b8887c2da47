import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import check_is, check_whole, positive
from ..._custom_types import RealLike, WholeLike
from ..._mesh import to_host
from ..._table import Rows, Table
from ...episodes import Budget, count
from ...io.checkpoints import check_checkpoints, Checkpoints
from ...pipeline import check_drawn, Pipeline, Sampling, spread
from ...rewards import Reward
from .._setup import ask, draw, facts, Question
from .._steps import Naming, take_steps
from ._learned import LearnedValue, mean_embedding
from ._network import ValueNetwork, ValueNetworkConfig
from ._pictures import check_images, encode
from ._regression import begin, explain, learn, Learner, optimizer_of, Pairs


# Of the images, what the value is measured on instead of fitted to.
_HELD_OUT = 8


@dataclasses.dataclass(frozen=True)
class ValueFit:
    """Holds a value, and how it was fitted.

    **Arguments:**

    - `value`: For `draftx.search.svdd` and `smc`, and for `draftx.search.save_value`.
    - `rewards`: Of the images.
    - `history`: The mean squared error of each training step, over the variance of the
        rewards: 1 for who says their mean.
    - `explained`: What part of the variance it explains at each step of the chain, of
        the rewards of an eighth of the images, the last, that it was not fitted to: 1
        for who knows all.
    - `budget`: What it has cost, once for all searches to come.
    - `stopped`: The name of the signal that ended it early, or `None`.
    """

    value: LearnedValue
    rewards: Float[np.ndarray, " images"]
    history: Float[np.ndarray, " train_steps"]
    explained: Float[np.ndarray, " steps"]
    budget: Budget
    stopped: str | None = None


def fit_value(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(eta=1.0),
    *,
    images: Any = None,
    num_images: WholeLike = 512,
    num_train_steps: WholeLike = 500,
    batch_size: WholeLike = 64,
    learning_rate: RealLike = 2e-3,
    network: ValueNetworkConfig | None = None,
    key: PRNGKeyArray | None = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> ValueFit:
    r"""Fits a network to what noised latents will be worth, by least squares.

    Images are drawn, or given, and rewarded. Each training step noises some of their
    latents to steps of the chain, and lowers

    $$\mathbb{E}_{x_0, t, \epsilon}
      \bigl[(v(\alpha_t x_0 + \sigma_t \epsilon, t, c) - r(x_0))^2\bigr],$$

    whose least is at $v(x_t, t, c) = \mathbb{E}[r(x_0) \mid x_t, c]$. Adam, and an
    average of its weights as the result.

    **Arguments:**

    - `pipeline`, `prompts`, `key`: As for `draftx.sample`; prompts in their order, over
        and over.
    - `reward`: Need not be differentiable.
    - `sampling`: Of the chains that the value is for.
    - `images`: `[batch, height, width, 3]` in $[0, 1]$, one for each row of `prompts`,
        instead of those that the model draws. They cost no UNet evaluation, but a value
        knows only what it has seen.
    - `num_images`: How many are drawn, at least 3. More help most: with few the network
        learns them by heart.
    - `num_train_steps`: Of the network.
    - `batch_size`: Of both, images and training steps.
    - `learning_rate`: Of Adam.
    - `network`: The sizes. `None` is 16 channels and three blocks, for latents of the
        pipeline, told the text embeddings.
    - `checkpoints`: Where it is saved, and goes on from when it is called again, with
        more training steps too; a batch of images is a step as well. `None` is nowhere.
    - `progress`: Whether a bar is shown.

    ??? cite

        [SVDD](https://arxiv.org/abs/2408.08252), there SVDD-MC. The authors' code has
        pictures of a data set, this by default those of the model itself; that the
        network is told the prompt is a choice of this package.
    """
    num_images = check_whole("num_images", num_images, least=3)
    num_train_steps = check_whole("num_train_steps", num_train_steps)
    batch_size = check_whole("batch_size", batch_size)
    learning_rate = positive("learning_rate", learning_rate)
    check_checkpoints(checkpoints)
    start = time.perf_counter()
    table = Table.of(prompts)
    question = ask(pipeline, reward, table, sampling, key=key, latents=None)
    shape = question.batch.latents.shape
    if images is not None:
        images = check_images(images, pipeline, shape)
        num_images = len(images)
    sizes = _sizes(network, pipeline, shape)
    size = min(batch_size, num_images)
    draws = -(-num_images // size)
    fitted = num_images - max(1, num_images // _HELD_OUT)
    # Not those of the question, which may be on other devices than a small network is.
    keys = jr.split(jr.key(0) if key is None else key, 3)
    plan, optimizer = question.batch.plan, optimizer_of(learning_rate)
    steps = jax.tree.map(lambda x: jnp.asarray(to_host(x)), plan.steps())
    pairs = Pairs(plan.sampler, steps, _texts(question, num_images, sizes))
    first = ValueNetwork(sizes, key=keys[0])
    learner = Learner(
        latents=jnp.zeros((num_images, *shape[1:]), jnp.float32),
        rewards=jnp.zeros(num_images, jnp.float32),
        network=first,
        average=first,
        opt_state=begin(optimizer, first),
    )

    def take_step(learner: Learner, step: int):
        if step < draws:
            rows = np.arange(step * size, (step + 1) * size) % num_images
            if images is None:
                part = _part(question, rows % len(table), jr.fold_in(keys[1], step))
                pictures, clean, rewards = draw(part)
                check_drawn(pipeline, clean, pictures)
            else:
                clean, rewards = encode(question, images[rows], rows)
            rewards = jnp.asarray(to_host(rewards))
            return learner.seen(rows, jnp.asarray(to_host(clean)), rewards), rewards
        if step == draws:
            _check_rewards(np.asarray(learner.rewards[:fitted]))
        learner, error = learn(
            learner, pairs, jr.fold_in(keys[2], step), optimizer, (fitted, size)
        )
        return learner, error[None]

    options = dict(
        sampling=sampling,
        images=images,
        num_images=num_images,
        batch_size=batch_size,
        learning_rate=learning_rate,
        network=sizes,
    )
    taken = take_steps(
        take_step,
        learner,
        draws + num_train_steps,
        Naming(
            "fit_value",
            f"num_train_steps + {draws}",
            lambda step: "reward" if step < draws else "error",
        ),
        checkpoints=checkpoints,
        facts=facts("fit_value", pipeline, question, table, options),
        progress=progress,
        start=start,
    )
    learner, done = taken.state, len(taken.history)
    known = fitted if done >= draws else min(done * size, num_images)
    rewards = np.asarray(learner.rewards)
    value = LearnedValue(
        learner.average,
        jnp.mean(learner.rewards[:known]),
        jnp.std(learner.rewards[:known]),
        tuple(np.asarray(pairs.steps.timestep).tolist()),
        (shape[1], shape[2], shape[3]),
        plan.sampler.config,
    )
    drawn = min(done, draws) * size
    budget = count(
        drawn,
        guided=question.is_guided,
        forwards=0 if images is not None else sampling.num_inference_steps,
        seconds=taken.seconds + time.perf_counter() - start,
    )
    return ValueFit(
        value,
        rewards,
        np.asarray([x for row in taken.history[draws:] for x in row], np.float32),
        np.asarray(explain(learner, pairs, keys[2], fitted)),
        budget,
        taken.stopped,
    )


def _sizes(
    given: ValueNetworkConfig | None, pipeline: Pipeline, shape: tuple[int, ...]
) -> ValueNetworkConfig:
    features = pipeline.text_encoder.config.hidden_size
    if given is None:
        given = ValueNetworkConfig(in_channels=shape[-1], text_features=features)
    check_is("network", given, ValueNetworkConfig, "draftx.search.ValueNetworkConfig()")
    if given.in_channels != shape[-1] or given.text_features not in (0, features):
        raise ValueError(
            f"`network` must have `in_channels` {shape[-1]}, those of the latents, and "
            f"`text_features` {features}, those of the text encoder, or 0; got "
            f"{given.in_channels} and {given.text_features}."
        )
    return given


def _texts(
    question: Question, num_images: int, sizes: ValueNetworkConfig
) -> Float[Array, "images features"] | None:
    if not sizes.text_features:
        return None
    conditioning = question.batch.conditioning
    pipeline = question.task.pipeline
    told = pipeline.embed(conditioning.input_ids, conditioning.embeddings)
    rows = np.arange(num_images) % len(question.task)
    return jnp.asarray(to_host(mean_embedding(told)))[rows]


def _part(question: Question, rows: np.ndarray, key: PRNGKeyArray) -> Question:
    """Asks for images of some of the rows, from noise of their own."""
    latents_key, noise_key = jr.split(key)
    shape = (len(rows), *question.batch.latents.shape[1:])
    latents = jr.normal(latents_key, shape, jnp.float32)
    batch = question.task.batch(latents, noise_key, jnp.asarray(rows))
    return Question(question.task, *spread(batch, question.mesh))


def _check_rewards(rewards: Float[np.ndarray, " fitted"]) -> None:
    if not np.all(np.isfinite(rewards)):
        wrong = int(np.sum(~np.isfinite(rewards)))
        raise ValueError(
            "`reward` must give finite numbers for a value to be fitted to them; "
            f"{wrong} of {len(rewards)} are not."
        )
    if np.ptp(rewards) == 0:
        raise ValueError(
            "`reward` must tell the images apart for a value to be fitted to it; all "
            f"{len(rewards)} have {rewards[0]}."
        )
