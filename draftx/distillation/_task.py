"""A renderer bound to the score that it follows and to its rewards; its gradient."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._autodiff import stop_gradient
from .._checks import check_is
from .._custom_types import Images, Latents
from .._keys import check_key
from .._mesh import mesh_of
from .._scaled_gradient import scaled_call
from .._table import Rows, Table
from ..diffusion import check_levels
from ..episodes import image_spec
from ..pipeline import condition, encode_texts, Pipeline, Sampling
from ..rewards import (
    AbstractReward,
    as_reward,
    check_differentiable,
    check_scores,
    probe_host_rewards,
    Reward,
    Scores,
    with_key,
)
from ._method import ScoreDistillation
from ._pictures import AbstractVisualPrompt
from ._renderer import check_renderer, Renderer
from ._score import Score


class Question(eqx.Module):
    """Holds what a user asks for, before it is looked at.

    **Arguments:** those of `draftx.distillation.distill`.
    """

    pipeline: Pipeline
    render: Renderer
    prompts: Rows
    sampling: Sampling
    method: ScoreDistillation
    reward: Reward | None
    visual_prompt: AbstractVisualPrompt | None


class Task(eqx.Module):
    """Binds a renderer to the score that it follows and to its reward.

    **Arguments:**

    - `score`: The model with what it is told of the images of a step.
    - `render`: Renders the images of a step.
    - `reward`: Judges them; `None` for nobody.
    - `features`: What it prepared of their rows.
    - `key`: Draws all that is random.
    """

    score: Score
    render: Renderer
    reward: AbstractReward | None
    features: Any
    key: PRNGKeyArray

    def loss(
        self, params: Any, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Scores | None, dict[str, Array]]]:
        """Computes what is descended: the surrogate of the score, less the mean reward.

        **Arguments:**

        - `params`: Of the renderer.
        - `step`: Of the training; draws, with the key, all that is random.
        """
        render_key, score_key, reward_key = jr.split(jr.fold_in(self.key, step), 3)
        rendered = self.render(params, render_key)
        latents = self.encode(rendered)
        of_constant = stop_gradient((self.score, latents))
        residual, figures = of_constant[0].residual(of_constant[1], score_key, step)
        surrogate = jnp.sum(stop_gradient(residual) * latents) / len(latents)
        if self.reward is None:
            return surrogate, (None, figures)
        reward = with_key(self.reward, reward_key)
        scores = scaled_call(reward.judge, self.images(rendered), self.features)
        return surrogate - jnp.mean(scores.total), (scores, figures)

    def encode(self, rendered: Images | Latents) -> Latents:
        """Makes latents of what was rendered, in float32."""
        if self.score.method.renders == "latents":
            return rendered.astype(jnp.float32)
        return self.score.pipeline.vae.encode(rendered.astype(jnp.float32))

    def images(self, rendered: Images | Latents) -> Images:
        """Makes images of what was rendered."""
        if self.score.method.renders == "latents":
            return self.score.pipeline.decode(rendered.astype(jnp.float32))
        return rendered


def gradient_of(
    trainable: Any, frozen: Any, task: Task, step: Int[Array, ""]
) -> tuple[dict[str, Any], Any]:
    """Computes the gradient of the loss, and what a row of the history is made of.

    **Arguments:**

    - `trainable`, `frozen`: The parameters, split.
    - `task`, `step`: Whose loss, and when.
    """

    def loss(trainable: Any):
        return task.loss(eqx.combine(trainable, frozen), step)

    gradient, (scores, figures) = jax.grad(loss, has_aux=True)(trainable)
    if scores is None:
        return figures, gradient
    judged = {"rewards": scores.total, "components": scores.components}
    return figures | judged, gradient


def make_task(asked: Question, params: Any, key: PRNGKeyArray) -> Task:
    """Makes a task, once it is clear that each of its parts works with the others.

    **Arguments:**

    - `asked`: Of the user.
    - `params`: Of the renderer, as they begin.
    - `key`: Draws all that is random.

    Raises a `ValueError` that names the argument, or a `RewardError`.
    """
    pipeline, method = asked.pipeline, asked.method
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    check_is("sampling", asked.sampling, Sampling, "draftx.Sampling(20)")
    check_is("method", method, ScoreDistillation, "ScoreDistillation()")
    if asked.visual_prompt is not None:
        prompt = asked.visual_prompt
        check_is("visual_prompt", prompt, AbstractVisualPrompt, "VisualPrompt(x)")
    key = check_key(key)
    check_pipeline(pipeline)
    _check_times(pipeline, method)
    table = Table.of(asked.prompts)
    reward = None if asked.reward is None else as_reward(asked.reward)
    rendered = check_renderer(
        pipeline, asked.render, params, key, asked.sampling, method.renders
    )
    images = rendered
    if method.renders == "latents":
        images = image_spec(pipeline, rendered.shape)
    table = _of_images(table, len(rendered))
    features = None
    if reward is not None:
        features = reward.prepare(table)
        check_scores(reward, images, features)
        check_differentiable(reward, images, features)
    of_noises = None
    if method.noises is not None:
        of_noises = method.noises.reward.prepare(table)
        check_scores(method.noises.reward, images, of_noises)
        probe_host_rewards(method.noises.reward, images.shape, table)
    pictures = None
    if asked.visual_prompt is not None:
        pictures = asked.visual_prompt.bind(pipeline, images.shape)
    shape = eqx.filter_eval_shape(pipeline.vae.encode, images).shape
    conditioning = condition(pipeline, table, asked.sampling, shape)
    scale = None
    if asked.sampling.is_guided:
        scale = jnp.asarray(asked.sampling.guidance_scale, jnp.float32)
    pipeline, conditioning = encode_texts(pipeline, conditioning)
    score = Score(pipeline, method, conditioning, scale, pictures, of_noises)
    return Task(score, asked.render, reward, features, key)


def check_pipeline(pipeline: Pipeline) -> None:
    """Raises for learned inputs, and for more than one device."""
    if pipeline.learned is not None:
        raise ValueError(
            "`pipeline` must have no learned inputs, which are of a chain's steps; got "
            "some. `draftx.remove_learned_inputs(pipeline)` takes them off."
        )
    mesh = mesh_of(pipeline)
    devices = max(1 if mesh is None else mesh.size, jax.process_count())
    if devices > 1:
        raise ValueError(
            "`pipeline` must be on one device of one host; got one on "
            f"{devices}. Load it again, and do not shard it."
        )


def _check_times(pipeline: Pipeline, method: ScoreDistillation) -> None:
    config = pipeline.sampler.config
    ranges = [method.time_range]
    if method.annealing is not None:
        ranges.append(method.annealing.final_time_range)
    last = config.num_train_timesteps - 1
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    times = np.arange(round(last * low), round(last * high) + 1)
    check_levels(config, times, config.alphas_cumprod()[times])


def _of_images(table: Table, batch: int) -> Table:
    """One row for each image of a step."""
    if len(table) not in (1, batch):
        raise ValueError(
            "`prompts` must be one for all images of a step or one for each of the "
            f"{batch} that `render` gives; got {len(table)}."
        )
    return table if len(table) == batch else table.take([0] * batch)
