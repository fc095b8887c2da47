"""What to say of an error that a user can do something about."""

import jax

from ..._hosts import are_several, HostError
from ...io import ModelFileError
from ...rewards import RewardError
from ..folder import RunInUseError


def explain(error: BaseException) -> str | None:
    """Says in a line or two what went wrong and what to do.

    **Arguments:**

    - `error`: Raised by a command. `None` is given for one that is a mistake of the
        program, whose traceback is wanted.
    """
    if isinstance(error, HostError):
        return f"{error} The same command, started again on all, goes on from there."
    if _is_of_another_host(error):
        return (
            "another process of this training has ended, or cannot be reached; it "
            "says why itself. The same command, started again on all hosts, goes on "
            f"from the newest checkpoint. JAX said: {_first_line(error)}"
        )
    if isinstance(error, ValueError | ModelFileError | RewardError | RunInUseError):
        return str(error)
    if isinstance(error, OSError):
        where = f" {str(error.filename)!r}:" if error.filename is not None else ""
        return (
            f"a file could not be read or written:{where} {error.strerror or error}. "
            "What was saved before is as it was; the same command goes on from there."
        )
    if isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError)
        and "RESOURCE_EXHAUSTED" in str(error)
    ):
        return (
            "the device is out of memory. In this order: `--memory.remat step` "
            "or `nested` computes more again in the backward pass; "
            "`--memory.images-at-once 1` decodes and scores one image at a time; "
            "`--dtype bfloat16` halves the model; a smaller `--train-batch-size`, with "
            "`--gradient-accumulation-steps` to make up for it. The same command goes "
            f"on from the newest checkpoint. JAX said: {_first_line(error)}"
        )
    return None


def _is_of_another_host(error: BaseException) -> bool:
    # Of the collectives of a CPU, and of JAX's own watch over its processes.
    signs = ("Gloo", "coordination service", "NCCL")
    return are_several() and any(sign in str(error) for sign in signs)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
