"""What all files of weights have in common: names, shapes, and reading one by one."""

import abc
from typing import Any

import jax.numpy as jnp
import numpy as np

from ._errors import first_five, ModelFileError


_FLOATS = ("F64", "F32", "F16", "BF16")


class AbstractTensors(abc.ABC):
    """Reads tensors by name, each when it is asked for.

    `name` is the file's, for error texts; `shapes` and `dtypes` are known beforehand,
    the latter called as in safetensors.
    """

    name: str
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    @abc.abstractmethod
    def read_exactly(self, key: str) -> np.ndarray:
        """Reads one tensor as it was written, whatever its dtype and values.

        **Arguments:**

        - `key`: The name of the tensor.
        """

    def check_dtypes(self, keys: list[str]) -> None:
        """Raises unless the tensors named are floats of at least 16 bits."""
        wrong = [
            f"{k}: {self.dtypes[k]}" for k in keys if self.dtypes[k] not in _FLOATS
        ]
        if wrong:
            raise ModelFileError(
                f"{self.name!r} must hold weights in one of {list(_FLOATS)}; "
                f"{len(wrong)} are not: {first_five(wrong)}. Quantized files are not "
                "supported; use the float16, bfloat16 or float32 one."
            )

    def read(self, key: str, dtype: Any) -> np.ndarray:
        """Reads one tensor, cast; a value that is not finite is an error.

        **Arguments:**

        - `key`: The name of the tensor.
        - `dtype`: To be cast to.
        """
        array = self.read_exactly(key)
        with np.errstate(over="ignore"):
            cast = array.astype(dtype, copy=False)
        if not np.isfinite(cast).all():
            cause = "are not finite"
            if np.isfinite(array).all():
                cause = f"are too large for {jnp.dtype(dtype).name}"
            raise ModelFileError(
                f"{self.name!r} must hold finite weights; values of {key!r} {cause}."
            )
        return cast


def dtype_name(dtype: Any) -> str:
    """Names a dtype as safetensors does, or by its own name if that has none.

    **Arguments:**

    - `dtype`: What NumPy takes for one.
    """
    name = jnp.dtype(dtype).name
    return _NAMES.get(name, name)


_NAMES = dict(
    float64="F64",
    float32="F32",
    float16="F16",
    bfloat16="BF16",
    int64="I64",
    int32="I32",
    int16="I16",
    int8="I8",
    uint64="U64",
    uint32="U32",
    uint16="U16",
    uint8="U8",
    float8_e4m3fn="F8_E4M3",
    float8_e5m2="F8_E5M2",
    bool="BOOL",
)
DTYPES = {name: jnp.dtype(dtype) for dtype, name in _NAMES.items()}
