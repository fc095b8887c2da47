import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._checks import plain
from ...diffusion import Chain, record, State
from ...episodes import Budget, count, Episode
from ...layers import checkpoint_if
from ...rewards import Scores
from ._interface import AbstractGradientEstimator, check_steps, TrainedSteps


class DRTune(AbstractGradientEstimator):
    r"""Trains some steps of the chain, without the gradient of the denoiser's input.

    $$x_{t-1} = a_t x_t + b_t\, \epsilon_\theta(\mathrm{sg}(x_t), t)$$

    is linear in what is differentiated, so that early steps are reached without passing
    through the networks of later ones: nothing explodes, and only the $K$ trained steps
    are run a second time. They are spread evenly over the chain, the first drawn at
    random.

    **Arguments:**

    - `num_trained_steps`: $K$, at least 1 and at most the steps of the chain.

    ??? cite

        [Deep Reward Supervisions for Tuning Text-to-Image Diffusion Models](
        https://arxiv.org/abs/2405.00760), section 3.2. Its early stopping is not here.
    """

    num_trained_steps: int = eqx.field(static=True, converter=plain, default=5)

    def __check_init__(self):
        check_steps("num_trained_steps", self.num_trained_steps)

    def check(self, num_inference_steps: int) -> None:
        name = "num_trained_steps"
        check_steps(name, self.num_trained_steps, most=num_inference_steps)

    def trained_steps(self, num_inference_steps: int) -> TrainedSteps:
        return TrainedSteps((), range(num_inference_steps))

    def steps_at_once(self, num_inference_steps: int) -> int:
        del num_inference_steps
        return self.num_trained_steps

    def draws_only(self, steps: frozenset[int], num_inference_steps: int) -> bool:
        stride, firsts = self._spread(num_inference_steps)
        drawn = (
            {first + stride * i for i in range(self.num_trained_steps)}
            for first in range(firsts)
        )
        return any(one <= steps for one in drawn)

    def _spread(self, total: int) -> tuple[int, int]:
        """How far trained steps are apart, and how many the first is drawn from."""
        stride = total // self.num_trained_steps
        return stride, total - stride * (self.num_trained_steps - 1)

    def passes_through_steps(self, num_inference_steps: int) -> bool:
        del num_inference_steps
        return False  # Into the next step's latents, but into no other prediction.

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget:
        k = self.num_trained_steps
        forwards = num_inference_steps + k
        return count(batch_size, guided=guided, forwards=forwards, backwards=k)

    def indices(self, total: int, key: PRNGKeyArray) -> Int[Array, " trained"]:
        """Draws from a `key` which steps of a chain of `total` are trained."""
        stride, firsts = self._spread(total)
        first = jr.randint(key, (), 0, firsts)
        return first + stride * jnp.arange(self.num_trained_steps)

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Scores]:
        chain = episode.chain
        recorded = record(chain, episode.noise)
        trained = self.indices(len(chain), key)

        def predict(chain: Chain, index: Int[Array, ""]):
            state = jax.tree.map(lambda x: x[index], recorded.states)
            return chain.predict(state, index)

        again = checkpoint_if(episode.memory.remat.steps, predict)
        fresh = lax.map(lambda index: again(chain, index), trained)
        predictions = jax.tree.map(
            lambda old, new: old.at[trained].set(new), recorded.predictions, fresh
        )

        def body(state: State, index: Int[Array, ""]):
            prediction = jax.tree.map(lambda x: x[index], predictions)
            return chain.advance(state, prediction, index), None

        start = lax.stop_gradient(chain.begin(episode.noise))
        state, _ = lax.scan(body, start, jnp.arange(len(chain)))
        return episode.score(state)
