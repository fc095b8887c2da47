"""Code that is not of this package is as good as what is: everything here is one's own.

An estimator, a penalty, a sampler, rewards, a schedule of the adapter and a callback,
each written against what is public, are used together, and give the numbers of those of
the package that they copy.
"""

from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx import finetuning
from draftx.diffusion import (
    AbstractLoRASchedule,
    AbstractSampler,
    AbstractSteps,
    SchedulerConfig,
    SwitchedDenoiser,
)
from draftx.rewards import WeightedSum
from draftx.search import best_of_n

from .helpers import assert_close
from .io.tiny import random_lora


class Unrolled(draftx.AbstractGradientEstimator):
    """The last `k` steps, one after the other in Python: no loop of the package."""

    k: int = eqx.field(static=True)

    def check(self, num_inference_steps):
        if self.k > num_inference_steps:
            raise ValueError(f"`k` must be at most {num_inference_steps}.")

    def trained_steps(self, num_inference_steps):
        first = num_inference_steps - self.k
        return finetuning.TrainedSteps(range(first, num_inference_steps))

    def __call__(self, episode, key):
        total = len(episode.chain)
        state = episode.run_frozen(total - self.k)
        for i in range(total - self.k, total):
            state, _ = episode.chain.step(state, jnp.asarray(i))
        return episode.score(state)


class Blind(draftx.AbstractGradientEstimator):
    """Learns nothing of the reward, and so asks nothing of it."""

    def check(self, num_inference_steps):
        pass

    def needs_reward_gradient(self):
        return False

    def __call__(self, episode, key):
        rewards = episode.rewards_alone(episode.run(0).latents)
        prediction = episode.chain.predict(episode.run_frozen(1), jnp.asarray(1))
        return jnp.mean(rewards) + jnp.mean(prediction.output), rewards


class Apart(draftx.AbstractPenalty):
    """The squared difference of the noise, number by number."""

    def __call__(self, sampler, step, latents, output, base_output):
        noise = sampler.predict(latents, output, step)[1]
        base = sampler.predict(latents, base_output, step)[1]
        flat = (noise - lax.stop_gradient(base)).reshape(latents.shape[0], -1)
        return jnp.sum(flat * flat, axis=1) / flat.shape[1]


class Levels(AbstractSteps):
    timestep: Any
    noise_scale: Any
    level: Any
    following: Any


class Deterministic(AbstractSampler[Levels]):
    """DDIM without noise for a model of noise, from angles instead of variances."""

    config: SchedulerConfig = eqx.field(static=True)
    takes_eta = False

    def is_random(self, eta):
        return False

    def steps(self, num_inference_steps, eta):
        stride = 1000 // num_inference_steps
        times = np.arange(num_inference_steps)[::-1] * stride + 1
        angles = np.arccos(np.sqrt(self.config.alphas_cumprod()))
        after = np.where(times >= stride, angles[times - stride], angles[0])
        return Levels(
            jnp.asarray(times, jnp.int32),
            jnp.zeros(num_inference_steps),
            jnp.asarray(angles[times], jnp.float32),
            jnp.asarray(after, jnp.float32),
        )

    def predict(self, latents, prediction, step):
        clean = (latents - jnp.sin(step.level) * prediction) / jnp.cos(step.level)
        return clean, prediction

    def update(self, latents, prediction, step, memory=None):
        clean, noise = self.predict(latents, prediction, step)
        angle = step.following
        return jnp.cos(angle) * clean + jnp.sin(angle) * noise, memory

    def add_noise(self, latents, noise, step):
        return jnp.cos(step.level) * latents + jnp.sin(step.level) * noise


class Late(AbstractLoRASchedule):
    """The adapter at the last step only."""

    def check(self, num_inference_steps):
        pass

    def active_steps(self, num_inference_steps):
        return frozenset([num_inference_steps - 1])

    def __call__(self, tuned, base, num_inference_steps):
        total = num_inference_steps
        return SwitchedDenoiser(tuned, base, total - 1, total)


class Early(AbstractLoRASchedule):
    """The adapter at the first step only."""

    def check(self, num_inference_steps):
        pass

    def active_steps(self, num_inference_steps):
        return frozenset([0])

    def __call__(self, tuned, base, num_inference_steps):
        return SwitchedDenoiser(tuned, base, 0, 1)


class Redness(draftx.AbstractReward):
    """How red an image is, times the number of words of its prompt."""

    def prepare(self, rows):
        words = [len(prompt.split()) for prompt in draftx.Table.of(rows)["prompt"]]
        return jnp.asarray(words, jnp.float32)

    def __call__(self, images, features=None):
        assert features is not None
        return features * jnp.mean(images[..., 0], axis=(1, 2))


def brightness(images, rows):
    """How near an image is to the brightness that its row asks for."""
    return -((jnp.mean(images, axis=(1, 2, 3)) - rows["brightness"]) ** 2)


class Diary(draftx.AbstractCallback):
    def __init__(self):
        self.events = []

    def begin(self, num_train_steps):
        self.events.append(num_train_steps)

    def __call__(self, row, pipeline):
        assert isinstance(pipeline, draftx.Pipeline)
        self.events.append(row["step"])

    def end(self):
        self.events.append("end")


ROWS = {
    "prompt": ["a cat", "a red do"],
    "brightness": np.asarray([0.2, 0.9], np.float32),
}
REWARD = WeightedSum([Redness(), brightness], [1.0, 2.0])
STEPS = 2


@pytest.fixture(scope="module")
def pipeline(short_pipeline):
    return random_lora(short_pipeline, scale=0.1, targets=("to_q", "to_out.0"))


def _gradient(pipeline, method, sampling):
    rewards, gradient = draftx.reward_gradient(
        pipeline, REWARD, ROWS, sampling, method=method, key=jr.key(1)
    )
    return rewards, draftx.lora_state_dict(gradient)


def test_estimator_penalty_and_sampler_give_the_numbers_they_copy(pipeline):
    mine = draftx.Penalized(Unrolled(1), weight=5.0, penalty=Apart())
    theirs = draftx.Penalized(draftx.DRaFT(1), weight=5.0)
    own = draftx.Sampling(STEPS, sampler=Deterministic)
    rewards, gradient = _gradient(pipeline, mine, own)
    expected, as_expected = _gradient(pipeline, theirs, draftx.Sampling(STEPS))
    assert_close(rewards, expected, scale=5)
    largest = max(float(jnp.abs(x).max()) for x in as_expected.values())
    assert largest > 1e-4
    for name, array in as_expected.items():
        np.testing.assert_allclose(
            gradient[name], array, atol=2e-4 * largest, err_msg=name
        )


def test_sampler_and_schedule_draw_the_images_they_copy(pipeline):
    own = draftx.Sampling(STEPS, lora_schedule=Late(), sampler=Deterministic)
    actual = draftx.sample(pipeline, ROWS, own, key=jr.key(2))
    window = draftx.Sampling(STEPS, lora_schedule=draftx.LoRAWindow(last=1))
    assert_close(actual, draftx.sample(pipeline, ROWS, window, key=jr.key(2)), scale=5)


def test_everything_trains_together(pipeline):
    sampling = draftx.Sampling(STEPS, sampler=Deterministic)
    learning = draftx.add_learned_inputs(pipeline, sampling)
    diary, rows = Diary(), []
    held_out = {"prompt": ["a sea"], "brightness": np.asarray([0.5], np.float32)}
    result = draftx.finetune(
        learning,
        REWARD,
        ROWS,
        sampling,
        method=draftx.Penalized(Unrolled(STEPS), weight=0.1, penalty=Apart()),
        key=jr.key(3),
        num_train_steps=4,
        batch_size=2 * len(jax.devices()),
        evaluation=draftx.Evaluation(
            held_out,
            {"redness": Redness(), "brightness": brightness},
            sampling,
            every=1,
            num_samples=1,
        ),
        # Nothing will ever be better by that much: it ends after one evaluation more.
        stopping=draftx.Stopping(
            draftx.EarlyStopping(patience=2, min_delta=1e6, require_rising=False),
            max_budget=draftx.Budget(seconds=1e6),
        ),
        callbacks=(diary, lambda row, pipeline: rows.append(row)),
    )
    assert diary.events == [4, 0, 1, "end"]
    assert rows == result.history
    assert "without a better one" in result.stopped
    # The best is what there was before training.
    for name, array in draftx.lora_state_dict(result.pipeline).items():
        before = draftx.lora_state_dict(learning)[name]
        np.testing.assert_array_equal(array, before, err_msg=name)
    first, last = result.evaluations[0], result.evaluations[-1]
    mean = (first["redness"] + first["brightness"]) / 2
    np.testing.assert_allclose(first["score"], mean, rtol=1e-6)
    assert last["score"] != first["score"]
    # An estimator that does not know what it costs leaves that out.
    assert "unet_forwards" not in rows[0]
    assert rows[0]["gradient_norm"] > 0


def test_a_search_asks_ones_own_reward(pipeline):
    sampling = draftx.Sampling(STEPS, sampler=Deterministic)
    found = best_of_n(pipeline, REWARD, ROWS, sampling, n=2, key=jr.key(4))
    np.testing.assert_array_equal(found.rewards, found.history.max(axis=0))
    scores = REWARD(found.images, REWARD.prepare(ROWS))
    assert_close(found.rewards, scores, scale=5)


def test_what_an_estimator_says_of_itself_is_believed(pipeline):
    with pytest.raises(ValueError, match="`k` must be at most 2"):
        _gradient(pipeline, Unrolled(3), draftx.Sampling(STEPS))
    learning = draftx.add_learned_inputs(pipeline, draftx.Sampling(STEPS))
    for method in (Unrolled(1), draftx.Penalized(Unrolled(1))):
        with pytest.raises(ValueError, match="every step"):
            _gradient(learning, method, draftx.Sampling(STEPS))
    early = Early()
    with pytest.raises(ValueError, match="`lora_schedule` must have the adapter on"):
        _gradient(pipeline, Unrolled(1), draftx.Sampling(STEPS, lora_schedule=early))
    with pytest.raises(ValueError, match="`eta` must be 0 for Deterministic"):
        draftx.Sampling(STEPS, eta=0.5, sampler=Deterministic(SchedulerConfig()))


def test_who_needs_no_gradient_of_a_reward_asks_for_none(pipeline):
    def steps(images):
        return jnp.round(jnp.mean(images, axis=(1, 2, 3)) * 10)

    sampling = draftx.Sampling(STEPS)
    arguments = dict(key=jr.key(5))
    with pytest.raises(draftx.RewardError, match="gradient"):
        draftx.reward_gradient(
            pipeline, steps, ROWS, sampling, method=Unrolled(1), **arguments
        )
    rewards, gradient = draftx.reward_gradient(
        pipeline, steps, ROWS, sampling, method=Blind(), **arguments
    )
    assert np.all(np.isfinite(rewards))
    assert any(np.any(x != 0) for x in draftx.lora_state_dict(gradient).values())
