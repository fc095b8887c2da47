import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx

from ..io.tiny import random_pipeline, write_tokenizer


def _reward(images):
    return -jnp.mean((images - 0.3) ** 2, axis=(1, 2, 3))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    base = random_pipeline(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return draftx.add_lora(base, rank=2, targets=["attn2.to_v"], key=jr.key(0))


def _finetune(pipeline, reward=_reward, **kwargs):
    defaults = dict(
        method=draftx.DRaFT(truncation_steps=1),
        key=jr.key(0),
        num_train_steps=6,
        batch_size=2,
        learning_rate=3e-2,
        num_inference_steps=2,
        guidance_scale=2.0,
        show_progress=False,
    )
    return draftx.finetune(pipeline, reward, ["cat", "do"], **(defaults | kwargs))


@pytest.fixture(scope="module")
def result(pipeline):
    return _finetune(pipeline)


def test_reward_rises_and_history_is_plain(result):
    rewards = [row["reward"] for row in result.history]
    assert [row["step"] for row in result.history] == list(range(6))
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2])
    for row in result.history:
        assert all(isinstance(x, int | float | list) for x in row.values())


def test_only_the_adapter_moves(pipeline, result):
    before = jax.tree_util.tree_flatten_with_path(pipeline)[0]
    after = jax.tree_util.tree_flatten_with_path(result.pipeline)[0]
    for (path, old), (_, new) in zip(before, after, strict=True):
        is_adapter = getattr(path[-1], "name", "") in ("lora_down", "lora_up")
        assert bool(np.array_equal(old, new)) != is_adapter or not is_adapter


def test_same_key_same_result_and_callback_sees_every_step(pipeline, result):
    seen = []
    again = _finetune(pipeline, callback=lambda row, p: seen.append((row["step"], p)))
    assert [step for step, _ in seen] == list(range(6))
    expected = draftx.lora_state_dict(result.pipeline)
    for state in (again.pipeline, seen[-1][1]):
        for name, array in draftx.lora_state_dict(state).items():
            np.testing.assert_array_equal(array, expected[name])


def test_nan_reward_stops_with_what_was_reached(pipeline):
    def reward(images):
        scores = _reward(images)
        return jnp.where(scores > -10.0, jnp.nan, scores)

    with pytest.raises(draftx.RewardError, match="finite scores") as error:
        _finetune(pipeline, reward)
    assert error.value.result.history == []
    for name, array in draftx.lora_state_dict(error.value.result.pipeline).items():
        np.testing.assert_array_equal(array, draftx.lora_state_dict(pipeline)[name])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_train_steps=0), "`num_train_steps` must be a whole number"),
        (dict(batch_size=0), "`batch_size` must be a whole number"),
        (dict(learning_rate=float("inf")), "`learning_rate` must be finite"),
        (dict(learning_rate=-1.0), "`learning_rate` must be finite and positive"),
        (dict(method=draftx.DRaFT(3)), r"must lie in \[1, 2\]"),
    ],
)
def test_bad_input_is_named(pipeline, kwargs, message):
    with pytest.raises(ValueError, match=message):
        _finetune(pipeline, **kwargs)
