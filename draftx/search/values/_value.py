"""What a value is: the reward that latents on their way are expected to lead to."""

import abc
from typing import ClassVar, TYPE_CHECKING

import equinox as eqx
from jaxtyping import Array, Float, Int, Num

from ..._custom_types import Images, Latents, TextEmbeddings
from ...diffusion import Chain, Prediction, State
from ...pipeline import Pipeline, Plan
from .._setup import Question


if TYPE_CHECKING:
    from typing import ClassVar as AbstractClassVar
else:
    from equinox import AbstractClassVar


class Outlook(eqx.Module):
    """Shows a value where the chains of a batch stand, and what can be asked there.

    **Arguments:**

    - `question`: What images are wanted, and who judges.
    - `chain`: Of the batch.
    - `state`: Of the chains, before step `index`.
    - `index`: Of the step in the chain, from 0, the noisiest.
    - `prediction`: What the model says there; `None` for a value that asks for none.
    """

    question: Question
    chain: Chain
    state: State
    index: Int[Array, ""]
    prediction: Prediction | None = None

    @property
    def latents(self) -> Latents:
        r"""The noised latents $x_t$."""
        return self.state.latents

    @property
    def timestep(self) -> Num[Array, ""]:
        """The training timestep that the latents are noised to."""
        return self.chain.steps[self.index].timestep

    @property
    def embeddings(self) -> TextEmbeddings:
        """The text embeddings of the rows."""
        conditioning = self.question.batch.conditioning
        return self.question.task.pipeline.embed(
            conditioning.input_ids, conditioning.embeddings
        )

    def jump(self) -> Latents:
        r"""Jumps to the clean latents $\hat x_0(x_t)$, given the prediction."""
        if self.prediction is None:
            raise ValueError(
                "A value must have `needs_prediction = True` to jump to clean latents; "
                "it has False."
            )
        return self.chain.jump(self.state, self.prediction, self.index).latents

    def judge(self, clean: Latents) -> tuple[Images, Float[Array, " batch"]]:
        """Decodes `clean` latents; gives the images and their rewards."""
        return self.question.judge(clean)


class AbstractValue(eqx.Module):
    r"""Says what noised latents are worth: the reward that they will lead to.

    The soft value of a chain that goes on by itself from $x_t$ is
    $v_t(x_t) = \alpha \log \mathbb{E}[\exp(r(x_0) / \alpha) \mid x_t]$; values here
    approximate it by the mean, $\mathbb{E}[r(x_0) \mid x_t]$, as SVDD does. A new one
    is one file; it need not be differentiable.

    `needs_prediction` says whether it looks at what the model predicts at $x_t$: then
    each latent that is compared costs an evaluation of the UNet, and otherwise only
    those that a chain goes on from. `asks_reward` says whether it asks the reward once
    for each.

    ??? cite

        [SVDD](https://arxiv.org/abs/2408.08252).
    """

    needs_prediction: AbstractClassVar[bool]
    asks_reward: AbstractClassVar[bool]

    def check(self, pipeline: Pipeline, plan: Plan, shape: tuple[int, ...]) -> None:
        """Raises a `ValueError` unless it knows the latents that it will be shown.

        Before any long work. Unless a value has its own, it knows all.

        **Arguments:**

        - `pipeline`, `plan`: Whose chains they are on.
        - `shape`: Of the latents, `(batch, height, width, channels)`.
        """
        del pipeline, plan, shape

    @abc.abstractmethod
    def __call__(self, outlook: Outlook) -> Float[Array, " batch"]:
        """Says what the latents of an outlook are worth, in the units of the reward.

        **Arguments:**

        - `outlook`: Where the chains stand; never after the last step, where the reward
            itself is asked.
        """


class PosteriorMean(AbstractValue):
    r"""Rewards the image that latents would become in one jump: $r(\hat x_0(x_t))$.

    Needs no training. Costs a UNet evaluation, a decoding and a reward query for all
    latents that are compared.

    ??? cite

        [SVDD](https://arxiv.org/abs/2408.08252), there SVDD-PM.
    """

    needs_prediction: ClassVar[bool] = True
    asks_reward: ClassVar[bool] = True

    def __call__(self, outlook: Outlook) -> Float[Array, " batch"]:
        _, rewards = outlook.judge(outlook.jump())
        return rewards
