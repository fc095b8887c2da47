"""Arguments of another kind are named before any work, not where they are used."""

import jax.random as jr
import optax
import pytest

import draftx
from draftx import search


def _reward(images):
    return images.mean((1, 2, 3))


def _finetune(pipeline, **options):
    options = dict(method=draftx.DRaFT(1), num_train_steps=1, batch_size=2) | options
    return draftx.finetune(pipeline, _reward, ["a"], key=jr.key(0), **options)


def _rounds(pipeline, **options):
    options = dict(method=draftx.DDPO(), num_train_steps=1, batch_size=2) | options
    return draftx.finetune_in_rounds(pipeline, _reward, ["a"], key=jr.key(0), **options)


def _gradient(pipeline, **options):
    options = dict(method=draftx.DRaFT(1)) | options
    return draftx.reward_gradient(pipeline, _reward, ["a"], **options)


_SAMPLERS = {
    "sample": lambda pipeline, sampling: draftx.sample(pipeline, ["a"], sampling),
    "learned": draftx.add_learned_inputs,
    "evaluation": lambda _, sampling: draftx.Evaluation(
        ["a"], {"r": _reward}, sampling
    ),
    "gradient": lambda pipeline, sampling: _gradient(pipeline, sampling=sampling),
    "finetune": lambda pipeline, sampling: _finetune(pipeline, sampling=sampling),
    "rounds": lambda pipeline, sampling: _rounds(pipeline, sampling=sampling),
    "best_of_n": lambda p, sampling: search.best_of_n(p, _reward, ["a"], sampling),
    "doodl": lambda p, sampling: search.doodl(p, _reward, ["a"], sampling),
    "dps": lambda p, sampling: search.dps(p, _reward, ["a"], sampling),
    "smc": lambda p, sampling: search.smc(p, _reward, ["a"], sampling),
    "svdd": lambda p, sampling: search.svdd(p, _reward, ["a"], sampling),
    "fit_value": lambda p, sampling: search.fit_value(p, _reward, ["a"], sampling),
}


@pytest.mark.parametrize("name", _SAMPLERS)
@pytest.mark.parametrize("value", [20, {"eta": 1.0}, draftx.Sampling])
def test_sampling_is_its_options(name, value, pipeline, without_types):
    with pytest.raises(ValueError, match="`sampling` must be a Sampling"):
        _SAMPLERS[name](pipeline, value)


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (_gradient, dict(method=draftx.DRaFT), "`method` must be an AbstractGrad"),
        (
            _gradient,
            dict(memory="step"),
            "`memory` must be a Memory, such as `draf",
        ),
        (
            _finetune,
            dict(method=draftx.DDPO()),
            "`method` must be an AbstractGrad",
        ),
        (_finetune, dict(memory="step"), "`memory` must be a Memory"),
        (_finetune, dict(stopping=3), "`stopping` must be a Stopping"),
        (
            _finetune,
            dict(optimizer=draftx.adamw),
            "`optimizer` must be an optax.Grad",
        ),
        (
            _finetune,
            dict(optimizer=optax.adam),
            "`optimizer` must be an optax.Grad",
        ),
        (_finetune, dict(callbacks=print), "`callbacks` must be a tuple of functions"),
        (_finetune, dict(callbacks=None), "`callbacks` must be a tuple of functions"),
        (_finetune, dict(callbacks=("a",)), "`callbacks` must be a tuple of functions"),
        (_rounds, dict(method=draftx.DRaFT()), "`method` must be an AbstractRound"),
        (_rounds, dict(memory="step"), "`memory` must be a Memory"),
        (_rounds, dict(stopping=3), "`stopping` must be a Stopping"),
        (_rounds, dict(optimizer=1e-3), "`optimizer` must be an optax.Grad"),
        (_rounds, dict(callbacks=print), "`callbacks` must be a tuple of functions"),
    ],
)
def test_what_is_no_such_object_is_named(
    call, options, message, pipeline, without_types
):
    with pytest.raises(ValueError, match=message):
        call(pipeline, **options)


def test_equal_numbers_make_one_optimizer_however_they_are_written():
    same = {
        draftx.adamw(),
        draftx.adamw(4e-4),
        draftx.adamw(learning_rate=4e-4, weight_decay=0.1),
        draftx.adamw(max_gradient_norm=None),
    }
    assert len(same) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: draftx.Sampling(guidance_scale="7"), "`guidance_scale` must be fin"),
        (lambda: draftx.Sampling(eta="a"), "`eta` must be finite"),
        (lambda: draftx.Sampling(lora_schedule=3), "`lora_schedule` must be an Abstr"),
        (lambda: draftx.DDPO(updates=2), "`updates` must be an Updates, such as `dra"),
        (lambda: draftx.Sampling(negative_prompt=3), "`negative_prompt` must be one"),
        (lambda: draftx.adamw("a"), "`learning_rate` must be finite"),
        (lambda: draftx.adamw(None), "`learning_rate` must be finite"),
        (lambda: draftx.adamw(weight_decay=-1), "`weight_decay` .* at least 0"),
        (lambda: draftx.Stopping(max_budget=100), "`max_budget` must be a Budget"),
        (lambda: draftx.Stopping(early_stopping=3), "`early_stopping` must be an Ear"),
        (lambda: draftx.Penalized(_reward), "`method` must be an AbstractGradient"),
        (lambda: draftx.Table({"x": [1]}), "must have a column 'prompt'"),
        (lambda: draftx.Table({"prompt": ["a"], "x": [1, 2]}), "of one length"),
    ],
)
def test_numbers_and_objects_are_checked_where_they_are_given(
    make, message, without_types
):
    with pytest.raises(ValueError, match=message):
        make()
