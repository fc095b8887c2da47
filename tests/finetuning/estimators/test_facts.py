"""What estimators say of themselves: their cost, the steps they train."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import draftx
from draftx.diffusion import AbstractDenoiser, DDIM, SchedulerConfig

from ...toys import toy_episode, ToyDenoiser


_CALLS = {"forward": 0, "backward": 0}
_SAMPLER = DDIM(SchedulerConfig(set_alpha_to_one=False, steps_offset=1))


class _Counting(AbstractDenoiser):
    """Counts the rows that are evaluated, and those that gradients pass through."""

    inner: ToyDenoiser

    def __call__(self, latents, index):
        return _counted(self.inner(latents, index))


@jax.custom_vjp
def _counted(x):
    # Given what it counts, or a loop would call it once for all of its turns.
    jax.debug.callback(lambda x: _tick("forward", x), x)
    return x


def _tick(name, rows):
    _CALLS[name] += len(rows)


def _backward(_, cotangent):
    jax.debug.callback(lambda x: _tick("backward", x), cotangent)
    return (cotangent,)


_counted.defvjp(lambda x: (_counted(x), None), _backward)


@pytest.mark.parametrize(
    "method",
    [
        draftx.DRaFT(),
        draftx.DRaFT(2),
        draftx.DRaFTLV(num_samples=3),
        draftx.ReFL(min_steps=2, max_steps=2),
        draftx.DRTune(num_trained_steps=2),
        draftx.ScoreFunction(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_budgets_are_what_is_evaluated(method):
    _CALLS.update(forward=0, backward=0)

    def objective(weight):
        counting = _Counting(ToyDenoiser(weight))
        episode = toy_episode(counting, total=4, sampler=_SAMPLER)
        return method(episode, jr.key(0))[0]

    jax.block_until_ready(jax.jit(jax.grad(objective))(jnp.ones(3)))
    jax.effects_barrier()
    budget = method.budget(4, 2, guided=False)
    assert budget.unet_forwards == _CALLS["forward"]
    assert budget.unet_backwards == _CALLS["backward"]
    guided = method.budget(4, 2)
    assert guided.unet_forwards == 2 * budget.unet_forwards
    assert guided.reward_queries == budget.reward_queries


@pytest.mark.parametrize(
    ("method", "always", "ever", "passes"),
    [
        (draftx.DRaFT(), {0, 1, 2, 3}, {0, 1, 2, 3}, True),
        (draftx.DRaFT(2), {2, 3}, {2, 3}, True),
        (draftx.DRaFT(1), {3}, {3}, False),
        (draftx.DRaFTLV(), {3}, {3}, False),
        (draftx.SingleRewardLV(), {3}, {3}, False),
        (draftx.ReFL(max_steps=3, min_steps=2), set(), {1, 2}, False),
        (draftx.ReFL(max_steps=2, min_steps=2), {2}, {2}, False),
        (draftx.AlignProp(min_steps=2, max_steps=3), {2, 3}, {1, 2, 3}, True),
        (draftx.DRTune(num_trained_steps=2), set(), {0, 1, 2, 3}, False),
        (draftx.ScoreFunction(), {0, 1, 2}, {0, 1, 2, 3}, False),
    ],
)
def test_the_steps_they_train(method, always, ever, passes):
    for one in (method, draftx.Penalized(draftx.Penalized(method))):
        steps = one.trained_steps(4)
        assert (steps.always, steps.ever) == (always, ever)
        assert one.passes_through_steps(4) == passes


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        (draftx.DRaFT(), 4),
        (draftx.DRaFT(2), 2),
        (draftx.DRaFTLV(), 1),
        (draftx.ReFL(max_steps=3), 1),
        (draftx.AlignProp(), 0),
        (draftx.DRTune(num_trained_steps=2), 2),
        (draftx.ScoreFunction(), 1),
    ],
)
def test_how_many_steps_wait_for_their_gradient_at_once(method, steps):
    for one in (method, draftx.Penalized(draftx.Penalized(method))):
        assert one.steps_at_once(4) == steps


def test_whether_they_ask_the_reward_for_a_gradient():
    assert draftx.DRaFT().needs_reward_gradient()
    assert draftx.Penalized(draftx.DRaFT()).needs_reward_gradient()
    assert not draftx.ScoreFunction().needs_reward_gradient()
    assert not draftx.Penalized(draftx.ScoreFunction()).needs_reward_gradient()
