from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from ..._custom_types import Latents, Real, TextEmbeddings
from ...diffusion import SchedulerConfig
from ...pipeline import Pipeline, Plan
from ._network import ValueNetwork
from ._value import AbstractValue, Outlook


# What decides the noise of a timestep, of all that a scheduler's file says.
_NOISE = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule"),
    *("trained_betas", "rescale_betas_zero_snr"),
)


class LearnedValue(AbstractValue):
    r"""Reads off noised latents what they will be worth, by a small network.

    $\mathbb{E}[r(x_0) \mid x_t, t, c]$, as [`draftx.search.fit_value`][] has learned
    it. Asks neither the model nor the reward, so that candidates cost little: one UNet
    evaluation a step, however many are compared.

    **Arguments:**

    - `network`: Gives the reward less its mean, over its deviation.
    - `mean`, `std`: Of the rewards that it was fitted to.
    - `timesteps`: Those that it was fitted at.
    - `latent_shape`: Height, width and channels of the latents.
    - `scheduler`: The noise schedule.

    ??? cite

        [SVDD](https://arxiv.org/abs/2408.08252), there SVDD-MC, with residual blocks
        in which group norm takes the place of batch norm.
    """

    network: ValueNetwork
    mean: Float[Array, ""]
    std: Float[Array, ""]
    timesteps: tuple[Real, ...] = eqx.field(static=True)
    latent_shape: tuple[int, int, int] = eqx.field(static=True)
    scheduler: SchedulerConfig = eqx.field(static=True)

    needs_prediction: ClassVar[bool] = False
    asks_reward: ClassVar[bool] = False

    def check(self, pipeline: Pipeline, plan: Plan, shape: tuple[int, ...]) -> None:
        remedy = "Fit one for it with `draftx.search.fit_value`."
        if tuple(shape[1:]) != self.latent_shape:
            raise ValueError(
                "`value` must be fitted to latents of the shape that is drawn, "
                f"{tuple(shape[1:])}; it was fitted to {self.latent_shape}. Draw "
                f"images of that size (`height`, `width`). {remedy}"
            )
        changed = [
            f"{name}={getattr(self.scheduler, name)!r}, not "
            f"{getattr(plan.sampler.config, name)!r}"
            for name in _NOISE
            if getattr(self.scheduler, name) != getattr(plan.sampler.config, name)
        ]
        if changed:
            raise ValueError(
                "`value` must be fitted to the noise schedule of the pipeline; it was "
                f"fitted to one with {'; '.join(changed)}. {remedy}"
            )
        visited = np.asarray(plan.steps().timestep).tolist()
        unknown = [t for t in visited if t not in self.timesteps]
        if unknown:
            raise ValueError(
                "`value` must be fitted at the timesteps of the chain; it was not at "
                f"{unknown}, but at {list(self.timesteps)}. Sample with the "
                f"`num_inference_steps` and the sampler that it was fitted with. "
                f"{remedy}"
            )
        features = pipeline.text_encoder.config.hidden_size
        known = self.network.config.text_features
        if known not in (0, features):
            raise ValueError(
                "`value` must be told text embeddings as the pipeline has them, with "
                f"{features} features; it was fitted to {known}. {remedy}"
            )

    def __call__(self, outlook: Outlook) -> Float[Array, " batch"]:
        latents = outlook.latents
        timesteps = jnp.broadcast_to(outlook.timestep, latents.shape[:1])
        embeddings = outlook.embeddings if self.network.config.text_features else None
        return self.of(latents, timesteps, embeddings)

    def of(
        self,
        latents: Latents,
        timesteps: Num[Array, " batch"],
        embeddings: TextEmbeddings | None,
    ) -> Float[Array, " batch"]:
        """Says what latents are worth, outside of any chain.

        **Arguments:**

        - `latents`: $x_t$.
        - `timesteps`: $t$ of each.
        - `embeddings`: Of the texts; `None` for a value that is told of none.
        """
        text = None if embeddings is None else mean_embedding(embeddings)
        standard = self.network(latents, timesteps, text)
        return self.mean + self.std * standard


def mean_embedding(embeddings: TextEmbeddings) -> Float[Array, "batch features"]:
    """Makes one row of the embeddings of a text: what a value is told of it."""
    return jnp.mean(embeddings.astype(jnp.float32), axis=1)
