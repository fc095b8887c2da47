"""Fine-tunes with a gradient estimator of one's own: two leaps instead of a chain."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.lax import stop_gradient

import draftx
from draftx.diffusion import record, State


class Leaps(draftx.AbstractGradientEstimator):
    r"""Leaps from a step $k$ to a later $j$, and on to the end, as LeapAlign does.

    The chain, run as a constant, gives the leaps their values; they give the gradient,
    of two predictions, one in the other. `nested` of it passes through that at $j$.
    """

    nested: float = 0.3

    def check(self, num_inference_steps):
        if num_inference_steps < 2:
            raise ValueError(f"Two leaps take two steps; got {num_inference_steps}.")

    def __call__(self, episode, key):
        chain, recorded = episode.chain, record(episode.chain, episode.noise)
        k, j = jnp.sort(jr.choice(key, len(chain), (2,), replace=False))
        at_k = jax.tree.map(lambda x: x[k], recorded.states)
        at_j = jax.tree.map(lambda x: x[j], recorded.states)
        first = chain.predict(at_k, k)
        leap = chain.sampler.predict(at_k.latents, first.output, chain.steps[k])
        x_j = _with_value(at_j.latents, chain.noised(*leap, j).latents)
        seen = self.nested * x_j + (1 - self.nested) * stop_gradient(x_j)
        second = chain.predict(State(seen, at_j.memory), j)
        end = chain.jump(State(x_j, at_j.memory, first.charge), second, j)
        x_0 = _with_value(recorded.end.latents, end.latents)
        return episode.score(State(x_0, charge=end.charge))


def _with_value(value, x):
    return value + x - stop_gradient(x)


def main(num_train_steps: int = 20, num_inference_steps: int = 5) -> None:
    pipeline = draftx.add_lora(draftx.load("tiny"), rank=4, key=jr.key(0))
    result = draftx.finetune(
        pipeline,
        draftx.rewards.JPEGCompressibility(),
        ["a fox, 3d style", "a cat, flat style"],
        draftx.Sampling(num_inference_steps, guidance_scale=4.0),
        method=draftx.Penalized(Leaps(), weight=0.1),  # Penalties wrap any estimator.
        key=jr.key(1),
        num_train_steps=num_train_steps,
        batch_size=2,
    )
    print([round(row["reward"], 2) for row in result.history])


if __name__ == "__main__":
    main()
