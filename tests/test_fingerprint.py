"""What computes the same is described the same, also in another process."""

import functools as ft
import subprocess
import sys

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import draftx
from draftx._fingerprint import fingerprint
from draftx.rewards import as_reward, WeightedSum


def _make(code, name="reward"):
    names = {"jnp": jnp, "__name__": "mine"}
    exec(code, names)
    return names[name]


_REWARD = "def reward(images):\n    return -jnp.mean(images, (1, 2, 3))"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (draftx.adamw(1e-3), draftx.adamw(2e-3)),
        (draftx.adamw(1e-3), draftx.adamw(1e-3, weight_decay=0.2)),
        (draftx.adamw(1e-3), draftx.adamw(1e-3, max_gradient_norm=1.0)),
        (optax.adam(1e-3), optax.adam(1e-3, b1=0.8)),
        (optax.sgd(1e-3), optax.sgd(optax.linear_schedule(1e-3, 0, 5))),
        (
            optax.sgd(optax.linear_schedule(1e-3, 0, 5)),
            optax.sgd(optax.linear_schedule(1e-3, 0, 6)),
        ),
        (_make(_REWARD), _make(_REWARD.replace("-jnp", "jnp"))),
        (_make(_REWARD), _make(_REWARD.replace("mean", "max"))),
        (_make(_REWARD), _make(_REWARD.replace("2, 3", "2, 4"))),
        (draftx.DRaFT(1), draftx.DRaFT(2)),
        (draftx.DRaFT(1), draftx.DRaFTLV()),
        (jnp.zeros(3), jnp.ones(3)),
        (jnp.zeros(3), np.zeros(3)),
        (jr.key(1), jr.key(2)),
        (ft.partial(max, 1), ft.partial(max, 2)),
        ({"a": 1}, {"a": 2}),
    ],
)
def test_what_differs_is_told_apart(one, other):
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)


def test_what_is_written_twice_is_the_same():
    for make in (
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
        lambda: optax.sgd(optax.cosine_decay_schedule(1e-3, 10)),
        lambda: as_reward(_make(_REWARD)),
        lambda: WeightedSum([_make(_REWARD)], [2.0]),
        lambda: draftx.rewards.JPEGCompressibility(),
        lambda: jr.key(1),
    ):
        assert fingerprint(make()) == fingerprint(make())
        assert "0x" not in fingerprint(make())


def test_what_closes_over_itself_ends():
    def loop():
        return loop

    assert "..." in fingerprint(loop)


_PRINT = """
import draftx, jax.numpy as jnp, optax
from draftx._fingerprint import fingerprint
scale = 2.0
def make(scale):
    return lambda images: scale * jnp.mean(images, (1, 2, 3))
chosen = lambda name: name in {"a", "b", "c", "d"}
for value in (draftx.adamw(1e-3), make(2.0), {"b", "a"}, draftx.Sampling(3), chosen):
    print(fingerprint(value))
"""


def test_another_process_says_the_same():
    printed = {
        subprocess.run(
            [sys.executable, "-c", _PRINT], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(printed) == 1
