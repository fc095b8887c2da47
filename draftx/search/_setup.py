"""What all searches share: the questions they ask of a pipeline, and their checks."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._custom_types import Images, InputIds, Latents, NegativeInputIds, Prompts, Real
from ..diffusion import AbstractDenoiser, DDIMSteps, run_chain
from ..finetuning import call_reward, prepare_reward
from ..pipeline import Pipeline, prepare


class Task(eqx.Module):
    """Prompts of which images are wanted, and who judges them.

    `key` draws the noise of the steps, as in `draftx.sample`.
    """

    pipeline: Pipeline
    reward: Any
    features: Any
    input_ids: InputIds
    negative_ids: NegativeInputIds | None
    latents: Latents
    guidance_scale: Float[Array, ""]
    eta: Float[Array, ""]
    key: PRNGKeyArray
    num_inference_steps: int = eqx.field(static=True)
    has_noise: bool = eqx.field(static=True)

    def denoiser(self) -> tuple[DDIMSteps, AbstractDenoiser]:
        """The steps of the chain, and the model made ready for them."""
        steps = self.pipeline.sampler.steps(self.num_inference_steps, eta=self.eta)
        denoiser = self.pipeline.denoiser(
            steps, self.input_ids, self.negative_ids, self.guidance_scale
        )
        return steps, denoiser

    def run(self, latents: Latents, *, truncation_steps: int | None = 0) -> Latents:
        """The clean latents that starting noise leads to."""
        steps, denoiser = self.denoiser()
        return run_chain(
            self.pipeline.sampler,
            denoiser,
            steps,
            latents,
            truncation_steps=truncation_steps,
            key=self.key if self.has_noise else None,
        )

    def score(self, images: Images) -> Float[Array, " batch"]:
        """The rewards of images, one for each prompt."""
        return call_reward(self.reward, images, self.features).astype(jnp.float32)


def make_task(
    pipeline: Pipeline,
    reward: Any,
    prompts: Prompts,
    *,
    key: PRNGKeyArray | None,
    latents: Any,
    negative_prompts: Prompts,
    num_inference_steps: int,
    guidance_scale: Real,
    eta: Real,
    judged_prompts: Prompts = None,
) -> Task:
    """Checks what a search is asked for, before any long work.

    **Arguments:**

    - `judged_prompts`: What the reward is told, if it is not `prompts`.

    The others are those of `draftx.sample`, whose images are drawn with the same key.
    """
    input_ids, negative_ids, latents, noise_key = prepare(
        pipeline,
        prompts,
        key=key,
        latents=latents,
        negative_prompts=negative_prompts,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        eta=eta,
    )
    judged = prompts if judged_prompts is None else judged_prompts
    features = prepare_reward(pipeline, reward, judged, latents.shape)
    return Task(
        pipeline=pipeline,
        reward=reward,
        features=features,
        input_ids=input_ids,
        negative_ids=negative_ids,
        latents=latents,
        guidance_scale=jnp.asarray(guidance_scale, jnp.float32),
        eta=jnp.asarray(eta, jnp.float32),
        key=noise_key,
        num_inference_steps=num_inference_steps,
        has_noise=eta > 0,
    )


@eqx.filter_jit
def draw(task: Task) -> tuple[Images, Latents, Float[Array, " batch"]]:
    """Images, what they were decoded from, and their rewards."""
    clean = task.run(task.latents)
    images = task.pipeline.decode(clean)
    return images, clean, task.score(images)
