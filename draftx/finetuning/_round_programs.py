"""The programs of training in rounds: drawing samples, and learning from them."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from .._custom_types import Real
from ..layers import Remat
from ._estimator import Episode
from ._round_method import Samples
from ._score_function import score_frozen
from ._transitions import record_chain


class Drawing(NamedTuple):
    """What the program that draws and scores samples is compiled for."""

    shape: tuple[int, int, int, int]
    num_inference_steps: int
    eta: Real
    remat: Remat
    images_at_once: int | None


class Learning(NamedTuple):
    """What the program of the updates is compiled for."""

    batch_size: int
    num_inner_epochs: int
    minibatch_size: int
    steps_per_update: int
    num_trained: int

    @property
    def num_updates(self) -> int:
        """Of a round."""
        parts = self.batch_size // self.minibatch_size
        return self.num_inner_epochs * parts * self.num_trained // self.steps_per_update


@eqx.filter_jit
def collect(trainable, frozen, inputs, key, trained, options: Drawing):
    """Draws prompts and noise, runs the chain, scores what comes out."""
    pipeline = eqx.combine(trainable, frozen)
    tokens, prompt_features, negative_ids, scale, reward = inputs
    prompt_key, latents_key, noise_key = jr.split(jr.fold_in(key, 0), 3)
    rows = jr.randint(prompt_key, options.shape[:1], 0, len(tokens))
    input_ids, features = jax.tree.map(lambda x: x[rows], (tokens, prompt_features))
    latents = jr.normal(latents_key, options.shape, jnp.float32)
    steps = pipeline.sampler.steps(options.num_inference_steps, eta=options.eta)
    denoiser = pipeline.denoiser(steps, input_ids, negative_ids, scale)
    visited, predictions = record_chain(
        pipeline.sampler,
        denoiser,
        steps,
        latents,
        noise_key if options.eta > 0 else None,
    )
    episode = Episode(
        sampler=pipeline.sampler,
        denoiser=denoiser,
        decoder=pipeline.decode,
        steps=steps,
        latents=latents,
        reward=reward,
        prompts=features,
        remat="none",
        images_at_once=options.images_at_once,
    )
    rewards = score_frozen(episode, visited[-1])
    samples = Samples(
        input_ids=input_ids,
        negative_ids=negative_ids,
        guidance_scale=scale,
        prompts=features,
        steps=steps,
        visited=visited,
        predictions=predictions,
        rewards=rewards,
        weights=jnp.zeros_like(rewards),
        times=jnp.asarray(trained),
        remat=options.remat,
    )
    return samples, rows


@eqx.filter_jit
def improve(
    method, optimizer, state, frozen, constant, samples, key, options: Learning
):
    """All the updates of a round, as one program."""
    plan_key, update_key = jr.split(jr.fold_in(key, 1))
    rows, times = _plan(samples, plan_key, options)

    def update(state, inputs):
        trainable, opt_state, learned = state
        rows, times, key = inputs
        part = samples.select(rows, times)
        learned, figures = method.learn(
            learned, constant, eqx.combine(trainable, frozen), part
        )

        def objective(trainable):
            pipeline = eqx.combine(trainable, frozen)
            return method.objective(pipeline, learned, constant, part, key)

        gradient_of = eqx.filter_value_and_grad(objective, has_aux=True)
        (_, more), gradient = gradient_of(trainable)
        norm = optax.tree.norm(gradient)
        fine = jnp.isfinite(norm)
        descent = jax.tree.map(jnp.negative, gradient)  # optax minimizes.
        # optax raises an integer count to a power, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, new_opt_state = optimizer.update(descent, opt_state, trainable)
        new = (eqx.apply_updates(trainable, updates), new_opt_state)
        keep = lambda new, old: jnp.where(fine, new, old)
        trainable, opt_state = jax.tree.map(keep, new, (trainable, opt_state))
        figures = {
            "gradient_norm": jnp.where(fine, norm, 0),
            "skipped_updates": 1 - fine.astype(jnp.float32),
            **figures,
            **more,
        }
        return (trainable, opt_state, learned), figures

    keys = jr.split(update_key, len(rows))
    state, figures = lax.scan(update, state, (rows, times, keys))
    skipped = jnp.sum(figures.pop("skipped_updates"))
    return state, {**jax.tree.map(jnp.mean, figures), "skipped_updates": skipped}


def _plan(
    samples: Samples, key: PRNGKeyArray, options: Learning
) -> tuple[Int[Array, "updates rows"], Int[Array, "updates times"]]:
    """The images and the steps of every update: each image at each step once an epoch,
    both in random order."""
    size, length = options.minibatch_size, options.steps_per_update

    def epoch(key):
        row_key, time_key = jr.split(key)
        rows = jr.permutation(row_key, options.batch_size).reshape(-1, 1, size)
        times = jr.permutation(time_key, samples.times)[: options.num_trained]
        times = times.reshape(1, -1, length)
        count = (rows.shape[0], times.shape[1])
        return (
            jnp.broadcast_to(rows, (*count, size)).reshape(-1, size),
            jnp.broadcast_to(times, (*count, length)).reshape(-1, length),
        )

    epochs = [epoch(key) for key in jr.split(key, options.num_inner_epochs)]
    rows, times = zip(*epochs, strict=True)
    return jnp.concatenate(rows), jnp.concatenate(times)
