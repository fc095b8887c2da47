"""Algorithm 1 of DRaFT (https://arxiv.org/abs/2309.17400), in the paper's symbols.

python examples/algorithm_1.py draft-lv    # or draft, draft-k, refl

`draftx.finetune` does the same with `DRaFT()`, `DRaFT(K)`, `DRaFTLV(n)`, `ReFL(m)`.
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.lax import fori_loop, stop_gradient

import draftx
from draftx.pipeline import Conditioning


class Algorithm1(eqx.Module):
    """The mean reward, with the gradient of Algorithm 1 with respect to theta."""

    variant: str
    T: int
    w: float  # Of classifier-free guidance.
    K: int = 2
    n: int = 2
    m: int = 2

    def __call__(self, theta, frozen, r, c, x_T, key):
        T, model = self.T, eqx.combine(theta, frozen)
        sampler, steps = model.sampler, model.sampler.steps(T, 0.0)
        epsilon_theta = model.denoiser(steps.timestep, c, jnp.asarray(self.w))
        reward = lambda x_0: jnp.mean(r(model.decode(x_0)))

        def step(epsilon, i, x_t):  # From x_t to x_{t-1}, where t = T - i.
            return sampler.update(x_t, epsilon(x_t, i), steps[i])[0]

        of_variant = {"draft": T, "draft-k": self.K, "draft-lv": 1}
        t_truncate = of_variant.get(self.variant, jr.randint(key, (), 1, self.m + 1))
        # Stopped before these steps, so that nothing of them is kept, not after them.
        first, constant = T - t_truncate, stop_gradient(epsilon_theta)
        x_t = fori_loop(0, first, lambda i, x_t: step(constant, i, x_t), x_T)
        if self.variant == "refl":
            x_0, _ = sampler.predict(x_t, epsilon_theta(x_t, first), steps[first])
            return reward(x_0)
        last_steps = jax.checkpoint(lambda i, x_t: step(epsilon_theta, i, x_t))
        x_0 = fori_loop(first, T, last_steps, x_t)
        total, last = reward(x_0), jnp.asarray(T - 1)
        if self.variant == "draft-lv":
            for key_i in jr.split(key, self.n):
                epsilon = jr.normal(key_i, x_0.shape)
                x_1 = sampler.add_noise(stop_gradient(x_0), epsilon, steps[last])
                total += reward(step(epsilon_theta, last, x_1))
        return total


@eqx.filter_jit
def update(algorithm, optimizer, theta, opt_state, *inputs):
    """Moves theta up the gradient; optax moves down, so it is given minus that."""
    g = eqx.filter_grad(lambda theta: -algorithm(theta, *inputs))(theta)
    updates, opt_state = optimizer.update(g, opt_state, theta)
    return eqx.apply_updates(theta, updates), opt_state


def train(algorithm, model, r, prompts, key, num_train_steps=5, batch_size=2):
    """Trains on batches that are drawn as `draftx.finetune` draws them."""
    theta, frozen = eqx.partition(model, draftx.lora.lora_filter(model))
    optimizer = draftx.adamw()
    opt_state = optimizer.init(theta)
    for i in range(num_train_steps):
        keys = jr.split(jr.fold_in(key, i), 4)
        rows = jr.randint(keys[0], (batch_size,), 0, len(prompts))
        c = Conditioning(model.tokenize(prompts)[rows], model.tokenize([""]))
        x_T = jr.normal(keys[1], (batch_size, *model.latent_shape))
        inputs = (frozen, r, c, x_T, keys[2])
        theta, opt_state = update(algorithm, optimizer, theta, opt_state, *inputs)
    return eqx.combine(theta, frozen)


if __name__ == "__main__":
    tiny = draftx.add_lora(draftx.load("tiny"), rank=4, key=jr.key(0))
    algorithm = Algorithm1(*(sys.argv[1:] or ["draft-lv"]), T=5, w=4.0)
    reward, prompts = draftx.rewards.JPEGCompressibility(), ["a fox, 3d style"]
    tuned = train(algorithm, tiny, reward, prompts, jr.key(1))
    for model in (tiny, tuned):
        images = draftx.sample(model, prompts * 4, draftx.Sampling(5, 4.0))
        print(float(jnp.mean(reward(images))))
