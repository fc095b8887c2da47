"""Functions of the host in compiled programs: no program waits for itself."""

import os
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import draftx
from draftx.rewards import as_reward, check_scores, HostReward, probe_host_rewards

from ..helpers import assert_close


IMAGES = jax.ShapeDtypeStruct((4, 8, 6, 3), jnp.float32)
# With one thread for programs, whatever waits for a second one waits for ever. The
# images are of an unfinished program: then the next is not run by Python's own thread;
# several columns, as JAX copies an array only if its address is no multiple of 64.
ON_ONE_CORE = """
    import os

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax, jax.numpy as jnp, numpy as np, draftx

    @jax.jit
    def draw(images, weights):
        for _ in range(8):
            weights = weights @ weights / len(weights)
        return jnp.tanh(images) + 0 * weights[0, 0]

    def of_numpy(images, rows):
        return images.mean((1, 2, 3))

    def of_jax(images, rows):
        return np.asarray(jnp.asarray(images).mean((1, 2, 3)))

    columns = {str(i): jnp.ones((4, 10_000)) for i in range(8)}
    images, weights = jnp.full((4, 64, 64, 3), 0.5), jnp.ones((600, 600))
    reward = draftx.rewards.HostReward(FN)
    score = jax.jit(lambda images, rows: reward(images, rows))
    for _ in range(3):
        print(float(score(draw(images, weights), columns)[0]))
"""


def _run(fn):
    code = textwrap.dedent(ON_ONE_CORE).replace("FN", fn)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30
    )


needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here"
)


@needs_affinity
def test_a_function_of_numpy_does_not_wait_for_ever_on_one_core():
    done = _run("of_numpy")
    assert done.returncode == 0, done.stderr
    scores = np.asarray(done.stdout.split(), float)
    np.testing.assert_allclose(scores, np.full(3, np.tanh(0.5)), rtol=1e-5)


@needs_affinity
def test_a_function_that_calls_jax_is_an_error_in_a_program():
    done = _run("of_jax")
    assert done.returncode == 1
    assert "`fn` of a HostReward must not call JAX" in done.stderr


_linear = eqx.nn.Linear(3, 1, key=jax.random.key(0))
_jitted = jax.jit(lambda images: jnp.mean(images, axis=(1, 2, 3)))


@pytest.mark.parametrize(
    "fn",
    [
        lambda images: jnp.mean(images, axis=(1, 2, 3)),
        lambda images: jax.device_put(images).mean((1, 2, 3)),
        lambda images: np.asarray(_jitted(images)),
        lambda images: np.asarray(jax.vmap(_linear)(images.mean((1, 2))))[:, 0],
        lambda images: images.mean((1, 2, 3)) + np.asarray(jnp.zeros(4)),
    ],
)
def test_a_function_that_calls_jax_is_known_before_any_program(fn):
    _jitted(
        jnp.zeros(IMAGES.shape)
    )  # Compiled already: it is not compiling that hangs.
    with pytest.raises(
        draftx.RewardError, match="must not call JAX.* as the reward it"
    ):
        probe_host_rewards(HostReward(fn), IMAGES.shape, ["a"])


def test_arrays_of_all_kinds_arrive_and_may_be_kept_and_changed():
    kept = []

    def score(images, rows):
        kept.append(images)
        images *= 2
        assert rows["prompt"] == ["", ""]
        assert rows["half"].dtype == np.float16
        return images.mean((1, 2, 3)) + rows["half"] + rows["flag"] + rows["count"]

    reward = HostReward(score)
    table = {
        "prompt": ["", ""],
        "half": np.asarray([0.5, 1.5], np.float16),
        "flag": np.asarray([True, False]),
        "count": np.asarray([10, 20]),
    }
    features = reward.prepare(table)
    program = jax.jit(lambda images, features: reward(images, features))
    for value in (0.25, 0.5):
        images = jnp.full((2, 4, 4, 3), value, jnp.bfloat16)
        expected = jnp.asarray([11.5, 21.5]) + 2 * value
        assert_close(program(images, features), expected)
        assert_close(reward(images, features), expected)
        assert float(images[0, 0, 0, 0]) == value
    assert [float(images.mean()) for images in kept] == [0.5, 0.5, 1.0, 1.0]


def test_a_batch_over_several_devices_is_scored_once():
    devices = jax.devices()
    seen = []

    def score(images):
        seen.append(images.copy())
        return images.mean((1, 2, 3))

    reward = HostReward(score)
    mesh = jax.make_mesh((len(devices),), ("batch",))
    batch = NamedSharding(mesh, PartitionSpec("batch"))
    program = jax.jit(lambda images: reward(jnp.sqrt(images)))
    rising = jnp.arange(8.0)[:, None, None, None]
    images = jax.device_put(jnp.broadcast_to(rising, (8, 4, 4, 3)), batch)
    for _ in range(2):
        assert_close(program(images), jnp.sqrt(jnp.arange(8.0)))
    assert_close(program(images + 1), jnp.sqrt(jnp.arange(1.0, 9)))
    assert [images.shape for images in seen[:2]] == [(8, 4, 4, 3)] * 2
    # The second time, the images are those of the first.
    assert len(seen) == (2 if len(devices) > 1 else 3)


def _numpy(images):
    return np.asarray(images).mean((1, 2, 3))


@pytest.mark.parametrize(
    "fn",
    [
        _numpy,
        lambda images: np.sqrt(images).mean((1, 2, 3)),
        lambda images: np.asarray([image.mean() for image in images]),
        lambda images: [float(image.mean()) for image in images],
        lambda images: images[:, 0, 0, 0] if images.mean() > 0.5 else 0,
        lambda images: (255 * images).astype("uint8").tobytes(),
        lambda images: jnp.zeros(int(images.sum())),
    ],
)
def test_functions_of_numpy_are_sent_to_the_host_reward(fn):
    message = "that JAX can trace.*give `draftx.rewards.HostReward\\(fn\\)`"
    for reward in (fn, draftx.rewards.Negated(fn)):
        with pytest.raises(draftx.RewardError, match=message):
            check_scores(as_reward(reward), IMAGES, None)


class _OfNumPy(draftx.rewards.AbstractReward):
    def __call__(self, images, features=None):
        return _numpy(images)


def test_classes_of_numpy_and_other_libraries_too():
    message = "JAX can trace.* failed with: "
    with pytest.raises(draftx.RewardError, match=message + "The numpy.ndarray conv"):
        check_scores(_OfNumPy(), IMAGES, None)

    def strict(images):  # As `torch.from_numpy` says it.
        raise TypeError(f"expected np.ndarray (got {type(images).__name__})")

    with pytest.raises(draftx.RewardError, match=message + "expected np.ndarray"):
        check_scores(as_reward(strict), IMAGES, None)
    with pytest.raises(KeyError, match="size"):  # A mistake of their own stays it.
        check_scores(as_reward(lambda images: {}["size"]), IMAGES, None)


def test_where_the_numbers_are_there_numpy_is_welcome():
    images = jnp.full(IMAGES.shape, 0.5)
    np.testing.assert_allclose(as_reward(_numpy)(images), 0.5)
