import jax
import jax.numpy as jnp


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """Gives the dtype that statistics are computed in: float32, or float64 for that.

    **Arguments:**

    - `dtype`: Of inputs.
    """
    # Tests run with strict promotion, under which asking the question is an error.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(dtype, jnp.float32)
