"""Each reward of a sum has its mean and spread in the history, and is asked once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.episodes import make_task
from draftx.finetuning import objective, split
from draftx.rewards import HostReward, Negated, WeightedSum

from ..toys import toy_noise, toy_reward, WEIGHT
from .estimators.family import episode, KEY, METHODS
from .short import finetune, PROMPTS, SAMPLING


NAMES, WEIGHTS = ["error", "smooth"], [2.0, -0.5]


def smooth(images):
    # The one function with an error function in it.
    return jnp.mean(jax.lax.erf(images), axis=(1, 2, 3))


def _sum(names=NAMES):
    return WeightedSum([toy_reward, smooth], WEIGHTS, names)


def _gradient(method, reward, **options):
    """As a program that is compiled, and not yet run."""

    def of_weight(weight):
        return method(episode(weight, toy_noise(4), reward=reward, **options), KEY)

    run = jax.jit(jax.value_and_grad(of_weight, has_aux=True))
    return run.lower(jnp.asarray(WEIGHT, jnp.float32))


def _run(*args, **options):
    weight = jnp.asarray(WEIGHT, jnp.float32)
    return _gradient(*args, **options).compile()(weight)


@pytest.mark.parametrize(
    ("name", "size"),
    [("draft-2", None), ("draft-lv", 2), ("single", None), ("score", 2)],
)
def test_components_of_the_images_of_the_chain(name, size):
    method = METHODS[name]
    options = dict(images_at_once=size, remat="block", eta=float(name == "score"))
    (value, scores), gradient = _run(method, _sum(), **options)
    # Evaluated separately: each reward trained on alone sees the same images.
    for name, reward in zip(NAMES, (toy_reward, smooth), strict=True):
        alone = _run(method, reward, **options)[0][1]
        assert alone.components == {}
        np.testing.assert_allclose(scores.components[name], alone.total, rtol=1e-5)
    # To say so changes no bit of what is learned.
    (plain_value, plain), plain_gradient = _run(method, _sum(None), **options)
    assert plain.components == {}
    np.testing.assert_array_equal(gradient, plain_gradient)
    np.testing.assert_array_equal(scores.total, plain.total)
    assert value == plain_value


@pytest.mark.parametrize("name", ["draft-2", "draft-lv", "single", "score"])
@pytest.mark.parametrize("size", [None, 2])
def test_no_reward_is_asked_again(name, size):
    programs = [
        _gradient(METHODS[name], _sum(names), images_at_once=size).as_text()
        for names in (NAMES, None)
    ]
    counts = [program.count("erf") for program in programs]
    assert counts[0] == counts[1] > 0


class _Computes(draftx.AbstractGradientEstimator):
    """Computes with what an episode gives; hands on an array, or all of it."""

    is_bare: bool = eqx.field(static=True)

    def check(self, num_inference_steps):
        pass

    def __call__(self, episode, key):
        value, rewards = episode.score(episode.run(1))
        value = value - 0.1 * jnp.std(rewards) + jnp.mean(rewards - jnp.ones(2))
        return value, jnp.asarray(rewards) if self.is_bare else rewards


@pytest.mark.parametrize("is_bare", [True, False])
def test_an_estimator_of_ones_own_may_give_an_array(pipeline, is_bare):
    shape = (2, *pipeline.latent_shape)
    table = draftx.Table.of(PROMPTS)
    task = make_task(pipeline, _sum(), table, SAMPLING, shape=shape)
    batch = task.batch(jnp.zeros(shape), KEY)
    trainable, task = split(task)
    _, scores = eqx.filter_eval_shape(
        objective, trainable, task, _Computes(is_bare), batch
    )
    assert scores.total.shape == (2,)
    assert set(scores.components) == (set() if is_bare else set(NAMES))


_ALONE = {"error": toy_reward, "smooth": smooth}


def _untimed(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def _assert_interrupted(train, folder):
    """Trains without and with an interruption; gives the history, the same of both."""

    def stop(row, pipeline):
        if row["step"] == 1:
            raise InterruptedError

    whole = train()
    checkpoints = draftx.Checkpoints(folder, every=1)
    with pytest.raises(InterruptedError):
        train(checkpoints=checkpoints, callbacks=[stop])
    again = train(checkpoints=checkpoints)
    assert _untimed(again.history) == _untimed(whole.history)
    return whole.history


def test_rows_of_a_training(pipeline, tmp_path):
    reward = Negated(_sum())
    train = lambda **options: finetune(pipeline, reward, num_train_steps=3, **options)
    history = _assert_interrupted(train, tmp_path)
    for row in history:
        total = sum(w * row[f"reward/{n}"] for n, w in zip(NAMES, WEIGHTS, strict=True))
        assert row["reward"] == pytest.approx(-total, rel=1e-5)
    # The images of the first step, drawn and scored apart from it.
    row = history[0]
    latents_key = jr.split(jr.fold_in(jr.key(0), 0), 4)[1]
    latents = jr.normal(latents_key, (2, *pipeline.latent_shape))
    prompts = [PROMPTS[i] for i in row["prompts"]]
    images = draftx.sample(pipeline, prompts, SAMPLING, latents=latents)
    for name, alone in _ALONE.items():
        scores = np.asarray(alone(images), np.float64)
        assert row[f"reward/{name}"] == pytest.approx(scores.mean(), rel=1e-4)
        assert row[f"reward_std/{name}"] == pytest.approx(scores.std(), rel=1e-2)


SEEN = []


def on_host(images):
    SEEN.append(np.array(images))
    return np.mean(images**2, axis=(1, 2, 3))


def test_rows_of_rounds(pipeline, tmp_path):
    SEEN.clear()
    reward = WeightedSum([smooth, HostReward(on_host)], [1.0, 3.0], ["smooth", "host"])

    def train(**options):
        return draftx.finetune_in_rounds(
            pipeline,
            reward,
            PROMPTS,
            SAMPLING,
            method=draftx.RewardWeighted(normalization="batch"),
            key=jr.key(0),
            num_train_steps=3,
            batch_size=4,
            memory=draftx.Memory(images_at_once=2),
            **{"callbacks": ()} | options,
        )

    history = _assert_interrupted(train, tmp_path)
    # Once before each training, and then each image once, in two calls a round: three
    # rounds, two until the interruption, and two from the checkpoint before it.
    assert len(SEEN) == 3 + 2 * (3 + 2 + 2)
    for i, row in enumerate(history):
        images = np.concatenate(SEEN[1 + 2 * i : 3 + 2 * i])
        host = np.mean(images**2, axis=(1, 2, 3), dtype=np.float64)
        for name, scores in (("host", host), ("smooth", np.asarray(smooth(images)))):
            assert row[f"reward/{name}"] == pytest.approx(scores.mean(), rel=1e-5)
            assert row[f"reward_std/{name}"] == pytest.approx(scores.std(), rel=1e-3)
