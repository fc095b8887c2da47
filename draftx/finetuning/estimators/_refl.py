import equinox as eqx
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import plain
from ...diffusion import AbstractSampler, AbstractSteps, find_idle_steps
from ...episodes import Budget, count, Episode
from ...rewards import Scores
from ._interface import AbstractGradientEstimator, check_steps, TrainedSteps


class ReFL(AbstractGradientEstimator):
    r"""Leaves the chain early, by one jump: reward feedback learning.

    With $t \sim \mathrm{Unif}\{t_{\min} \ldots t_{\max}\}$ steps still to go, the
    clean latents are predicted at once,

    $$\hat x_0 = \frac{x_t - \sqrt{1 - \bar\alpha_t}\,
      \epsilon_\theta(\mathrm{sg}(x_t), t)}{\sqrt{\bar\alpha_t}},$$

    and rewarded: one differentiated step, on images that are the blurrier the larger
    $t$ is. With $t_{\max} = 1$ this is DRaFT-1, exactly so where the chain ends without
    noise (`set_alpha_to_one`).

    One $t$ is drawn for the batch. The rewards it gives are those of the predicted
    images. The original is unguided: use `guidance_scale=1` for that.

    **Arguments:**

    - `max_steps`, `min_steps`: $t_{\max}$ and $t_{\min}$, the range of steps that the
        jump stands for, both counted; at least 1 and at most the chain's.

    ??? cite

        [ImageReward](https://arxiv.org/abs/2304.05977), algorithm 1;
        [DRaFT](https://arxiv.org/abs/2309.17400), Algorithm 1, where $t_{\max}$ is $m$.
    """

    max_steps: int = eqx.field(static=True, converter=plain, default=20)
    min_steps: int = eqx.field(static=True, converter=plain, default=1)

    def __check_init__(self):
        check_steps("min_steps", self.min_steps)
        check_steps("max_steps", self.max_steps, least=self.min_steps)

    def check(self, num_inference_steps: int) -> None:
        check_steps("max_steps", self.max_steps, most=num_inference_steps)

    def trained_steps(self, num_inference_steps: int) -> TrainedSteps:
        total = num_inference_steps
        ever = range(total - self.max_steps, total - self.min_steps + 1)
        return TrainedSteps(ever if len(ever) == 1 else (), ever)

    def steps_at_once(self, num_inference_steps: int) -> int:
        del num_inference_steps
        return 1

    def idle_steps(
        self, sampler: AbstractSampler, steps: AbstractSteps
    ) -> frozenset[int]:
        # The jump leaves out what the sampler would make of the prediction.
        return find_idle_steps(sampler, steps, jumps=True)

    def passes_through_steps(self, num_inference_steps: int) -> bool:
        del num_inference_steps
        return False

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget:
        forwards = num_inference_steps + 1 - (self.min_steps + self.max_steps) / 2
        return count(batch_size, guided=guided, forwards=forwards, backwards=1)

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Scores]:
        left = jr.randint(key, (), self.min_steps, self.max_steps + 1)
        index = len(episode.chain) - left
        state = episode.run_frozen(index)
        prediction = episode.chain.predict(state, index)
        return episode.score(episode.chain.jump(state, prediction, index))
