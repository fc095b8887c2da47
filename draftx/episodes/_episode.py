from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float

from .._autodiff import attach_gradient, stop_gradient
from .._custom_types import Images, Latents
from .._scaled_gradient import scaled_call
from ..diffusion import (
    AbstractDenoiser,
    Chain,
    Charge,
    run_frozen,
    run_truncated,
    State,
)
from ..kernels import at_least_float32
from ..layers import checkpoint_if
from ..pipeline import Batch, decoding, into_groups, joined, Pipeline
from ..rewards import AbstractReward, Scores
from ._memory import Memory


# Where the noise of the steps branches off the key of an episode: no estimator splits
# its key into as many.
_NOISE_BRANCH = 2**31 - 1


class Episode(eqx.Module):
    """Binds one batch to the chain that turns it into images and to its reward.

    What a gradient estimator is given to work with.

    **Arguments:**

    - `chain`: The model, its sampler and its steps.
    - `noise`: $x_T$, unit-variance.
    - `reward`: Judges the images.
    - `decoder`: Turns latents into images, and is told `remat`.
    - `features`: What the reward prepared of the rows, one row for each image.
    - `base`: Makes a denoiser of the model without its adapter; `None` if nobody asks.
    - `memory`: What is computed again, and how many images at once.
    """

    chain: Chain
    noise: Latents
    decoder: Callable[..., Images]
    reward: AbstractReward
    features: Any = None
    memory: Memory = eqx.field(static=True, default=Memory())
    base: Callable[[], AbstractDenoiser] | None = None

    def run(self, truncation_steps: int | None) -> State:
        """Runs the chain, differentiable through its last `truncation_steps` steps."""
        return run_truncated(
            self.chain,
            self.noise,
            truncation_steps,
            checkpoint=self.memory.remat.steps,
        )

    def run_frozen(self, stop: Any) -> State:
        """Runs the chain to before step `stop`, a number or a traced one, frozen."""
        return run_frozen(self.chain, self.chain.begin(self.noise), 0, stop)

    def score(self, state: State) -> tuple[Float[Array, ""], Scores]:
        """Decodes and rewards clean latents, those of a `state`.

        Gives what to ascend, the mean reward less what the state was charged on the
        way, and the rewards with what they are made of: `total` is their array.
        """
        scores = self.scores(state.latents)
        return self.objective(scores.total, state.charge), scores

    def objective(
        self, scores: Float[Array, " batch"], charge: Charge | None
    ) -> Float[Array, ""]:
        """Makes what is to be ascended of scores, or of what stands for them.

        **Arguments:**

        - `scores`: One for each image.
        - `charge`: Of the state or the prediction that the scores are of.
        """
        mean = jnp.mean(scores)
        return mean if charge is None else mean - charge.mean()

    def rewards(self, latents: Latents) -> Float[Array, " batch"]:
        """Decodes and rewards clean latents, one score an image: see `scores`."""
        return self.scores(latents).total

    def rewards_alone(self, latents: Latents) -> Float[Array, " batch"]:
        """Does as `rewards`, but asks the reward for no gradient."""
        return self.scores_alone(latents).total

    def scores(self, latents: Latents) -> Scores:
        """Decodes and rewards clean latents, and says what the rewards are made of.

        With `images_at_once`, a few after the other, and the gradient of their rewards
        at once: no more than these few are ever in memory. Each image must then be
        scored on its own, whatever else is in the batch.
        """
        size = self.memory.images_at_once
        if size is None or size == latents.shape[0]:
            return self._scores(latents, self.features)
        split = lambda x: into_groups(x, size)

        def total(latents, features):
            scores = self._scores(latents, features)
            return jnp.sum(scores.total), scores

        def body(_, group):
            return None, jax.grad(total, has_aux=True)(*group)

        groups = jax.tree.map(split, (lax.stop_gradient(latents), self.features))
        _, groups = lax.scan(body, None, groups)
        gradient, scores = jax.tree.map(joined, groups)
        rewards = attach_gradient(scores.total, latents, gradient)
        return Scores(rewards, scores.components)

    def scores_alone(self, latents: Latents) -> Scores:
        """Does as `scores`, but asks the reward for no gradient."""
        size = self.memory.images_at_once
        if size is None or size == latents.shape[0]:
            return lax.stop_gradient(self._scores(latents, self.features))
        split = lambda x: x.reshape(-1, size, *x.shape[1:])
        groups = jax.tree.map(split, (latents, self.features))
        scores = lax.map(lambda group: self._scores(*group), groups)
        return lax.stop_gradient(jax.tree.map(jnp.ravel, scores))

    def _scores(self, latents: Latents, features: Any) -> Scores:
        remat = self.memory.remat
        images = self.decoder(latents, remat=remat)
        with jax.named_scope("draftx.reward"):
            # Judges may be in float16 too.
            call = checkpoint_if(remat.scoring, scaled_call)
            scores = call(self.reward.judge, images, features)
        return jax.tree.map(lambda x: x.astype(at_least_float32(x.dtype)), scores)


def make_episode(
    pipeline: Pipeline,
    reward: AbstractReward,
    batch: Batch,
    memory: Memory,
    *,
    mesh: Mesh | None = None,
) -> Episode:
    """Binds a batch to the model that draws it and the reward that judges it.

    **Arguments:**

    - `pipeline`: Its arrays are what gradients are taken with respect to.
    - `reward`, `batch`, `memory`: Who judges, of what, at what price.
    - `mesh`: Devices that the batch is divided over.
    """
    noise_key = jr.fold_in(batch.key, _NOISE_BRANCH)
    chain = pipeline.chain(
        batch.plan, batch.conditioning, key=noise_key, remat=memory.remat, mesh=mesh
    )
    return Episode(
        chain=chain,
        noise=batch.latents,
        decoder=decoding(pipeline.decode, mesh),
        reward=reward,
        features=batch.features,
        memory=memory,
        base=eqx.Partial(_base, stop_gradient(pipeline.without_lora()), batch),
    )


def _base(pipeline: Pipeline, batch: Batch) -> AbstractDenoiser:
    plan = batch.plan
    return pipeline.denoiser(
        plan.steps().timestep, batch.conditioning, plan.guidance_scale
    )
