import jax.numpy as jnp
import optax

from ..._checks import finite, positive
from ..._custom_types import RealLike


def square_root_decay(learning_rate: RealLike, *, s0: RealLike) -> optax.Schedule:
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
    rate = positive("learning_rate", learning_rate)
    first = finite("s0", s0, "be finite and at least 1", lambda x: x >= 1)

    def schedule(count):
        step = jnp.asarray(count, jnp.float32) + 1.0
        return rate * jnp.minimum(1.0, first / jnp.sqrt(step))

    return schedule
