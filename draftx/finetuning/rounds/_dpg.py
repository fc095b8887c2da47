from typing import Any, get_args, Literal, TypeAlias

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._autodiff import eager_gradient
from ..._checks import check_is, check_whole, finite, plain, positive
from ..._custom_types import Images, Latents, Real
from ...diffusion import AbstractSampler, Chain, find_idle_steps, State
from ...episodes import Budget, count
from ...layers import checkpoint_if
from ...pipeline import Pipeline
from ...rewards import AbstractReward
from ._critic import (
    AbstractCritic,
    AdaptedReward,
    as_constant,
    CorrectedReward,
    count_linears,
)
from ._round_method import AbstractRoundMethod, Rollout
from ._updates import Updates


Critic: TypeAlias = Literal["auto", "adapted", "corrected"]


class DPG(AbstractRoundMethod):
    r"""Learns a critic that tells every step what it is worth, and ascends it.

    The state is $(x_t, t, c)$, the action what the model predicts there, and the
    transition a deterministic step to $x_{t-1}$; the reward comes at the end. The
    critic $Q$ looks at the image that $x_{t-1}$ would become in one jump,
    $\hat x_0(x_{t-1})$, whose prediction is a constant, and learns the final reward by
    least squares. An update ascends the mean over images and steps of

    $$Q\bigl(\hat x_0(x_{t-1}(x_t, \epsilon_\theta(x_t, t, c)))\bigr),$$

    $x_t$ being constant: a gradient for every step that passes through one evaluation
    of the model alone. The reward must be differentiable. For
    `draftx.finetune_in_rounds`.

    **Arguments:**

    - `critic`: `"adapted"` is the paper's, the reward with a low-rank adapter, for a
        reward with linear layers. `"corrected"` is the reward plus a small network, for
        any. `"auto"` is the first where that is possible.
    - `critic_rank`: Of that adapter.
    - `critic_learning_rate`: Of the critic's Adam. One critic step comes before every
        update of the model.
    - `eta`: Must be 0: the policy is deterministic.
    - `updates`: How a round is divided into updates.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix C.2;
        [Deterministic Policy Gradient Algorithms](
        https://proceedings.mlr.press/v32/silver14.html).
    """

    critic: Critic = eqx.field(static=True, default="auto")
    critic_rank: int = eqx.field(static=True, converter=plain, default=8)
    critic_learning_rate: Real = eqx.field(static=True, converter=plain, default=1e-3)
    eta: Real = eqx.field(static=True, converter=plain, default=0.0)
    updates: Updates = Updates()

    def __check_init__(self):
        check_is("updates", self.updates, Updates, "draftx.Updates(minibatch_size=2)")
        if self.critic not in get_args(Critic):
            raise ValueError(
                "`critic` must be 'auto', 'adapted' or 'corrected'; got "
                f"{self.critic!r}."
            )
        check_whole("critic_rank", self.critic_rank)
        positive("critic_learning_rate", self.critic_learning_rate)
        if finite("eta", self.eta) != 0:
            raise ValueError(
                f"`eta` must be 0: the policy is deterministic; got {self.eta}. With "
                "noise, use `draftx.DDPO`."
            )

    def needs_reward_gradient(self) -> bool:
        return True

    def trained_steps(
        self, sampler: AbstractSampler, num_inference_steps: int
    ) -> Int[np.ndarray, " trained"]:
        if sampler.is_random(self.eta):
            raise ValueError(
                "`sampler` must add no noise for a deterministic policy; got "
                f"{type(sampler).__name__}."
            )
        steps = sampler.steps(num_inference_steps, eta=self.eta)
        # Whatever is predicted there, the critic sees the same.
        idle = find_idle_steps(sampler, steps)
        trained = [i for i in range(num_inference_steps) if i not in idle]
        if not trained:
            raise ValueError(
                "`sampling` must leave a step at which the prediction moves the "
                f"latents; none of {num_inference_steps} steps of "
                f"{type(sampler).__name__} does. Use more steps, or a config with "
                "`set_alpha_to_one=True`."
            )
        return np.asarray(trained, np.int32)

    def weigh(
        self,
        remembered: Any,
        rows: Int[np.ndarray, " batch"],
        rewards: Float[np.ndarray, " batch"],
    ) -> tuple[Float[np.ndarray, " batch"], Any]:
        del rows
        return rewards, remembered  # Returns are what the critic learns.

    def start(self, reward: AbstractReward, key: PRNGKeyArray) -> tuple[Any, Any]:
        adaptable = count_linears(reward) > 0
        if self.critic == "adapted" and not adaptable:
            raise ValueError(
                "`critic` must be 'corrected' for this reward, which has no linear "
                "layers that could be adapted; got 'adapted'."
            )
        if adaptable and self.critic != "corrected":
            critic = AdaptedReward(reward, rank=self.critic_rank, key=key)
        else:
            critic = CorrectedReward(reward, key=key)
        learned, constant = eqx.partition(critic, critic.filter())
        return (learned, self._optimizer().init(learned)), constant

    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.critic_learning_rate)

    def learn(
        self, learned: Any, constant: Any, pipeline: Pipeline, rollout: Rollout
    ) -> tuple[Any, dict[str, Float[Array, ""]]]:
        weights, opt_state = learned
        record = rollout.record
        states = jax.tree.map(
            lambda x, end: jnp.concatenate([x, end[None]]), record.states, record.end
        )
        after = lambda index: jax.tree.map(lambda x: x[index + 1], states)

        def loss(weights):
            def term(weights, index: Int[Array, ""]):
                critic = eqx.combine(weights, constant)
                images = _foresee(pipeline, rollout, after(index), index)
                values = _value(critic, images, rollout, index)
                return jnp.mean((values - rollout.weights) ** 2), None

            terms = lax.map(
                lambda index: eager_gradient(term, weights, index)[0], rollout.times
            )
            return jnp.mean(terms)

        value, gradient = eqx.filter_value_and_grad(loss)(weights)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = self._optimizer().update(gradient, opt_state, weights)
        weights = eqx.apply_updates(weights, updates)
        return (weights, opt_state), {"critic_loss": value}

    def objective(
        self,
        pipeline: Pipeline,
        learned: Any,
        constant: Any,
        rollout: Rollout,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        del key
        critic = as_constant(eqx.combine(learned[0], constant))
        chain, states = rollout.chain(pipeline), rollout.record.states

        def term(chain: Chain, index: Int[Array, ""]):
            state = jax.tree.map(lambda x: x[index], states)
            following, _ = chain.step(state, index)
            images = _foresee(pipeline, rollout, following, index)
            return jnp.mean(_value(critic, images, rollout, index)), None

        terms = lax.map(
            lambda index: eager_gradient(term, chain, index)[0], rollout.times
        )
        value = jnp.mean(terms)
        return value, {"critic": value}

    def budget(
        self,
        num_inference_steps: int,
        batch_size: int,
        *,
        num_trained: int,
        guided: bool = True,
    ) -> Budget:
        # The critic is a reward by its cost: it scores what it learns from, and what
        # the model is to learn.
        return count(
            batch_size,
            guided=guided,
            forwards=num_inference_steps + num_trained,
            backwards=num_trained,
            queries=1 + 2 * num_trained,
        )


def _foresee(
    pipeline: Pipeline, rollout: Rollout, following: State, index: Int[Array, ""]
) -> Images:
    """The images that the latents after step `index` would be after one jump."""
    last = len(rollout.steps) - 1
    after = jnp.minimum(index + 1, last)
    output = rollout.record.predictions.output[after]
    sampler, latents = rollout.batch.plan.sampler, following.latents
    pred_x0, _ = sampler.predict(latents, output, rollout.steps[after])
    clean: Latents = jnp.where(index == last, latents, pred_x0)
    # What is differentiated at once is computed again where blocks are.
    return pipeline.decode(clean, remat=rollout.remat)


def _value(
    critic: AbstractCritic, images: Images, rollout: Rollout, index: Int[Array, ""]
) -> Float[Array, " batch"]:
    total = len(rollout.steps)
    remaining = (total - 1 - index).astype(jnp.float32) / total
    call = checkpoint_if(rollout.remat.scoring, _call)
    return call(critic, images, rollout.batch.features, remaining).astype(jnp.float32)


def _call(critic, images, features, remaining):
    return critic(images, features, remaining)
