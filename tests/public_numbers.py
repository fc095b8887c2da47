"""Calls of every public function that asks for numbers, for `test_numbers.py`."""

import types
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import pytest

import draftx
from draftx import distillation, finetuning, lora, models, rewards, search
from draftx.rewards import AbstractReward

from .toys import toy_reward


class Reached(Exception):
    """All options are sound, and the long work would begin."""


class _Begins(AbstractReward):
    def prepare(self, rows):
        raise Reached

    def __call__(self, images, features=None):
        raise AssertionError


def _numbers(fn, *args, **options):
    """The plain numbers that a function has made of its options."""
    with pytest.raises(Reached) as error:
        fn(*args, **options)
    frames = [t for t in error.traceback if t.name == fn.__name__]
    known = frames[-1].locals
    return {name: known[name] for name in options if type(known[name]) in (int, float)}


def _draw(prompts):
    raise Reached


def _train(fn, method):
    rest: dict[str, Any] = dict(method=method, key=jr.key(0))

    def call(pipeline, num_train_steps=2, batch_size=2):
        sizes = dict(num_train_steps=num_train_steps, batch_size=batch_size)
        found = _numbers(fn, pipeline, _Begins(), ["cat"], **sizes, **rest)
        return {name: found[name] for name in sizes}

    return call


def _search(fn):
    sampling = draftx.Sampling(2, eta=1.0)
    return lambda p, **options: _numbers(fn, p, _Begins(), ["cat"], sampling, **options)


def _distil(fn, **rest):
    def call(pipeline, **options):
        args = (lambda x, key: x, jnp.full((1, 8, 8, 3), 0.4), ["cat"])
        rest_of = dict(key=jr.key(0), reward=_Begins(), **(rest | options))
        found = _numbers(fn, pipeline, *args, **rest_of)
        return {name: found[name] for name in options}

    return call


def _tokens(pipeline, **options):
    sizes = dict(num_train_steps=2) | options
    args = (_refuse, ["cat"])
    fit = distillation.fit_image_tokens
    found = _numbers(fit, pipeline, *args, key=jr.key(0), callbacks=(), **sizes)
    return {name: found[name] for name in options}


def _refuse(images):
    raise Reached


def _token_scale(pipeline, scale):
    config = pipeline.unet.config
    tokens = models.ImageTokens(config, embedding_features=3, key=jr.key(0))
    mean = lambda images: jnp.mean(images, axis=(1, 2))
    return distillation.TokenPrompt(IMAGES, tokens, mean, scale=scale).scale


def _made(make, *args):
    return lambda pipeline, **options: make(*args, **options)


def _evaluation(pipeline, **options):
    made = draftx.Evaluation(["a"], {"light": toy_reward}, **options)
    return made.every, made.num_samples, made.batch_size


def _bar(pipeline, every):
    return draftx.ProgressBar(every=every).every


def _sweep(pipeline, **options):
    evaluation = draftx.Evaluation(["a"], {"light": _Begins()})
    return _numbers(draftx.sweep_lora_scale, pipeline, [0, 1], evaluation, **options)


def _dropout(pipeline, rate):
    score = types.SimpleNamespace(head=types.SimpleNamespace(linears=[None] * 5))
    return rewards.AestheticDropout(score, rate=rate, key=jr.key(0)).rates


def public():
    """Public functions and classes that can be called."""
    for module in (draftx, distillation, finetuning, lora, rewards, search):
        for fn in vars(module).values():
            if not callable(fn) or not fn.__module__.startswith("draftx"):
                continue
            if not getattr(fn, "__abstractmethods__", None):
                yield fn


_HPS = {"photo": ["a"] * 800}
IMAGES = jnp.full((1, 8, 8, 3), 0.4)

# Of each public function or class that asks for numbers: a call of it with these
# options, whose result is to be the same however they are written.
TABLE: dict[Callable, tuple[Callable, dict[str, float | int]]] = {
    draftx.Sampling: (
        _made(draftx.Sampling),
        dict(num_inference_steps=3, guidance_scale=2.0, eta=0.5, height=16, width=16),
    ),
    draftx.LoRAWindow: (_made(draftx.LoRAWindow), dict(last=2)),
    draftx.AnnealedGuidance: (_made(draftx.AnnealedGuidance), dict(power=2.0)),
    draftx.Memory: (_made(draftx.Memory), dict(images_at_once=2)),
    draftx.Budget: (
        _made(draftx.Budget),
        dict(
            images=2, reward_queries=3, unet_forwards=2.5, unet_backwards=1, seconds=9
        ),
    ),
    draftx.DRaFT: (_made(draftx.DRaFT), dict(truncation_steps=2)),
    draftx.DRaFTLV: (_made(draftx.DRaFTLV), dict(num_samples=3)),
    draftx.SingleRewardLV: (_made(draftx.SingleRewardLV), dict(num_samples=3)),
    draftx.AlignProp: (
        _made(draftx.AlignProp),
        dict(min_steps=1, max_steps=2, mean=2.0, std=1.5),
    ),
    draftx.DRTune: (_made(draftx.DRTune), dict(num_trained_steps=2)),
    draftx.ReFL: (_made(draftx.ReFL), dict(max_steps=2, min_steps=1)),
    draftx.ScoreFunction: (_made(draftx.ScoreFunction), dict(eta=0.5)),
    draftx.Penalized: (_made(draftx.Penalized, draftx.DRaFT(1)), dict(weight=0.5)),
    draftx.DDPO: (
        _made(draftx.DDPO),
        dict(clip_range=0.5, max_advantage=4.0, buffer_size=18, min_count=4, eta=0.5),
    ),
    draftx.RewardWeighted: (
        _made(draftx.RewardWeighted),
        dict(temperature=0.5, buffer_size=18, min_count=4, eta=0.5),
    ),
    draftx.DPG: (
        _made(draftx.DPG),
        dict(critic_rank=4, critic_learning_rate=0.5, eta=0.0),
    ),
    draftx.Updates: (
        _made(draftx.Updates),
        dict(
            num_inner_epochs=2, minibatch_size=2, steps_per_update=1, step_fraction=0.5
        ),
    ),
    draftx.ProgressBar: (_bar, dict(every=5)),
    draftx.EarlyStopping: (
        _made(draftx.EarlyStopping),
        dict(patience=2, min_delta=0.5, min_diversity=0.25),
    ),
    draftx.Checkpoints: (
        _made(draftx.Checkpoints, "checkpoints"),
        dict(every=5, total_limit=2, permanent_every=3, resume=4),
    ),
    draftx.Stopping: (_made(draftx.Stopping), dict(max_skipped_steps=2)),
    draftx.Evaluation: (_evaluation, dict(every=5, num_samples=3, batch_size=2)),
    draftx.sweep_lora_scale: (_sweep, dict(min_diversity=0.5)),
    draftx.adamw: (
        _made(draftx.adamw),
        dict(learning_rate=0.5, weight_decay=0.25, max_gradient_norm=2.0),
    ),
    draftx.with_ema: (_made(draftx.with_ema, draftx.adamw()), dict(decay=0.5)),
    finetuning.square_root_decay: (
        lambda _, **options: finetuning.square_root_decay(
            **(dict(learning_rate=1.0, s0=1) | options)
        )(8),
        dict(learning_rate=0.5, s0=2.0),
    ),
    draftx.finetune: (
        _train(draftx.finetune, draftx.DRaFT(1)),
        dict(num_train_steps=3, batch_size=4),
    ),
    draftx.finetune_in_rounds: (
        _train(draftx.finetune_in_rounds, draftx.DDPO()),
        dict(num_train_steps=3, batch_size=4),
    ),
    search.best_of_n: (_search(search.best_of_n), dict(n=3)),
    search.doodl: (
        _search(search.doodl),
        dict(num_steps=2, learning_rate=0.5, noise_weight=0.25),
    ),
    search.svdd: (_search(search.svdd), dict(num_candidates=2, temperature=0.5)),
    search.smc: (
        _search(search.smc),
        dict(num_particles=2, temperature=0.5, tempering=0.25, resample_below=0.5),
    ),
    search.dps: (_search(search.dps), dict(scale=0.5)),
    search.ValueNetworkConfig: (
        _made(search.ValueNetworkConfig),
        dict(in_channels=3, text_features=2, width=8, num_blocks=2),
    ),
    search.fit_value: (
        _search(search.fit_value),
        dict(num_images=4, num_train_steps=2, batch_size=3, learning_rate=0.5),
    ),
    distillation.distill: (
        _distil(distillation.distill, num_train_steps=2),
        dict(num_train_steps=3),
    ),
    distillation.distillation_gradient: (
        _distil(distillation.distillation_gradient),
        dict(step=3),
    ),
    distillation.TimeAnnealing: (
        lambda _, **options: distillation.TimeAnnealing(
            **(dict(final_time_range=(0.1, 0.5), num_steps=10) | options)
        ),
        dict(num_steps=3, power=0.5),
    ),
    distillation.BestAndWorst: (
        _made(distillation.BestAndWorst),
        dict(num_best=1, num_worst=3, best_weight=0.5, worst_weight=0.25),
    ),
    distillation.Softmax: (_made(distillation.Softmax), dict(temperature=0.5)),
    distillation.RewardedNoises: (
        _made(distillation.RewardedNoises, toy_reward),
        dict(num_noises=4, num_steps=2),
    ),
    distillation.TokenPrompt: (_token_scale, dict(scale=0.5)),
    distillation.fit_image_tokens: (
        _tokens,
        dict(num_train_steps=3, num_images=5, batch_size=2),
    ),
    draftx.add_lora: (
        lambda p, **options: lora.lora_state_dict(
            lora.add_lora(
                p, targets=["attn2.to_v"], key=jr.key(0), **(dict(rank=1) | options)
            )
        ),
        dict(rank=2, alpha=1.5),
    ),
    draftx.scale_lora: (
        lambda p, **options: lora.lora_state_dict(lora.scale_lora(p, **options)),
        dict(scale=0.5),
    ),
    draftx.load_lora: (
        # The number is looked at before the file.
        lambda p, **options: (
            pytest.raises(
                draftx.io.ModelFileError, draftx.load_lora, p, "none", **options
            ).typename
        ),
        dict(scale=0.5),
    ),
    draftx.add_learned_inputs: (
        lambda p, **options: draftx.add_learned_inputs(p, **options).learned,
        dict(guidance_rate=0.5),
    ),
    rewards.Normalized: (
        _made(rewards.Normalized, toy_reward),
        dict(mean=0.5, std=2.0),
    ),
    rewards.Clipped: (
        _made(rewards.Clipped, toy_reward),
        dict(minimum=-0.5, maximum=2.0),
    ),
    rewards.Thresholded: (
        _made(rewards.Thresholded, toy_reward),
        dict(threshold=0.5),
    ),
    rewards.JPEGCompressibility: (
        _made(rewards.JPEGCompressibility),
        dict(quality=20, factor=0.5),
    ),
    rewards.JPEGIncompressibility: (
        _made(rewards.JPEGIncompressibility),
        dict(quality=20, factor=0.5),
    ),
    rewards.RotationAntiCorrelation: (
        _made(rewards.RotationAntiCorrelation),
        dict(epsilon=0.5),
    ),
    rewards.ResizeAndCrop: (_made(rewards.ResizeAndCrop), dict(resize=256, crop=24)),
    rewards.AestheticDropout: (_dropout, dict(rate=0.5)),
    rewards.ClassifierReward: (
        _made(rewards.ClassifierReward, toy_reward),
        dict(target=3),
    ),
    rewards.CountReward: (_made(rewards.CountReward, toy_reward), dict(count=3)),
    rewards.hps_benchmark: (
        lambda _, **options: _numbers(
            rewards.hps_benchmark, toy_reward, _draw, _HPS, **options
        ),
        dict(batch_size=8),
    ),
    draftx.jpeg_roundtrip: (_made(draftx.jpeg_roundtrip, IMAGES), dict(quality=20)),
}
