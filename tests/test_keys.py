"""What is no key is named, where it is given."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx._keys import check_key


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (0, r"`key` must be one key .* such as `jax.random.key\(0\)`; got 0\."),
        (np.int32(7), r"such as `jax.random.key\(7\)`; got np.int32\(7\)"),
        (None, r"such as `jax.random.key\(0\)`; got None"),
        (True, r"such as `jax.random.key\(0\)`; got True"),
        ("seed", "got 'seed'"),
        (jnp.asarray(3), r"got \(\) int32"),
        (np.zeros(2), r"got \(2,\) float64"),
        (jr.split(jr.key(0), 3), r"such as `key\[0\]` of several; got \(3,\) key<fry>"),
        (jr.split(jr.PRNGKey(0), 3), r"got \(3, 2\) uint32"),
    ],
)
def test_what_is_no_key(key, message):
    with pytest.raises(ValueError, match=message):
        check_key(key)


def test_keys_of_all_kinds():
    for key in (
        jr.key(0),
        jr.PRNGKey(0),
        np.zeros(2, np.uint32),
        jr.key(1, impl="rbg"),
    ):
        assert check_key(key).dtype == key.dtype
    jax.jit(check_key)(jr.key(0))
    jax.jit(check_key)(jr.PRNGKey(0))


def _mean(images):
    return jnp.mean(images, axis=(1, 2, 3))


_SAMPLING = draftx.Sampling(num_inference_steps=2)
_IMAGES = jnp.full((1, 8, 8, 3), 0.5)
_STEPS = {"num_train_steps": 1, "batch_size": 2, "key": 0}


@pytest.mark.parametrize(
    "call",
    [
        lambda p: draftx.sample(p, ["cat"], _SAMPLING, key=0),
        lambda p: draftx.add_lora(p, rank=2, key=0),
        lambda p: draftx.finetune(
            p, _mean, ["cat"], _SAMPLING, method=draftx.DRaFT(), **_STEPS
        ),
        lambda p: draftx.finetune_in_rounds(
            p, _mean, ["cat"], _SAMPLING, method=draftx.DDPO(), **_STEPS
        ),
        lambda p: draftx.reward_gradient(
            p, _mean, ["cat"], _SAMPLING, method=draftx.DRaFT(), key=0
        ),
        lambda p: draftx.search.best_of_n(p, _mean, ["cat"], _SAMPLING, n=2, key=0),
        lambda p: draftx.distillation.distill(
            p, lambda x, key: x, _IMAGES, ["cat"], key=0, num_train_steps=1
        ),
        lambda p: draftx.distillation.distillation_gradient(
            p, lambda x, key: x, _IMAGES, ["cat"], key=0
        ),
        lambda p: draftx.distillation.fit_image_tokens(
            p, _mean, ["cat"], key=0, num_train_steps=1
        ),
        lambda p: draftx.Evaluation(["cat"], {"mean": _mean}, key=0),
        lambda p: draftx.rewards.with_key(draftx.rewards.as_reward(_mean), 0),
    ],
)
def test_everything_that_takes_a_key_says_so(call, short_pipeline, without_types):
    with pytest.raises(ValueError, match="`key` must be one key of `jax.random`"):
        call(draftx.add_lora(short_pipeline, rank=2, key=jr.key(0)))
