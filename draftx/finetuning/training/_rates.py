import math

import jax.numpy as jnp
import optax

from ..._custom_types import Real


def square_root_decay(learning_rate: Real, *, s0: Real) -> optax.Schedule:
    r"""Makes a learning rate that falls with the square root of the step.

    $$\eta_s = \eta \min(1, s_0 / \sqrt{s}), \qquad s = 1, 2, \ldots$$

    Constant for the first $s_0^2$ steps.

    !!! info

        The paper uses such a decay for its runs of 10,000 steps and does not say where
        it begins: $s_0$ is for you to choose. With $s_0 = 10$ it begins after 100
        steps and ends at a tenth.

    **Arguments:**

    - `learning_rate`: $\eta$.
    - `s0`: $s_0$, at least 1.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(
            f"`learning_rate` must be finite and positive; got {learning_rate}."
        )
    if not (math.isfinite(s0) and s0 >= 1):
        raise ValueError(f"`s0` must be finite and at least 1; got {s0}.")

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1.0
        return learning_rate * jnp.minimum(1.0, s0 / jnp.sqrt(step))

    return schedule
