"""The programs that are measured, and the figures made of what XLA says of them."""

import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx.lora import lora_filter

from .helpers import load


_models, _measure = load("_models"), load("_measure")
MIB = 2**20


@pytest.fixture(scope="module")
def shapes():
    return _models.make_inputs(
        "small-shape", dtype="bfloat16", batch=2, rank=4, only_shapes=True
    )


def _shape(x):
    return x.shape, x.dtype


SAMPLING = draftx.Sampling(4)


def _gradient(shapes, k=2, remat="none"):
    brightness = lambda images: jnp.mean(images, axis=(1, 2, 3))
    method, memory = draftx.DRaFT(truncation_steps=k), draftx.Memory(remat)
    return _models.gradient_program(shapes, method, SAMPLING, memory, reward=brightness)


def test_nothing_is_zero_or_twice_the_same():
    inputs = _models.make_inputs("tiny", dtype="float32", batch=2, rank=2)
    adapter = jax.tree.leaves(eqx.filter(inputs.pipeline, lora_filter(inputs.pipeline)))
    assert len(adapter) > 2
    assert all(bool(jnp.all(x != 0)) for x in adapter)
    # Rows differ: XLA could find equal ones.
    ids = inputs.conditioning.input_ids
    assert not np.array_equal(ids[0], ids[1])
    assert not np.array_equal(inputs.latents[0], inputs.latents[1])


def test_a_process_says_its_peak_beside_the_plan():
    x = jnp.ones((2048, 2048))
    program = _models.Program(lambda x: x @ x, x)
    compiled, figures = _measure.compile_program(program)
    row = _measure.time_program(compiled, x, repeats=1)
    assert figures["peak_mib"] == pytest.approx(32, abs=1)
    assert 32 < row["process_peak_mib"] < 100_000


def test_stable_diffusion_has_its_sizes():
    inputs = _models.make_inputs(
        "sd14-shape", dtype="bfloat16", batch=4, rank=8, only_shapes=True
    )
    spec = lora_filter(inputs.pipeline)
    frozen = eqx.filter(inputs.pipeline, spec, inverse=True)
    sizes = [
        sum(x.size for x in jax.tree.leaves(part))
        for part in (frozen.unet, frozen.text_encoder)
    ]
    assert sizes == [859_520_964, 123_060_480]
    assert inputs.latents.shape == (4, 64, 64, 4)
    assert inputs.pipeline.unet.conv_in.weight.dtype == jnp.bfloat16


def test_programs_give_what_they_say(shapes):
    program = _gradient(shapes)
    rewards, gradient = jax.eval_shape(program.fn, program.arrays)
    assert rewards.shape == (2,)
    adapter = eqx.filter(shapes.pipeline, lora_filter(shapes.pipeline))
    assert jax.tree.map(_shape, gradient) == jax.tree.map(_shape, adapter)
    sampling = _models.sampling_program(shapes, SAMPLING)
    images = jax.eval_shape(sampling.fn, sampling.arrays)
    assert images.shape == (2, 16, 16, 3)
    chain = _models.chain_program(shapes, SAMPLING, 0)
    assert jax.eval_shape(chain.fn, chain.arrays).shape == (2, 8, 8, 4)
    decoder = _models.decoder_program(shapes, differentiate=True)
    assert jax.eval_shape(decoder.fn, decoder.arrays).shape == (2, 8, 8, 4)


def test_model_flops_know_no_recomputation(shapes):
    def flops(k, remat="none"):
        return _measure.model_flops(_gradient(shapes, k, remat))

    forward = _models.chain_program(shapes, SAMPLING, 0)
    step = _measure.model_flops(forward) / 4
    two, four = flops(2), flops(4)
    # A step's backward pass costs about what its forward pass does: here too, attention
    # and the adapter apart.
    assert step < (four - two) / 2 < 2 * step
    # Each recomputed step costs a forward pass more, but for what is common to all.
    assert 0.9 * step < (flops(4, "step") - four) / 4 < 1.5 * step


def test_memory_beyond_the_weights():
    memory = types.SimpleNamespace(
        argument_size_in_bytes=100 * MIB,
        output_size_in_bytes=3 * MIB,
        temp_size_in_bytes=20 * MIB,
        alias_size_in_bytes=1 * MIB,
    )
    figures = _measure.memory_figures(memory)
    assert figures["beyond_weights_mib"] == 22
    assert figures["peak_mib"] == 122
    # A backend that leaves temporaries out, and one that knows of fragments.
    for reported, peak in ((101, 122), (130, 130)):
        memory.peak_memory_in_bytes = reported * MIB
        assert _measure.memory_figures(memory)["peak_mib"] == peak


def test_rates(monkeypatch):
    device = types.SimpleNamespace(device_kind="NVIDIA H200")
    monkeypatch.setattr(_measure.jax, "devices", lambda: [device])
    row = _measure.rates(2.0, batch=4, flops=int(790e12))
    assert row["images_per_s"] == 2
    assert row["mfu_790"] == pytest.approx(0.5)
    assert row["mfu_989"] == pytest.approx(790 / 989.5 / 2)
    device.device_kind = "cpu"
    assert not any(
        name.startswith("mfu") for name in _measure.rates(1, batch=1, flops=1)
    )


def test_a_program_is_compiled_and_timed():
    program = _models.Program(lambda x: x @ x, jnp.ones((64, 64)))
    compiled, figures = _measure.compile_program(program)
    assert figures["executed_tflop"] == pytest.approx(2 * 64**3 / 1e12)
    assert figures["arguments_mib"] == 64 * 64 * 4 / MIB
    times = _measure.time_program(compiled, program.arrays, repeats=5)
    assert 0 < times["seconds_p10"] <= times["seconds"] <= times["seconds_p90"]
