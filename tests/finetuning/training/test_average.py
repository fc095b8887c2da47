"""The average of an adapter: against one written out, saved, and what sees it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import draftx
from draftx.finetuning.training import adamw, as_optimizer, ascend, averaged

from ..short import finetune, held_out, RATE


_TREE = {"a": jnp.asarray([1.0, -2.0]), "b": None, "c": jnp.ones((2, 1))}
_GRADIENTS = [
    {"a": jnp.asarray([0.5, 3.0]) / i, "b": None, "c": jnp.full((2, 1), -1.0)}
    for i in (1, 2, 3, 4, 5, 6)
]
_DECAY = 0.3
# min(decay, n / (n + 9)) from the second update on: 2 / 11, 3 / 12, then the decay.
_DECAYS = (0.0, 2 / 11, 1 / 4, 0.3, 0.3, 0.3)


def _walk(optimizer, gradients, is_finite=()):
    """The arrays and the state after each step."""
    optimizer = as_optimizer(optimizer)
    tree, state = _TREE, optimizer.init(_TREE)
    step, seen = eqx.filter_jit(ascend), []
    for i, gradient in enumerate(gradients):
        fine = jnp.asarray(is_finite[i] if is_finite else True)
        tree, state = step(optimizer, gradient, state, tree, fine)
        seen.append((tree, state))
    return seen


def _mean(trees):
    """The average written out, in float64."""
    average = np.zeros(2)
    for decay, tree in zip(_DECAYS, trees, strict=False):
        average = decay * average + (1 - decay) * np.asarray(tree["a"], np.float64)
    return average


def _assert_average(state, tree, trees):
    found = averaged(state, tree)
    np.testing.assert_allclose(found["a"], _mean(trees), rtol=1e-6)
    assert found["b"] is None


def test_the_average_is_that_of_the_arrays_after_each_update():
    plain = _walk(adamw(0.1), _GRADIENTS)
    seen = _walk(draftx.with_ema(adamw(0.1), _DECAY), _GRADIENTS)
    trees = [tree for tree, _ in plain]
    for i, (tree, state) in enumerate(seen):
        # What is trained is what would be without.
        assert eqx.tree_equal(tree, trees[i])
        _assert_average(state, tree, trees[: i + 1])
        assert not np.allclose(averaged(state, tree)["a"], tree["a"]) or i == 0
    # Without an average: the arrays themselves.
    assert eqx.tree_equal(averaged(plain[-1][1], trees[-1]), trees[-1])


def test_bfloat16_is_averaged_in_float32():
    optimizer = draftx.with_ema(optax.sgd(1e-2), _DECAY)
    tree = {"a": jnp.ones(2, jnp.bfloat16)}
    state, step = optimizer.init(tree), eqx.filter_jit(ascend)
    for _ in range(6):
        tree, state = step(optimizer, tree, state, tree, jnp.asarray(True))
    average = state.average["a"]
    assert average.dtype == jnp.float32
    assert not jnp.all(average == average.astype(jnp.bfloat16).astype(jnp.float32))
    assert averaged(state, tree)["a"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "wrap",
    [
        lambda optimizer: optax.MultiSteps(draftx.with_ema(optimizer, _DECAY), 2),
        lambda optimizer: draftx.with_ema(optax.MultiSteps(optimizer, 2), _DECAY),
        lambda optimizer: draftx.with_ema(
            optax.apply_if_finite(optax.MultiSteps(optimizer, 2), 3), _DECAY
        ),
    ],
    ids=["inside", "outside", "two deep"],
)
def test_gathered_gradients_count_when_they_are_followed(wrap):
    seen = _walk(wrap(adamw(0.1)), _GRADIENTS)
    updates = [tree for tree, _ in seen[1::2]]
    _assert_average(seen[-1][1], seen[-1][0], updates)
    _assert_average(seen[4][1], seen[4][0], updates[:2])


def test_a_step_that_is_not_finite_leaves_the_average():
    nan = jax.tree.map(lambda x: x * jnp.nan, _GRADIENTS[0])
    gradients = [_GRADIENTS[0], nan, *_GRADIENTS[1:3]]
    seen = _walk(
        draftx.with_ema(adamw(0.1), _DECAY), gradients, (True, False, True, True)
    )
    assert eqx.tree_equal(seen[1], seen[0])
    trees = [seen[i][0] for i in (0, 2, 3)]
    _assert_average(seen[-1][1], seen[-1][0], trees)


def test_parts_of_an_optimizer_average_their_parts():
    parts = {"x": draftx.with_ema(adamw(0.1), _DECAY), "y": adamw(0.1)}
    labels = {"a": "x", "b": None, "c": "y"}
    seen = _walk(optax.partition(parts, labels), _GRADIENTS)
    _assert_average(seen[-1][1], seen[-1][0], [tree for tree, _ in seen])
    found = averaged(seen[-1][1], seen[-1][0])
    assert eqx.tree_equal(found["c"], seen[-1][0]["c"])


def _lora(pipeline):
    return {k: np.asarray(v) for k, v in draftx.lora_state_dict(pipeline).items()}


def test_training_shows_measures_and_returns_the_average(pipeline):
    seen, plain = [], []
    optimizer = draftx.with_ema(draftx.adamw(RATE), _DECAY)
    options = dict(evaluation=held_out(every=2), num_train_steps=4)
    finetune(pipeline, callbacks=[lambda _, p: plain.append(_lora(p))], **options)
    result = finetune(
        pipeline,
        optimizer=optimizer,
        callbacks=[lambda _, p: seen.append(_lora(p))],
        **options,
    )
    for name in plain[0]:
        average = np.zeros_like(plain[0][name])
        for i, decay in enumerate(_DECAYS[:4]):
            average = decay * average + (1 - decay) * plain[i][name]
            np.testing.assert_allclose(seen[i][name], average, rtol=1e-4, atol=1e-7)
    final = _lora(result.pipeline)
    assert all(np.array_equal(final[name], seen[-1][name]) for name in final)
    # The evaluation is of the average too.
    figures = held_out(every=2)(result.pipeline)
    assert result.evaluations[-1]["score"] == figures["score"]
    assert result.history[-1]["learning_rate"] == pytest.approx(RATE)


def test_it_is_saved_and_gone_on_with_bit_for_bit(pipeline, tmp_path):
    optimizer = draftx.with_ema(draftx.adamw(RATE), _DECAY)
    whole = finetune(pipeline, optimizer=optimizer, num_train_steps=4)
    checkpoints = draftx.Checkpoints(tmp_path, every=2)
    options = dict(optimizer=optimizer, checkpoints=checkpoints)
    finetune(pipeline, num_train_steps=2, **options)
    parts = finetune(pipeline, num_train_steps=4, **options)
    one, other = _lora(whole.pipeline), _lora(parts.pipeline)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    with pytest.raises(ValueError, match="changed since:\n  optimizer: was"):
        finetune(
            pipeline,
            num_train_steps=4,
            optimizer=draftx.adamw(RATE),
            checkpoints=dataclasses.replace(checkpoints),
        )


def test_equal_calls_give_one_optimizer():
    assert draftx.with_ema(adamw(0.1), 0.5) is draftx.with_ema(adamw(0.1), 0.5)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_bad_input_is_named(decay):
    with pytest.raises(ValueError, match="`decay` must"):
        draftx.with_ema(adamw(), decay)
    averaging = draftx.with_ema(adamw(), 0.5)
    with pytest.raises(ValueError, match="`params` must be given"):
        averaging.update(_GRADIENTS[0], averaging.init(_TREE))


@pytest.mark.oracle
def test_the_average_is_that_of_diffusers():
    torch = pytest.importorskip("torch")
    from diffusers.training_utils import EMAModel

    seen = _walk(draftx.with_ema(adamw(0.1), _DECAY), _GRADIENTS)
    parameter = torch.nn.Parameter(torch.tensor(np.asarray(_TREE["a"])))
    average = EMAModel([parameter], decay=_DECAY)
    for tree, state in seen:
        with torch.no_grad():
            parameter.copy_(torch.tensor(np.asarray(tree["a"])))
        average.step([parameter])
        found = averaged(state, tree)["a"]
        np.testing.assert_allclose(found, average.shadow_params[0], rtol=1e-6)
