"""What a gradient costs beside sampling, counted in the operations of its program."""

import importlib.util
import pathlib

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import pytest

import draftx
from draftx.diffusion import Chain, DDIM, Denoiser, run_truncated, SchedulerConfig
from draftx.layers import Remat
from draftx.lora import lora_filter
from draftx.models import UNet2DConditionModel, UNetConfig


_PATH = pathlib.Path(__file__).parents[2] / "benchmarks" / "_flops.py"
_SPEC = importlib.util.spec_from_file_location("_flops", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
_FLOPS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FLOPS)

_STEPS = DDIM(SchedulerConfig()).steps(6, 0.0)


class _Latent(eqx.Module):
    """The part of a pipeline that carries an adapter."""

    unet: UNet2DConditionModel


def _shapes():
    """Shapes are enough: nothing is computed."""

    def build():
        unet = UNet2DConditionModel(UNetConfig(), key=jr.key(0))
        model = draftx.add_lora(_Latent(unet), rank=4, key=jr.key(1))
        text = jnp.zeros((2, 77, 768))
        return model, jnp.zeros((2, 32, 32, 4)), text

    return eqx.filter_eval_shape(build)


def _clean(model, latents, text, k, *, remat="none", checkpoint=True):
    denoiser = Denoiser(
        model.unet,
        _STEPS.timestep,
        text,
        text,
        jnp.asarray(7.5),
        remat=Remat(remat),
    )
    chain = Chain(DDIM(SchedulerConfig()), denoiser, _STEPS)
    return run_truncated(chain, latents, k, checkpoint=checkpoint).latents


def _gradient(k, *, remat="none", again=False):
    model, latents, text = _shapes()
    spec = lora_filter(model)
    trained, frozen = eqx.filter(model, spec), eqx.filter(model, spec, inverse=True)

    def loss(trained, frozen, latents, text):
        model = eqx.combine(trained, frozen)
        clean = _clean(model, latents, text, k, remat=remat, checkpoint=again)
        return jnp.sum(clean)

    gradient = lambda *args: eqx.filter_grad(loss)(*args)
    return _FLOPS.count_flops(gradient, trained, frozen, latents, text)


@pytest.fixture(scope="module")
def sampling():
    flops = _FLOPS.count_flops(lambda *a: _clean(*a, 0), *_shapes())
    return flops, flops / len(_STEPS)


def test_backward_pass_is_about_one_forward_pass_a_step(sampling):
    # One product for each frozen layer's input, none for its weight; twice for
    # attention, whose scores and values are both differentiated; little for LoRA.
    total, step = sampling
    with _FLOPS.plain_attention():
        assert (_gradient(1) - total) / step < 1.25
        assert (_gradient(3) - total) / step < 3 * 1.25


@pytest.mark.slow
def test_step_remat_costs_one_more_forward_pass(sampling):
    _, step = sampling
    with _FLOPS.plain_attention():
        again = _gradient(3, again=True)
        assert 2.9 < (again - _gradient(3)) / step < 3.1
        # And the first block, the largest, once more for each step.
        first = _gradient(3, remat="step", again=True) - again
    assert 0 < first / step < 3 * 0.07
