"""The text encoder is no part of what is trained, and so of no step of training."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.finetuning.rounds import _rounds
from draftx.finetuning.training import _finetune
from draftx.pipeline import _texts

from ..helpers import relative_error
from ..io.tiny import random_lora
from ..toys import toy_reward
from .short import finetune, PROMPTS, SAMPLING


_ROWS = {"prompt": ["cat", "do"], "negative_prompt": ["do do", ""]}
_TEXT = ("self_attn.q_proj",)


class _Seen(Exception):
    """What a program would have been given."""


@pytest.fixture(scope="module")
def pipeline(short_pipeline):
    return random_lora(short_pipeline, scale=0.3, targets=("attn2.to_v",))


@pytest.fixture(scope="module")
def adapted(short_pipeline):
    """The text encoder too."""
    return random_lora(short_pipeline, scale=0.3, targets=("attn2.to_v", *_TEXT))


def _first_step(pipeline, monkeypatch):
    """The program of the first step of a training, as text."""

    def stop(*args):
        raise _Seen(*args)

    with monkeypatch.context() as patch:
        patch.setattr(_finetune.train_step, "plan", stop)
        with pytest.raises(_Seen) as seen:
            finetune(pipeline, toy_reward)
    return _finetune.train_step.lower(*seen.value.args).as_text()


def test_a_step_holds_a_text_encoder_only_if_it_is_trained(
    pipeline, adapted, monkeypatch
):
    words, features = pipeline.text_encoder.token_embedding.shape
    vocabulary = f"tensor<{words}x{features}xf32>"
    known = f"tensor<{len(PROMPTS)}x9x{features}xf32>"
    frozen = _first_step(pipeline, monkeypatch)
    assert vocabulary not in frozen
    assert known in frozen
    assert vocabulary in _first_step(adapted, monkeypatch)


def test_rounds_are_given_no_text_encoder(pipeline, monkeypatch):
    def stop(*args):
        raise _Seen(*args)

    monkeypatch.setattr(_rounds, "collect", stop)
    with pytest.raises(_Seen) as seen:
        draftx.finetune_in_rounds(
            pipeline,
            toy_reward,
            PROMPTS,
            SAMPLING,
            method=draftx.RewardWeighted(),
            key=jr.key(0),
            num_train_steps=1,
            batch_size=2,
            callbacks=(),
        )
    rounds = seen.value.args[0]
    assert not jax.tree.leaves(rounds.task.pipeline.text_encoder)
    assert rounds.task.conditioning.embeddings.shape == (2, 9, 12)


def _everything(pipeline):
    """Learned inputs, the adapter off at first, a penalty, negatives of each row."""
    sampling = draftx.Sampling(2, 2.0, lora_schedule=draftx.LoRAWindow(last=1))
    learned = draftx.add_learned_inputs(pipeline, sampling)
    method = draftx.Penalized(draftx.DRaFT(), weight=1.0)
    return learned, sampling, method


def _plain(pipeline):
    return pipeline, SAMPLING, draftx.DRaFT(1)


@pytest.mark.parametrize(
    "case", [_plain, pytest.param(_everything, marks=pytest.mark.slow)]
)
def test_gradients_are_the_same_whoever_asks(pipeline, case, monkeypatch):
    whole, sampling, method = case(pipeline)

    def gradient():
        rewards, tree = draftx.reward_gradient(
            whole, toy_reward, _ROWS, sampling, method=method, key=jr.key(1)
        )
        return rewards, jax.tree.leaves(tree)

    rewards, known = gradient()
    monkeypatch.setattr(_texts, "MAX_BYTES", 0)
    as_expected, asked = gradient()
    assert relative_error(rewards, as_expected) < 1e-6
    assert len(known) == len(asked) > 1
    for one, other in zip(known, asked, strict=True):
        assert np.any(np.asarray(other) != 0)
        assert relative_error(one, other) < 1e-6


def test_an_adapter_of_the_text_encoder_still_learns(adapted):
    _, gradient = draftx.reward_gradient(
        adapted, toy_reward, PROMPTS, SAMPLING, method=draftx.DRaFT(1)
    )
    state = draftx.lora_state_dict(gradient)
    names = [name for name in state if name.startswith("text_encoder.")]
    assert len(names) == 4
    assert all(jnp.any(state[name] != 0) for name in names)


def test_an_evaluation_asks_once_and_compiles_once(pipeline, monkeypatch):
    chunks, traced, embed = [], [], _texts._embed

    def listen(encoder, input_ids):
        chunks.append(input_ids)
        return embed(encoder, input_ids)

    monkeypatch.setattr(_texts, "_embed", listen)
    draw = draftx.Pipeline.chain

    def chain(*args, **kwargs):
        traced.append(args)
        return draw(*args, **kwargs)

    monkeypatch.setattr(draftx.Pipeline, "chain", chain)
    evaluation = draftx.Evaluation(
        ["do", "cat do"],
        {"toy": toy_reward},
        draftx.Sampling(1, 2.0),
        num_samples=2,
        batch_size=2,
    )
    figures = evaluation(pipeline)
    assert len(chunks) == 1
    evaluation(draftx.scale_lora(pipeline, 0.5))
    assert len(chunks) == 2
    assert len(traced) == 1
    monkeypatch.setattr(_texts, "MAX_BYTES", 0)
    asked = evaluation(pipeline)
    assert len(chunks) == 2
    for name, figure in asked.items():
        assert figures[name] == pytest.approx(figure, rel=1e-5), name
