"""A batch split over two devices: a process of its own, as the number of devices is
settled once for each."""

import pathlib
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import draftx
from draftx.finetuning import value_and_grad
from draftx.lora import lora_filter

from .test_gradient import make_pipeline, reference


_ROOT = pathlib.Path(__file__).parents[2]
_METHODS = {
    "noise": (draftx.DRaFT(), {"eta": 1.0}),
    "none": (draftx.DRaFT(truncation_steps=2), {"remat": "none"}),
    "draws": (draftx.DRaFTLV(), {"remat": "block"}),
    "window": (draftx.DRaFT(), {"lora_schedule": draftx.LoRAWindow(last=2)}),
}


def main(name: str) -> None:
    """Compares the gradient on two devices with that on one."""
    jax.config.update("jax_num_cpu_devices", 2)
    with np.load(reference.PATH) as file:
        pipeline = make_pipeline(dict(file))
    method, options = _METHODS[name]
    ids = pipeline.tokenize(["a cat", "a dog", "a red car", "two birds"])
    latents = jr.normal(jr.key(1), (4, *pipeline.latent_shape))
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))

    def gradient(pipeline, ids, latents, mesh):
        trainable, frozen = eqx.partition(pipeline, lora_filter(pipeline))
        (_, rewards), gradient = value_and_grad(
            trainable,
            frozen,
            method,
            reference.reward,
            ids,
            jnp.zeros_like(ids[:1]),
            latents,
            jnp.asarray(7.5),
            jr.key(2),
            num_inference_steps=3,
            mesh=mesh,
            **options,
        )
        return rewards, draftx.lora_state_dict(gradient)

    expected = eqx.filter_jit(gradient)(pipeline, ids, latents, None)
    ids, latents = jax.device_put((ids, latents), split)
    everywhere = NamedSharding(mesh, PartitionSpec())
    pipeline = eqx.filter_shard(pipeline, everywhere)
    compiled = eqx.filter_jit(gradient).lower(pipeline, ids, latents, mesh).compile()
    actual = compiled(pipeline, ids, latents, mesh)
    for (path, e), a in zip(
        jax.tree_util.tree_leaves_with_path(expected),
        jax.tree.leaves(actual),
        strict=True,
    ):
        scale = np.linalg.norm(e)
        assert np.linalg.norm(np.asarray(a) - np.asarray(e)) <= 1e-4 * scale, path
        assert scale > 0, path
    # One array, once: not every layer's in every step.
    assert compiled.compiled.as_text().count(" all-reduce(") == 1


@pytest.mark.parametrize(
    "name",
    [
        "noise",
        "none",
        pytest.param("draws", marks=pytest.mark.slow),
        pytest.param("window", marks=pytest.mark.slow),
    ],
)
def test_the_gradient_is_the_same_and_summed_once(name):
    subprocess.run([sys.executable, "-m", __name__, name], cwd=_ROOT, check=True)


if __name__ == "__main__":
    main(sys.argv[1])
