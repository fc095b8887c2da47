"""Training in rounds on a random pipeline: DDPO, reward-weighted regression, DPG."""

import io

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import PIL.Image
import pytest
from draftx.finetuning._round_method import Samples

import draftx
from draftx.finetuning import Budget, EarlyStopping, Evaluation
from draftx.layers import Linear

from ..helpers import relative_error
from ..io.tiny import random_pipeline, write_tokenizer


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    base = random_pipeline(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return draftx.add_lora(base, rank=2, targets=["attn2.to_v"], key=jr.key(0))


def _darkness(images):
    return -jnp.mean(images, axis=(1, 2, 3))


# One object each, so that the tests share their programs.
_OPTIMIZER = optax.adam(1e-2)
_BROKEN = [False]


def _jpeg_size(images):
    if _BROKEN[0]:
        return [np.nan] * len(images)
    sizes = []
    for image in (np.asarray(images) * 255).round().astype(np.uint8):
        file = io.BytesIO()
        PIL.Image.fromarray(image).save(file, "JPEG", quality=95)
        sizes.append(-len(file.getvalue()))
    return sizes


_JPEG = draftx.rewards.HostReward(_jpeg_size)


class _LinearReward(draftx.AbstractReward):
    layer: Linear

    def __call__(self, images, prompts=None):
        return self.layer(jnp.mean(images, axis=(1, 2)))[:, 0]


def _train(pipeline, method, reward=_darkness, **kwargs):
    defaults = dict(
        method=method,
        key=jr.key(0),
        num_train_steps=2,
        batch_size=4,
        minibatch_size=2,
        steps_per_update=1,
        num_inference_steps=3,
        guidance_scale=2.0,
        optimizer=_OPTIMIZER,
        show_progress=False,
    )
    prompts = ["cat", "do"]
    return draftx.finetune_in_rounds(pipeline, reward, prompts, **(defaults | kwargs))


def test_first_update_is_the_policy_gradient(pipeline):
    # The ratio is 1 there: the gradient is that of A log p, whatever the clipping.
    rng = np.random.default_rng(0)
    steps = pipeline.sampler.steps(2, eta=1.0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    visited, advantages = normal(3, 2, 8, 8, 4), jnp.asarray([0.7, -1.3])
    filled = eqx.tree_at(
        lambda p: [x.lora_up for x in _adapted(p)],
        pipeline,
        [0.1 * normal(*x.lora_up.shape) for x in _adapted(pipeline)],
    )
    ids = pipeline.tokenize(["cat", "do"])
    indices = jnp.arange(1, dtype=jnp.int32)

    def densities(pipeline):
        denoiser = pipeline.denoiser(steps, ids, None, None)
        prediction = denoiser(visited[0], indices[0])
        density = draftx.finetuning.log_prob(
            pipeline.sampler, visited[0], prediction, steps[0], visited[1]
        )
        return jnp.mean(advantages * density), prediction

    def surrogate(pipeline, prediction):
        samples = Samples(
            input_ids=ids,
            negative_ids=None,
            guidance_scale=jnp.asarray(1.0),
            prompts=None,
            steps=steps,
            visited=visited,
            predictions=jnp.stack([prediction, prediction]),
            rewards=advantages,
            weights=advantages,
            times=indices,
            remat="none",
        )
        return draftx.DDPO().objective(pipeline, None, None, samples, jr.key(0))[0]

    @eqx.filter_jit
    def both(pipeline):
        mask = draftx.lora.lora_filter(pipeline)
        trainable, frozen = eqx.partition(pipeline, mask)
        whole = lambda t: eqx.combine(t, frozen)
        of = lambda fn: eqx.filter_grad(fn, has_aux=True)
        expected, prediction = of(lambda t: densities(whole(t)))(trainable)
        actual = eqx.filter_grad(lambda t: surrogate(whole(t), prediction))(trainable)
        return expected, actual

    expected, actual = (jax.tree.leaves(g) for g in both(filled))
    assert len(expected) > 0
    for a, b in zip(actual, expected, strict=True):
        assert relative_error(a, b) < 1e-4


def _adapted(pipeline):
    return [layer for _, layer in draftx.lora.iter_lora(pipeline)]


def test_ddpo_learns_from_real_jpeg_files(pipeline):
    reward = _JPEG
    seen = []
    result = _train(
        pipeline, draftx.DDPO(), reward, callback=lambda row, p: seen.append(row)
    )
    assert seen == result.history
    for i, row in enumerate(result.history):
        assert row["step"] == i
        assert row["reward"] < -300  # Bytes.
        assert all(isinstance(x, int | float | list) for x in row.values())
        assert 0 <= row["clipped"] <= 1
        assert row["gradient_norm"] > 0
        # Two for guidance, three steps, once to draw and once to learn.
        assert row["unet_forwards"] == (i + 1) * 2 * 4 * (3 + 3)
        assert row["unet_backwards"] == (i + 1) * 2 * 4 * 3
        assert row["reward_queries"] == (i + 1) * 4
    before, after = map(draftx.lora_state_dict, (pipeline, result.pipeline))
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    again = draftx.lora_state_dict(_train(pipeline, draftx.DDPO(), reward).pipeline)
    for name, array in after.items():
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.slow
def test_ddpo_makes_jpeg_files_smaller():
    pipeline = draftx.add_lora(draftx.load("tiny"), rank=8, key=jr.key(0))
    result = draftx.finetune_in_rounds(
        pipeline,
        _JPEG,
        ["a fox, 3d style, on a plain blue background"],
        method=draftx.DDPO(),
        key=jr.key(0),
        num_train_steps=12,
        batch_size=16,
        minibatch_size=8,
        num_inference_steps=10,
        guidance_scale=4.0,
        learning_rate=1e-3,
        show_progress=False,
    )
    rewards = [row["reward"] for row in result.history]
    spread = result.history[0]["reward_std"]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.25 * spread


def test_reward_weighted_regression_descends_its_loss(pipeline):
    method = draftx.RewardWeighted(temperature=0.5)
    result = _train(pipeline, method, _JPEG, num_train_steps=3, num_inner_epochs=2)
    losses = [row["denoising_loss"] for row in result.history]
    assert losses[-1] < losses[0]
    rewards = np.asarray([0.0, 1.0, 2.0])
    weights = method.weigh()(np.zeros(3, int), rewards)
    logits = (rewards - 1) / rewards.std() / 0.5
    np.testing.assert_allclose(
        weights, 3 * np.exp(logits) / np.exp(logits).sum(), rtol=1e-4
    )


def test_dpg_with_a_critic_of_its_own(pipeline):
    options = dict(steps_per_update=3, num_train_steps=4)
    result = _train(
        pipeline, draftx.DPG(), optimizer=None, learning_rate=1e-2, **options
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
        draftx.DPG(critic="adapted").start(_darkness, jr.key(0))


def test_rounds_without_a_finite_reward_are_not_learned_from(pipeline):
    def callback(row, pipeline):
        _BROKEN[0] = row["step"] < 2

    result = _train(
        pipeline, draftx.DDPO(), _JPEG, num_train_steps=4, callback=callback
    )
    assert [row["skipped"] for row in result.history] == [0, 1, 2, 2]
    assert ["gradient_norm" in row for row in result.history] == [1, 0, 0, 1]


def test_training_gives_up_with_what_was_reached(pipeline):
    def callback(row, pipeline):
        _BROKEN[0] = True

    try:
        with pytest.raises(draftx.RewardError, match="finite scores") as error:
            _train(
                pipeline, draftx.DDPO(), _JPEG, num_train_steps=99, callback=callback
            )
    finally:
        _BROKEN[0] = False
    assert len(error.value.result.history) == 11
    assert draftx.lora.has_lora(error.value.result.pipeline)


def test_evaluations_and_a_budget_end_it(pipeline):
    evaluation = Evaluation(
        ["cat", "do"],
        {"light": lambda images: -_darkness(images)},
        every=1,
        batch_size=4,
        num_inference_steps=2,
    )
    stopped = _train(
        pipeline,
        draftx.DDPO(),
        num_train_steps=9,
        evaluation=evaluation,
        early_stopping=EarlyStopping(patience=2, require_rising=False, min_delta=1.0),
    )
    assert len(stopped.history) == 2
    assert stopped.step == 0
    assert "without a better one" in str(stopped.stopped)
    assert [figures["step"] for figures in stopped.evaluations] == [0, 1, 2]
    expected = draftx.lora_state_dict(pipeline)
    for name, array in draftx.lora_state_dict(stopped.pipeline).items():
        np.testing.assert_array_equal(array, expected[name])

    images = stopped.history[0]["images"]
    limited = _train(
        pipeline,
        draftx.DDPO(),
        num_train_steps=9,
        max_budget=Budget(images=images),
    )
    assert len(limited.history) == 1
    assert "images" in str(limited.stopped)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_train_steps=0), "`num_train_steps` must be a whole number"),
        (dict(minibatch_size=3), "`minibatch_size` .* divides 4; got 3"),
        (dict(steps_per_update=2), "`steps_per_update` .* divides 3; got 2"),
        (dict(step_fraction=0.0), r"`step_fraction` must lie in \(0, 1\]"),
        (dict(num_inner_epochs=0), "`num_inner_epochs` must be a whole number"),
    ],
)
def test_bad_input_is_named(pipeline, kwargs, message):
    with pytest.raises(ValueError, match=message):
        _train(pipeline, draftx.DDPO(), **kwargs)


def test_bad_rewards_are_named(pipeline):
    host = draftx.rewards.HostReward
    with pytest.raises(ValueError, match=r"shape \(4,\); got shape \(\)"):
        _train(pipeline, draftx.DDPO(), host(lambda images: images.mean()))
    with pytest.raises(draftx.RewardError, match="DDPO"):
        _train(pipeline, draftx.DPG(), host(lambda images: images.mean((1, 2, 3))))
    with pytest.raises(ValueError, match="`fn` must be a function of images"):
        host(lambda: 0)


def test_host_rewards_are_told_the_prompts():
    def lengths(images, prompts):
        assert all(isinstance(prompt, str) for prompt in prompts)
        pairs = zip(prompts, images, strict=True)
        return [len(prompt) + image.mean() for prompt, image in pairs]

    reward = draftx.rewards.HostReward(lengths, with_prompts=True)
    images = jnp.ones((3, 4, 4, 3))
    scores = jax.jit(reward)(images, reward.prepare(["a", "", "übel"]))
    np.testing.assert_allclose(scores, [2.0, 1.0, 5.0])
