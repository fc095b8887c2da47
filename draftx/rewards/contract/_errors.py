"""What is wrong with a reward, in words of its own."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax


class RewardError(ValueError):
    """Says that a reward gave something other than one finite score for each image.

    Or that it has no gradient although a method needs it. Raised by `finetune`, its
    `result` is what had been reached before.
    """

    result: Any = None


@contextlib.contextmanager
def traced_by_jax() -> Iterator[None]:
    """Names the remedy where a function wants numbers that JAX does not have yet.

    Used around a user's function, which a compiled program gives tracers for images:
    NumPy, PIL, PyTorch, `float` and `if` make nothing of these.
    """
    try:
        yield
    except jax.errors.UnexpectedTracerError:
        raise  # One of another program was kept: that is another mistake.
    except Exception as e:
        # Errors of other libraries name the class that they were given.
        if not isinstance(e, _WANT_NUMBERS) and "Tracer" not in str(e):
            raise
        raise RewardError(
            "`reward` must be a function that JAX can trace, written with `jax.numpy`; "
            "this one needs the images' numbers, as NumPy, PyTorch, `float` and `if` "
            "do. For a function of NumPy images give `draftx.rewards.HostReward(fn)`, "
            f"which has no gradient. It failed with: {str(e).splitlines()[0]}"
        ) from e


_WANT_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
