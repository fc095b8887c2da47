"""What networks compute in."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..formats import AbstractTensors


# Instead of a dtype: that of the file.
_STORED = "stored"


def check_dtype(dtype: Any) -> np.dtype:
    """Finds the dtype to compute in; float32 for `None`.

    **Arguments:**

    - `dtype`: float32, bfloat16 or float16, anything else being a `ValueError`.
    """
    accepted = [jnp.dtype(t) for t in (jnp.float32, jnp.bfloat16, jnp.float16)]
    try:
        return accepted[
            accepted.index(jnp.dtype(jnp.float32 if dtype is None else dtype))
        ]
    except (TypeError, ValueError) as e:
        names = [t.name for t in accepted]
        raise ValueError(
            f"`dtype` must be None or one of {names}; got {dtype!r}."
        ) from e


def check_dtype_or_stored(dtype: Any) -> Any:
    """Finds the dtype to compute in, or leaves `"stored"`, which is that of the file.

    **Arguments:**

    - `dtype`: What [`draftx.load`][] is given.
    """
    return (
        _STORED if isinstance(dtype, str) and dtype == _STORED else check_dtype(dtype)
    )


def resolved_dtype(dtype: Any, file: AbstractTensors) -> Any:
    """Finds the dtype of a network: one that was asked for, or the widest of its file.

    **Arguments:**

    - `dtype`: From `check_dtype_or_stored`.
    - `file`: The weights of the network.
    """
    if dtype != _STORED:
        return dtype
    found = set(file.dtypes.values())
    widest = next((name for name in ("F64", "F32", "BF16", "F16") if name in found), "")
    return jnp.dtype(
        {"BF16": jnp.bfloat16, "F16": jnp.float16}.get(widest, jnp.float32)
    )
