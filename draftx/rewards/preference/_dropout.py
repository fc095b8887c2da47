"""A rating that is not the same twice, against its being hacked."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import finite
from ..._custom_types import Images, Real, RealLike
from ..._keys import check_key
from ..contract import AbstractRandomReward
from ._aesthetic import AestheticScore


class AestheticDropout(AbstractRandomReward):
    r"""Rates images by the aesthetic score with the dropout of its training, or more.

    After each of the first three of five layers, every activation is zero with
    probability $p$, and otherwise divided by $1 - p$: on average over keys the score is
    that of [`draftx.rewards.AestheticScore`][]. Every image has its own pattern.

    The patterns come from `key`, and stay the same until
    [`draftx.rewards.with_key`][] gives another.

    !!! info

        The paper tried this against the collapse to one image, "even" at a rate of
        0.95, and found that it does not help. Which activations it dropped is not said;
        here they are those that were dropped when the predictor was trained.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix B.8.
    """

    reward: AestheticScore
    key: PRNGKeyArray
    rates: tuple[Real, ...] = eqx.field(static=True)

    def __init__(
        self,
        reward: AestheticScore,
        *,
        rate: RealLike | Sequence[RealLike] = (0.2, 0.2, 0.1),
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `reward`: Without dropout.
        - `rate`: $p$, below 1, for all three layers, or one for each of them. The
            default is what the predictor was trained with.
        - `key`: The first to draw with.
        """
        given = rate if isinstance(rate, Sequence) else [rate] * 3
        rates = tuple(finite("rate", p) for p in given)
        most = len(reward.head.linears) - 1
        if not 1 <= len(rates) <= most or not all(0 <= p < 1 for p in rates):
            raise ValueError(
                f"`rate` must be a number in [0, 1), or at most {most} of them; got "
                f"{rate}. At 1 nothing would be left."
            )
        self.reward = reward
        self.key = check_key(key)
        self.rates = rates

    @jax.named_scope("draftx.rewards.AestheticDropout")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        del features
        x = self.reward.embeddings(images)
        keys = jr.split(self.key, len(self.rates))
        for i, linear in enumerate(self.reward.head.linears):
            x = linear(x)
            if i < len(self.rates):
                kept = 1 - self.rates[i]
                is_kept = jr.bernoulli(keys[i], kept, x.shape)
                x = jnp.where(is_kept, x / kept, jnp.zeros_like(x))
        return x[:, 0].astype(jnp.float32)
