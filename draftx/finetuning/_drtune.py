import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._custom_types import Latents
from ..layers import checkpoint_if
from ._budget import Budget, count
from ._estimator import AbstractGradientEstimator, check_steps, Episode


class DRTune(AbstractGradientEstimator):
    r"""Some steps of the whole chain, without the gradient of the denoiser's input.

    $$x_{t-1} = a_t x_t + b_t\, \epsilon_\theta(\mathrm{sg}(x_t), t)$$

    is linear in what is differentiated, so that early steps are reached without passing
    through the networks of later ones: nothing explodes, and only the $K$ trained steps
    are run a second time. They are spread evenly over the chain, the first drawn at
    random.

    ??? cite

        [Deep Reward Supervisions for Tuning Text-to-Image Diffusion Models](
        https://arxiv.org/abs/2405.00760), section 3.2. Its early stopping is not here.
    """

    num_trained_steps: int = eqx.field(static=True, default=5)

    def __check_init__(self):
        check_steps("num_trained_steps", self.num_trained_steps)

    def check(self, num_inference_steps: int) -> None:
        name = "num_trained_steps"
        check_steps(name, self.num_trained_steps, most=num_inference_steps)

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget:
        k = self.num_trained_steps
        forwards = num_inference_steps + k
        return count(batch_size, guided=guided, forwards=forwards, backwards=k)

    def indices(self, total: int, key: PRNGKeyArray) -> Int[Array, " trained"]:
        """The trained steps of a chain of `total`."""
        stride = total // self.num_trained_steps
        first = jr.randint(key, (), 0, total - stride * (self.num_trained_steps - 1))
        return first + stride * jnp.arange(self.num_trained_steps)

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
        denoiser, total = episode.denoiser, len(episode.steps)

        visited, predictions = _record(episode)
        trained = self.indices(total, key)

        def predict(denoiser, index: Int[Array, ""]):
            prediction = denoiser(visited[index], index)
            penalty = episode.penalize(visited[index], prediction, index)
            return prediction, jnp.asarray(penalty, prediction.dtype)

        again = checkpoint_if(episode.remat in ("step", "nested"), predict)
        fresh, penalties = lax.map(lambda index: again(denoiser, index), trained)
        predictions = predictions.at[trained].set(fresh)
        latents, _ = lax.scan(
            lambda x, i: (episode.step(x, predictions[i], i), None),
            visited[0],
            jnp.arange(total),
        )
        rewards = episode.score(latents)
        return jnp.mean(rewards) - jnp.mean(penalties), rewards


def _record(episode: Episode) -> tuple[Array, Array]:
    """The latents that a chain visits, and the predictions there; all constants."""
    frozen = episode.frozen_denoiser()

    def body(latents: Latents, index: Int[Array, ""]):
        prediction = frozen(latents, index)
        return episode.step(latents, prediction, index), (latents, prediction)

    latents = lax.stop_gradient(episode.latents)
    _, recorded = lax.scan(body, latents, jnp.arange(len(episode.steps)))
    return recorded
