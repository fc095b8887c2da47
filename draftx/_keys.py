from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray


def check_key(key: Any, name: str = "key") -> PRNGKeyArray:
    """Returns the argument `name`; raises unless it is one key of `jax.random`.

    **Arguments:**

    - `key`: Made by `jax.random.key`, or by `jax.random.PRNGKey`, of old.
    - `name`: Of the argument.
    """
    got = f"{key!r}"
    remedy = "`jax.random.key(0)`"
    if isinstance(key, jax.Array | np.ndarray):
        is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        # A key of old is a row of numbers.
        if key.ndim == (0 if is_typed else 1) and (is_typed or key.dtype == np.uint32):
            return jnp.asarray(key)
        got = f"{key.shape} {key.dtype}"
        if is_typed:
            remedy = f"`{name}[0]` of several"
    elif isinstance(key, int | np.integer) and not isinstance(key, bool):
        remedy = f"`jax.random.key({key})`"
    raise ValueError(
        f"`{name}` must be one key of `jax.random`, such as {remedy}; got {got}."
    )
