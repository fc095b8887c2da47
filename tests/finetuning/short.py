"""A short training on a random pipeline, whose program the tests share."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, PRNGKeyArray

import draftx
from draftx.finetuning import Evaluation
from draftx.rewards import AbstractRandomReward

from ..toys import toy_reward


PROMPTS = ["cat", "do"]
SAMPLING = draftx.Sampling(num_inference_steps=2, guidance_scale=2.0)
RATE = 3e-2
# Remembers where it began, by the very arrays that it is given.
FROM_PARAMS = optax.GradientTransformation(
    lambda params: params, lambda gradient, state, params=None: (gradient, state)
)


class Flaky(AbstractRandomReward):
    """NaN at a rate, but not with the key that it begins with."""

    key: PRNGKeyArray
    first: PRNGKeyArray
    rate: Array

    def __call__(self, images, features=None):
        same = jnp.all(jr.key_data(self.key) == jr.key_data(self.first))
        fails = jr.bernoulli(self.key, self.rate) & ~same
        return jnp.where(fails, jnp.nan, toy_reward(images))


def flaky(rate):
    """All rates share one program."""
    return Flaky(jr.key(5), jr.key(5), jnp.asarray(rate, jnp.float32))


def finetune(pipeline, reward=None, prompts=PROMPTS, **options):
    """Six steps of two images, unless the options say otherwise."""
    defaults: dict[str, Any] = dict(
        sampling=SAMPLING,
        method=draftx.DRaFT(truncation_steps=1),
        key=jr.key(0),
        num_train_steps=6,
        batch_size=2,
        optimizer=draftx.adamw(RATE),
        callbacks=(),
    )
    reward = flaky(0.0) if reward is None else reward
    return draftx.finetune(pipeline, reward, prompts, **(defaults | options))


def held_out(**options):
    """An evaluation of what is trained on, and of its negative."""
    defaults: dict[str, Any] = dict(
        weights={"there": 1.0, "diversity": 2.0}, every=4, batch_size=3
    )
    rewards = {"there": toy_reward, "against": lambda images: -toy_reward(images)}
    return Evaluation(["do", "cat do"], rewards, SAMPLING, **(defaults | options))
