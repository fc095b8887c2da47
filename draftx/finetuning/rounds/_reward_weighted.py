from typing import Any

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._autodiff import eager_gradient
from ..._checks import check_is, plain, positive, within
from ..._custom_types import Latents, Real, TextEmbeddings
from ...diffusion import AbstractSampler, mix, training_target
from ...episodes import Budget, count
from ...models import UNet2DConditionModel
from ...pipeline import Pipeline
from ._advantages import AbstractAdvantageMethod, check_normalization, Normalization
from ._round_method import Rollout
from ._updates import Updates


class RewardWeighted(AbstractAdvantageMethod):
    r"""Learns from the best of what the model drew: reward-weighted regression.

    An update descends the loss that diffusion models are trained with, on the model's
    own samples, weighted:

    $$\sum_b w_b\, \mathbb E_{t, \epsilon}
      \bigl\lVert \epsilon - \epsilon_\theta(x_t^{(b)}, c, t) \bigr\rVert^2, \qquad
      w = \mathrm{softmax}(A / \beta),$$

    its mean over the numbers of an image, $t$ uniform over the schedule, unguided as in
    that training. Velocity and sample predictions have their own targets. Asks nothing
    of the reward but numbers. For `draftx.finetune_in_rounds`, each of whose trained
    steps is a draw of $t$ and $\epsilon$ here.

    **Arguments:**

    - `temperature`: $\beta$, in standard deviations of the reward.
    - `normalization`, `buffer_size`, `min_count`: Of $A$: see `draftx.DDPO`.
    - `eta`: The noise of the chain, from 0 to 1, for samplers that take it.
    - `updates`: How a round is divided into updates.

    ??? cite

        [DDPO](https://arxiv.org/abs/2305.13301), section 4.2 (RWR).
    """

    temperature: Real = eqx.field(static=True, converter=plain, default=1.0)
    normalization: Normalization = eqx.field(static=True, default="batch")
    buffer_size: int = eqx.field(static=True, converter=plain, default=16)
    min_count: int = eqx.field(static=True, converter=plain, default=16)
    eta: Real = eqx.field(static=True, converter=plain, default=1.0)
    updates: Updates = Updates()

    def __check_init__(self):
        check_is("updates", self.updates, Updates, "draftx.Updates(minibatch_size=2)")
        positive("temperature", self.temperature)
        within("eta", self.eta)
        check_normalization(self.normalization, self.buffer_size, self.min_count)

    def trained_steps(
        self, sampler: AbstractSampler, num_inference_steps: int
    ) -> Int[np.ndarray, " trained"]:
        return np.arange(num_inference_steps, dtype=np.int32)

    def weigh_advantages(
        self, advantages: Float[np.ndarray, " batch"]
    ) -> Float[np.ndarray, " batch"]:
        logits = advantages / self.temperature
        weights = np.exp(logits - logits.max())
        # Their mean is 1, so that the learning rate is that of a plain training.
        return weights / weights.mean()

    def objective(
        self,
        pipeline: Pipeline,
        learned: Any,
        constant: Any,
        rollout: Rollout,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        del learned, constant
        config = rollout.batch.plan.sampler.config
        alphas = jnp.asarray(config.alphas_cumprod())
        told = rollout.batch.conditioning
        embeddings = pipeline.embed(told.input_ids, told.embeddings)
        clean, weights = rollout.record.end.latents, rollout.weights
        # Every draw is differentiated at once: nothing of it need be computed again.
        remat = rollout.remat.within_step

        def term(unet: UNet2DConditionModel, embeddings: TextEmbeddings, key):
            time_key, noise_key = jr.split(key)
            timesteps = jr.randint(time_key, clean.shape[:1], 0, len(alphas))
            alpha = alphas[timesteps][:, None, None, None]
            noise: Latents = jr.normal(noise_key, clean.shape, clean.dtype)
            signal, sigma = jnp.sqrt(alpha), jnp.sqrt(1 - alpha)
            noised = mix(clean, noise, signal, sigma)
            kind = config.prediction_type
            target = training_target(kind, clean, noise, signal, sigma)
            prediction = unet(noised, timesteps, embeddings, remat=remat)
            errors = (prediction.astype(jnp.float32) - target) ** 2
            return -jnp.mean(weights * jnp.mean(errors, axis=(1, 2, 3))), None

        keys = jr.split(key, len(rollout.times))
        terms = lax.map(
            lambda key: eager_gradient(term, pipeline.unet, embeddings, key)[0], keys
        )
        loss = -jnp.mean(terms)
        return -loss, {"denoising_loss": loss}

    def budget(
        self,
        num_inference_steps: int,
        batch_size: int,
        *,
        num_trained: int,
        guided: bool = True,
    ) -> Budget:
        sampling = count(batch_size, guided=guided, forwards=num_inference_steps)
        return sampling + count(
            batch_size,
            guided=False,
            forwards=num_trained,
            backwards=num_trained,
            images=0,
            queries=0,
        )
