"""A batch split over two devices: a process of its own, as the number of devices is
settled once for each."""

import pathlib
import subprocess
import sys
import tempfile

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import draftx
from draftx.episodes import _episode, make_task
from draftx.finetuning import split as separate, value_and_grad
from draftx.pipeline._decoding import OneByOne

from ..io.tiny import random_lora, random_pipeline, write_tokenizer
from ..toys import toy_reward


_ROOT = pathlib.Path(__file__).parents[2]
_TARGETS = ("attn2.to_q", "attn2.to_v", "net.2", "proj_out")
_PROMPTS = ["cat", "do", "cat do", "a"]
_METHODS = {
    "noise": (draftx.DRaFT(), {"eta": 1.0}, "step"),
    "none": (draftx.DRaFT(truncation_steps=2), {}, "none"),
    "draws": (draftx.DRaFTLV(), {}, "block"),
    "window": (draftx.DRaFT(), {"lora_schedule": draftx.LoRAWindow(last=2)}, "step"),
    "in turn": (draftx.DRaFT(truncation_steps=1), {}, "step"),
}


def main(name: str) -> None:
    """Compares the gradient on two devices with that on one."""
    jax.config.update("jax_num_cpu_devices", 2)
    if name == "in turn":  # As on a TPU: one image of each device after the other.
        _episode.decoding = lambda decoder, mesh: OneByOne(
            decoder, mesh.size if mesh else 1
        )
    with tempfile.TemporaryDirectory() as folder:
        base = random_pipeline(write_tokenizer(pathlib.Path(folder)), short=True)
    pipeline = random_lora(base, targets=_TARGETS, scale=0.3)
    method, options, remat = _METHODS[name]
    latents = jr.normal(jr.key(1), (4, *pipeline.latent_shape))
    rewards = [toy_reward, lambda images: images.mean((1, 2, 3))]
    task = make_task(
        pipeline,
        draftx.rewards.WeightedSum(rewards, [1.0, 0.1], ["reference", "light"]),
        draftx.Table.of(_PROMPTS),
        draftx.Sampling(3, **options),
        shape=latents.shape,
        memory=draftx.Memory(remat),
    ).encoded()
    batch = task.batch(latents, jr.key(2))
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))

    def gradient(task, batch, mesh):
        trainable, frozen = separate(task)
        (_, scores), gradient = value_and_grad(trainable, frozen, method, batch, mesh)
        return scores, draftx.lora_state_dict(gradient)

    expected = eqx.filter_jit(gradient)(task, batch, None)
    everywhere = NamedSharding(mesh, PartitionSpec())
    task, batch = eqx.filter_shard((task, batch), everywhere)
    rows = lambda b: (b.latents, b.conditioning.embeddings)
    batch = eqx.tree_at(rows, batch, jax.device_put(rows(batch), split))
    compiled = eqx.filter_jit(gradient).lower(task, batch, mesh).compile()
    actual = compiled(task, batch, mesh)
    for (path, e), a in zip(
        jax.tree_util.tree_leaves_with_path(expected),
        jax.tree.leaves(actual),
        strict=True,
    ):
        scale = np.linalg.norm(e)
        assert np.linalg.norm(np.asarray(a) - np.asarray(e)) <= 1e-4 * scale, path
        assert scale > 0, path
    # One array, once: not every layer's in every step. No device has another's images.
    text = compiled.compiled.as_text()
    assert text.count(" all-reduce(") == 1
    assert not any(f" {word}(" in text for word in ("all-gather", "all-to-all"))


@pytest.mark.parametrize(
    "name",
    [
        "noise",
        "none",
        "in turn",
        pytest.param("draws", marks=pytest.mark.slow),
        pytest.param("window", marks=pytest.mark.slow),
    ],
)
def test_the_gradient_is_the_same_and_summed_once(name):
    subprocess.run([sys.executable, "-m", __name__, name], cwd=_ROOT, check=True)


if __name__ == "__main__":
    main(sys.argv[1])
