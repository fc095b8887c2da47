"""Anything as text that is equal in another process if it would compute the same."""

import dataclasses
import functools as ft
import hashlib
import types
from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ._mesh import to_host


# Whose functions are known by their names: another release has other code of them.
_KNOWN: Final = ("draftx", "optax", "jax", "equinox", "numpy", "functools", "builtins")


def fingerprint(value: Any) -> str:
    """Describes a value with all that is inside: numbers, arrays, functions.

    Of a function the name counts and what it closes over, and for one that is not of a
    known package its code too. What it finds in its module is not looked at.

    **Arguments:**

    - `value`: An object of options, an optimizer, a reward.

    **Returns:**

    Text; of a long one the beginning, and a digest of the whole.
    """
    text = _text(value, frozenset())
    if len(text) <= 240:
        return text
    return f"{text[:200]} ... #{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _text(value: Any, inside: frozenset[int]) -> str:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _of_array(value)
    if id(value) in inside:
        return "..."
    text = ft.partial(_text, inside=inside | {id(value)})
    if isinstance(value, Mapping):
        items = sorted((str(key), text(x)) for key, x in value.items())
        return "{" + ", ".join(f"{key}: {x}" for key, x in items) + "}"
    if isinstance(value, frozenset | set):
        return "{" + ", ".join(sorted(map(text, value))) + "}"
    name = type(value).__name__
    if isinstance(value, list | tuple):
        name = name if hasattr(value, "_fields") else ""
        return f"{name}({', '.join(map(text, value))})"
    if isinstance(value, types.MethodType):
        return f"{text(value.__self__)}.{value.__name__}"
    if isinstance(value, ft.partial):
        return (
            f"partial({text(value.func)}, {text(value.args)}, {text(value.keywords)})"
        )
    if isinstance(value, types.FunctionType):
        return _of_function(value, text)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [
            (f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)
        ]
        return f"{name}({', '.join(f'{key}={text(x)}' for key, x in fields)})"
    return str(getattr(value, "__qualname__", f"{type(value).__module__}.{name}"))


def _of_array(array: Any) -> str:
    if isinstance(array, jax.Array) and jnp.issubdtype(
        array.dtype, jax.dtypes.prng_key
    ):
        array = jr.key_data(array)
    if array.ndim == 0:
        return f"{array.dtype}({np.asarray(array)})"
    # Where the host has the memory of the device nothing is copied, and no program
    # compiled for every shape.
    if isinstance(array, jax.Array) and _is_of_cpu(array):
        array = to_host(array)
    # Another array has other numbers at its ends: quick for gigabytes.
    flat = array.reshape(-1)
    ends = b"".join(to_host(part).tobytes() for part in (flat[:16], flat[-16:]))
    digest = hashlib.sha256(ends).hexdigest()[:8]
    return f"{array.dtype}{list(array.shape)}#{digest}"


def _is_of_cpu(array: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in array.devices())


def _of_function(function: types.FunctionType, text: Any) -> str:
    cells = {}
    for name, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=True
    ):
        try:
            cells[name] = cell.cell_contents
        except ValueError:
            continue  # Not filled yet.
    parts = [f"{name}={text(x)}" for name, x in sorted(cells.items())]
    if (function.__module__ or "").split(".")[0] not in _KNOWN:
        parts += [text(function.__defaults__), f"#{_of_code(function.__code__)}"]
    return f"{function.__qualname__}({', '.join(parts)})"


def _of_code(code: types.CodeType) -> str:
    digest = hashlib.sha256(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames)).encode())
    for constant in code.co_consts:
        is_code = isinstance(constant, types.CodeType)
        text = _of_code(constant) if is_code else _text(constant, frozenset())
        digest.update(text.encode())
    return digest.hexdigest()[:8]
