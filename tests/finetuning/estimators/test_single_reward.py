import jax
import jax.numpy as jnp

import draftx

from ...toys import toy_noise, WEIGHT
from .family import assert_same, episode, KEY


def test_single_reward_is_lv_for_a_linear_reward():
    # Its assumption, that the reward has one slope, then holds.
    def linear(method):
        def objective(weight):
            mean = lambda images: jnp.mean(images, axis=(1, 2, 3))
            identity = lambda x, remat: x
            of_weight = episode(weight, toy_noise(), reward=mean, decoder=identity)
            return method(of_weight, KEY)

        grad = jax.jit(jax.grad(objective, has_aux=True))
        return grad(jnp.asarray(WEIGHT, jnp.float32))

    for options in (dict(), dict(include_original=False), dict(reduction="sum")):
        single = linear(draftx.SingleRewardLV(num_samples=3, **options))
        assert_same(single, linear(draftx.DRaFTLV(num_samples=3, **options)))
