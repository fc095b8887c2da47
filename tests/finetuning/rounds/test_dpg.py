import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.diffusion import DDIM, SchedulerConfig
from draftx.layers import Linear
from draftx.rewards import as_reward

from .short import darkness, train


class _LinearReward(draftx.AbstractReward):
    layer: Linear

    def __call__(self, images, features=None):
        return self.layer(jnp.mean(images, axis=(1, 2)))[:, 0]


def test_dpg_with_a_critic_of_its_own(pipeline):
    result = train(
        pipeline,
        draftx.DPG(),
        num_train_steps=4,
        updates=draftx.Updates(minibatch_size=2),
        optimizer=draftx.adamw(1e-2, 1e-4, 1.0),
    )
    rewards = [row["reward"] for row in result.history]
    assert rewards[-1] > rewards[0]
    assert all(row["critic_loss"] >= 0 for row in result.history)


def test_dpg_adapts_a_reward_with_linear_layers():
    reward = _LinearReward(Linear(3, 1, key=jr.key(1)))
    (learned, _), constant = draftx.DPG().start(reward, jr.key(0))
    shapes = {x.shape for x in jax.tree.leaves(learned)}
    assert shapes == {(1, 3), (1, 1)}  # Rank 1 is all that such a layer has.
    critic = eqx.combine(learned, constant)
    images = jr.uniform(jr.key(2), (2, 8, 8, 3))
    values = critic(images, None, jnp.asarray(0.5))
    np.testing.assert_allclose(values, reward(images), rtol=1e-6)
    with pytest.raises(ValueError, match="no linear layers"):
        draftx.DPG(critic="adapted").start(as_reward(darkness), jr.key(0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: draftx.DPG(critic_rank=0), "`critic_rank` must be"),
        (lambda: draftx.DPG(eta=1.0), "`eta` must be 0"),
    ],
)
def test_impossible_numbers_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_dpg_leaves_out_steps_that_move_nothing():
    sampler = DDIM(SchedulerConfig(steps_offset=0))
    assert draftx.DPG().trained_steps(sampler, 3).tolist() == [0, 1]
    with pytest.raises(ValueError, match="a step at which the prediction moves"):
        draftx.DPG().trained_steps(sampler, 1)
    sampler = DDIM(SchedulerConfig())
    assert draftx.DPG().trained_steps(sampler, 3).tolist() == [0, 1, 2]
