"""The one update, the paper's optimizer, and what a history says of its rate."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import draftx
from draftx.finetuning import square_root_decay, trainable_filter
from draftx.finetuning.training import (
    adamw,
    as_optimizer,
    ascend,
    learning_rate,
    norm_of,
)

from ..short import finetune, RATE, SAMPLING


_TREE = {"a": jnp.asarray([1.0, -2.0]), "b": None}
_GRADIENT = {"a": jnp.asarray([0.5, 3.0]), "b": None}


def _every(k, optimizer):
    return as_optimizer(optax.MultiSteps(optimizer, k))


@pytest.mark.parametrize("build", [adamw, lambda rate: optax.sgd(rate)])
def test_an_update_goes_up_the_gradient_or_is_not_made(build):
    optimizer = build(0.1)
    state = optimizer.init(_TREE)
    step = eqx.filter_jit(ascend)
    args = (optimizer, _GRADIENT, state, _TREE)
    moved, new_state = step(*args, jnp.asarray(True))
    assert jnp.all(moved["a"] > _TREE["a"] * (1 - 0.1 * 0.1))
    descent = {"a": -_GRADIENT["a"], "b": None}
    with jax.numpy_dtype_promotion("standard"):
        expected, _ = optimizer.update(descent, state, _TREE)
    np.testing.assert_allclose(moved["a"], _TREE["a"] + expected["a"], rtol=1e-6)
    nan = jax.tree.map(lambda x: x * jnp.nan, _GRADIENT)
    same, same_state = step(optimizer, nan, new_state, moved, jnp.asarray(False))
    assert eqx.tree_equal((same, same_state), (moved, new_state))


def test_the_numbers_of_adamw_are_the_papers():
    state = adamw().init(_TREE)
    rate = learning_rate(state)
    assert rate is not None
    np.testing.assert_allclose(rate, 4e-4)
    # Two steps, written out.
    x, m, v = np.asarray(_TREE["a"], np.float64), np.zeros(2), np.zeros(2)
    tree, step = _TREE, eqx.filter_jit(ascend)
    for i in (1, 2):
        g = -i * np.asarray(_GRADIENT["a"], np.float64)
        gradient = jax.tree.map(lambda g, i=i: i * g, _GRADIENT)
        tree, state = step(adamw(), gradient, state, tree, jnp.asarray(True))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        adam = m / (1 - 0.9**i) / (np.sqrt(v / (1 - 0.999**i)) + 1e-8)
        x = x - 4e-4 * (adam + 0.1 * x)
    np.testing.assert_allclose(tree["a"], x, rtol=1e-6)


def test_the_gradient_is_clipped_by_its_norm():
    clipped = adamw(1e-2, 0.0, 1.0)
    state = clipped.init(_TREE)
    # Adam itself does not see the scale, but its moments do.
    with jax.numpy_dtype_promotion("standard"):
        _, after = clipped.update(_GRADIENT, state, _TREE)
    (moments,) = optax.tree_utils.tree_get_all_with_path(after, "mu")
    norm = np.linalg.norm(moments[1]) / 0.1
    np.testing.assert_allclose(norm, 1, rtol=1e-5)
    assert jnp.linalg.norm(_GRADIENT["a"]) > 2


_MATRICES = {"a": jnp.asarray([1.0, -2.0]), "b": jnp.arange(6.0).reshape(3, 2) - 2}


def test_the_arrays_are_trained_as_one_vector_and_as_apart():
    slopes = jax.tree.map(lambda x: jnp.sin(x) + 0.1, _MATRICES)
    apart = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(1e-2, b1=0.9, b2=0.999, weight_decay=0.1),
    )
    results = []
    for optimizer in (adamw(1e-2, 0.1, 1.0), apart):
        tree, state = _MATRICES, optimizer.init(_MATRICES)
        for _ in range(3):
            fine = jnp.asarray(True)
            tree, state = ascend(optimizer, slopes, state, tree, fine)
        results.append((tree, state))
    (one, joined), (other, _) = results
    (moments,) = optax.tree_utils.tree_get_all_with_path(joined, "nu")
    assert moments[1].shape == (8,)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), one, other)
    square = sum(np.sum(np.square(x)) for x in jax.tree.leaves(slopes))
    np.testing.assert_allclose(norm_of(slopes), np.sqrt(square), rtol=1e-6)


def test_arrays_of_two_types_are_trained_too():
    tree = _MATRICES | {"a": _MATRICES["a"].astype(jnp.bfloat16)}
    optimizer = optax.sgd(0.5)
    moved, _ = ascend(optimizer, tree, optimizer.init(tree), tree, jnp.asarray(True))
    assert eqx.tree_equal(moved, jax.tree.map(lambda x: 1.5 * x, tree))


def test_equal_calls_give_one_optimizer_and_compile_nothing_again(pipeline):
    assert draftx.adamw(RATE) is draftx.adamw(RATE)
    assert draftx.adamw(RATE) is not draftx.adamw(2 * RATE)
    traced = []

    class Traced(draftx.AbstractGradientEstimator):
        def check(self, num_inference_steps):
            del num_inference_steps

        def __call__(self, episode, key):
            traced.append(key)
            return draftx.DRaFT(1)(episode, key)

    method = Traced()
    for _ in range(2):
        finetune(
            pipeline, method=method, optimizer=draftx.adamw(RATE), num_train_steps=2
        )
        assert len(traced) == 1


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [
        (adamw(1e-3), [1e-3, 1e-3]),
        (adamw(1e-3, max_gradient_norm=1.0), [1e-3, 1e-3]),
        (adamw(square_root_decay(1e-3, s0=1)), [1e-3, 1e-3 / 2**0.5]),
        (optax.inject_hyperparams(optax.adam)(2e-3), [2e-3, 2e-3]),
        (optax.adam(1e-3), None),
        (_every(1, adamw(1e-3)), [1e-3, 1e-3]),
        (_every(2, adamw(square_root_decay(1e-3, s0=1))), [1e-3, 1e-3]),
        (optax.chain(optax.identity(), _every(1, adamw(1e-3))), [1e-3, 1e-3]),
        (optax.apply_if_finite(adamw(1e-3), 3), [1e-3, 1e-3]),
        (optax.masked(adamw(1e-3), {"a": True, "b": None}), [1e-3, 1e-3]),
        (optax.partition({"x": adamw(1e-3)}, {"a": "x", "b": None}), [1e-3, 1e-3]),
    ],
    ids=[
        *("number", "clipped", "schedule", "injected", "plain", "every"),
        *("every_other", "chained", "if_finite", "masked", "parts"),
    ],
)
def test_the_rate_is_read_off_the_state(optimizer, rates):
    state, tree, step = optimizer.init(_TREE), _TREE, eqx.filter_jit(ascend)
    seen = []
    for _ in range(2):
        tree, state = step(optimizer, _GRADIENT, state, tree, jnp.asarray(True))
        seen.append(learning_rate(state))
    if rates is None:
        assert seen == [None, None]
    else:
        np.testing.assert_allclose(np.asarray(seen), rates, rtol=1e-6)
        # A step that is not made does not count.
        _, kept = step(optimizer, _GRADIENT, state, tree, jnp.asarray(False))
        assert learning_rate(kept) == seen[-1]


def test_the_rate_is_in_the_history_if_the_optimizer_says_it(pipeline, result):
    for row in result.history:
        assert row["learning_rate"] == pytest.approx(RATE)
    plain = finetune(pipeline, optimizer=optax.sgd(1e-2), num_train_steps=1)
    assert "learning_rate" not in plain.history[0]


def test_guidance_weights_have_their_own_rate_and_do_not_decay(pipeline):
    learned = draftx.add_learned_inputs(pipeline, SAMPLING, guidance_rate=20.0)
    trainable = eqx.filter(learned, trainable_filter(learned))
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), trainable)
    for norm in (None, 1e9):
        optimizer = adamw(1e-3, 0.5, norm)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimizer.update(ones, optimizer.init(ones), ones)
        # Adam's first step is the learning rate, whatever the gradient.
        of_scales = updates.learned.guidance_scales
        np.testing.assert_allclose(of_scales, -20e-3, rtol=1e-4)
        rest = eqx.tree_at(lambda u: u.learned.guidance_scales, updates, None)
        assert len(jax.tree.leaves(rest)) > 2
        for update in jax.tree.leaves(rest):
            np.testing.assert_allclose(update, -1e-3 - 0.5e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(learning_rate=float("inf")), "`learning_rate` must be finite"),
        (dict(learning_rate=0.0), "`learning_rate` must be finite and positive"),
        (dict(weight_decay=-1.0), "`weight_decay` must be finite"),
        (dict(max_gradient_norm=0.0), "`max_gradient_norm` must be finite"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        adamw(**options)


@pytest.mark.parametrize("norm", [None, 1.0])
def test_accumulated_gradients_are_one_update_with_their_mean(norm):
    # Clipping, decay and the schedule act once, on the mean.
    plain = adamw(square_root_decay(0.1, s0=1), 0.5, norm)
    optimizer = _every(3, plain)
    gradients = [jax.tree.map(lambda g, i=i: i * g - i, _GRADIENT) for i in range(6)]
    step = eqx.filter_jit(ascend)
    tree, state = _TREE, optimizer.init(_TREE)
    expected, inner = _TREE, plain.init(_TREE)
    for i, gradient in enumerate(gradients):
        before = tree
        tree, state = step(optimizer, gradient, state, tree, jnp.asarray(True))
        if i % 3 < 2:
            assert eqx.tree_equal(tree, before)
            # What is not finite is not gathered either.
            args = (state, tree, jnp.asarray(False))
            nan = jax.tree.map(lambda x: x * jnp.nan, gradient)
            assert eqx.tree_equal(step(optimizer, nan, *args), (tree, state))
            continue
        mean = jax.tree.map(lambda *g: sum(g) / 3, *gradients[i - 2 : i + 1])
        expected, inner = step(plain, mean, inner, expected, jnp.asarray(True))
        np.testing.assert_allclose(tree["a"], expected["a"], rtol=1e-5)
        assert learning_rate(state) == learning_rate(inner)


def test_a_training_may_accumulate_and_says_what_it_did_not_use(pipeline):
    optimizer, seen = optax.MultiSteps(adamw(RATE, 0.5), 2), []
    callback = lambda row, pipeline: seen.append(draftx.lora_state_dict(pipeline))
    with pytest.warns(UserWarning, match="ended with 1 gradients that `optax.Multi"):
        result = finetune(
            pipeline, optimizer=optimizer, num_train_steps=3, callbacks=[callback]
        )
    moved = [
        any(not np.array_equal(old[name], new[name]) for name in old)
        for old, new in itertools.pairwise([draftx.lora_state_dict(pipeline), *seen])
    ]
    assert moved == [False, True, False]
    assert result.history[0]["learning_rate"] == pytest.approx(RATE)
