"""The tier that is chosen, and the estimate that it is chosen by."""

import logging

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import pytest

import draftx
from draftx._compilation import compiler_options
from draftx._table import Table
from draftx.episodes import make_task
from draftx.finetuning.training import _tier
from draftx.finetuning.training._reward_gradient import split, value_and_grad
from draftx.layers import Remat

from ...toys import toy_reward


_SAMPLING = draftx.Sampling(6, guidance_scale=2.0)


def _estimate(pipeline, shape, tier, steps, **options):
    return _tier.estimate(
        pipeline.unet.config,
        pipeline.vae.config,
        shape,
        tier,
        steps=steps,
        guided=True,
        **({"images_at_once": shape[0]} | options),
    )


def _planned(pipeline, shape, memory, k):
    """What the compiler plans for a gradient, in numbers of four bytes."""
    table = Table.of(["a cat"] * shape[0])
    task = make_task(pipeline, toy_reward, table, _SAMPLING, shape=shape, memory=memory)
    trainable, task = split(task.encoded())
    method = draftx.DRaFT(truncation_steps=k)

    def fn(trainable, task, latents):
        batch = task.batch(latents, jr.key(0))
        (_, scores), gradient = value_and_grad(trainable, task, method, batch)
        return scores.total, gradient

    latents = jnp.zeros(shape)
    options = compiler_options("cpu")
    compiled = eqx.filter_jit(fn, compiler_options=options)
    plan = compiled.lower(trainable, task, latents).compile().compiled.memory_analysis()
    return plan.temp_size_in_bytes / 4


def _check_estimate(pipeline, shape, tier, k, at_once=None):
    planned = _planned(pipeline, shape, draftx.Memory(tier, at_once), k)
    options = {} if at_once is None else {"images_at_once": at_once}
    estimated = _estimate(pipeline, shape, Remat(tier), k, **options)
    print(f"{shape} {tier} {k}: {estimated / planned:.2f} of the plan")
    assert planned / _tier.MARGIN < estimated < planned * _tier.MARGIN


@pytest.fixture(scope="module")
def adapted():
    return draftx.add_lora(draftx.load("tiny"), rank=4, key=jr.key(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "tier", "k", "at_once"),
    [
        ((4, 16, 16, 4), "block", 1, None),
        ((4, 16, 16, 4), "block", 4, None),
        ((4, 16, 16, 4), "step", 1, None),
        ((4, 16, 16, 4), "step", 4, None),
        ((4, 16, 16, 4), "none", 1, None),
        ((4, 16, 16, 4), "none", 4, None),
        ((4, 16, 16, 4), "ff", 4, None),
        ((4, 16, 16, 4), "nested", 4, None),
        ((2, 32, 16, 4), "block", 1, 1),
        ((2, 32, 32, 4), "block", 6, 1),
        ((2, 32, 32, 4), "step", 6, 1),
        ((1, 48, 32, 4), "none", 2, None),
    ],
)
def test_estimate_is_near_the_plan(adapted, shape, tier, k, at_once):
    _check_estimate(adapted, shape, tier, k, at_once)


# Of larger images than this model's, so that maps are most of the memory.
@pytest.mark.parametrize(("tier", "k"), [("block", 3), ("step", 1)])
def test_estimate_for_the_fewest_blocks_is_near_the_plan(short_pipeline, tier, k):
    pipeline = draftx.add_lora(short_pipeline, rank=2, key=jr.key(0))
    _check_estimate(pipeline, (2, 64, 64, 4), tier, k)


def _of_stable_diffusion(tier, steps):
    """Bytes of a gradient at 512x512, batch 4, bfloat16, one image decoded at once."""
    return 2 * _tier.estimate(
        draftx.models.UNetConfig(),
        draftx.models.AutoencoderConfig(),
        (4, 64, 64, 4),
        Remat(tier),
        steps=steps,
        guided=True,
        images_at_once=1,
    )


@pytest.mark.parametrize(("tier", "gib"), [("none", 242), ("step", 5.3)])
def test_estimate_at_real_size_is_near_the_plan_for_a_gpu(tier, gib):
    # Of the program as the compiler planned it for an H200, all 50 steps.
    assert gib / 1.2 < _of_stable_diffusion(tier, 50) / 2**30 < gib * 1.2


@pytest.mark.parametrize(
    ("platform", "gib", "k", "tier"),
    [
        ("cpu", 100, 50, "block"),
        ("cpu", 20, 50, "step"),
        ("cpu", 1, 50, "nested"),
        ("cpu", None, 50, "block"),
        ("gpu", 1000, 50, "none"),
        ("gpu", 300, 50, "ff"),
        ("gpu", 79, 50, "block"),
        ("gpu", 79, 1, "none"),
        ("tpu", 16, 50, "step"),
        ("tpu", None, 50, "step"),
    ],
)
def test_choice_is_the_fastest_that_fits(platform, gib, k, tier):
    needed = lambda tier: _of_stable_diffusion(tier, k)
    free = None if gib is None else gib * 2**30
    assert _tier.fastest(platform, needed, free) == tier


def _settle(pipeline, monkeypatch, mib, *, memory=None, **options):
    monkeypatch.setattr(_tier, "free_memory", lambda devices: mib * 2**20)
    options = {"steps": 6} | options
    return _tier.settle(memory or draftx.Memory(), pipeline, _SAMPLING, 4, **options)


def test_it_is_said_in_the_log(adapted, monkeypatch, caplog):
    with caplog.at_level(logging.INFO, "draftx"):
        assert _settle(adapted, monkeypatch, 1000).remat is Remat.BLOCK
        assert _settle(adapted, monkeypatch, 80).remat is Remat.STEP
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("remat 'block': a gradient takes about ")
    assert second.endswith(" MiB beside weights and reward, of 80 that are free")


def test_what_is_said_stays(adapted, monkeypatch):
    given = draftx.Memory("nested", 2)
    assert _settle(adapted, monkeypatch, 1000, memory=given) == given
    kept = _settle(adapted, monkeypatch, 1000, memory=draftx.Memory(images_at_once=2))
    assert kept == draftx.Memory("block", 2)
    # Each step of AlignProp is computed again anyway.
    assert _settle(adapted, monkeypatch, 1000, steps=0).remat is Remat.STEP


def test_a_training_that_goes_on_keeps_its_tier(short_pipeline, monkeypatch, tmp_path):
    pipeline = draftx.add_lora(
        short_pipeline, rank=2, targets=["proj_out"], key=jr.key(0)
    )
    checkpoints = draftx.Checkpoints(tmp_path / "saved", every=1)

    def train(steps, mib, **options):
        monkeypatch.setattr(_tier, "free_memory", lambda devices: mib * 2**20)
        return draftx.finetune(
            pipeline,
            toy_reward,
            ["cat"],
            draftx.Sampling(2, guidance_scale=1.0),
            method=draftx.DRaFT(1),
            key=jr.key(1),
            num_train_steps=steps,
            batch_size=2,
            callbacks=(),
            checkpoints=checkpoints,
            **options,
        )

    train(1, 0)  # Nothing fits.
    assert len(train(2, 1000).history) == 2
    with pytest.raises(ValueError, match="changed\nsince|changed since:\n  memory"):
        train(3, 1000, memory=draftx.Memory("block"))
    assert checkpoints.begun_with()["memory"].count("nested") == 1
