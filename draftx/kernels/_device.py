"""The device that a program is compiled for: the one question that kernels ask."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import jax

from ._cudnn_questions import answering


_PLATFORMS: Final = ("cpu", "cuda", "rocm", "tpu")
# Where JAX's cuDNN calls run at all.
_AMPERE: Final = (8, 0)


class Device(NamedTuple):
    """Names what of a device the choice of a kernel depends on.

    **Arguments:**

    - `platform`: `"cpu"`, `"cuda"`, `"rocm"`, `"tpu"` or another name of JAX's.
    - `compute_capability`: Of a CUDA device, such as `(9, 0)`; otherwise `None`.
    """

    platform: str
    compute_capability: tuple[int, int] | None = None


# Of each thread. It is part of the key of all of JAX's caches: what was traced for one
# device is never taken for another.
_compiled_for = jax.make_user_context(None)


def target_device() -> Device:
    """Tells which device a program that is traced now is compiled for.

    **Returns:**

    That of the innermost `compiling_for`; without one, where JAX puts what is not told
    otherwise.
    """
    chosen: Device | None = _compiled_for.value
    return current_device() if chosen is None else chosen


def current_device() -> Device:
    """Tells where JAX puts arrays: `jax.default_device`, if it is set."""
    # A device, the name of a platform, or None.
    default: Any = getattr(jax.config, "jax_default_device", None)
    if not isinstance(default, jax.Device):
        default = jax.local_devices(backend=default)[0]
    if default.platform != "gpu":
        return Device(default.platform)
    # CUDA devices say "9.0" here and ROCm devices "gfx942", if anything.
    text = str(getattr(default, "compute_capability", ""))
    match = re.fullmatch(r"(\d+)\.(\d+)", text)
    if match is None:
        return Device("rocm")
    return Device("cuda", (int(match[1]), int(match[2])))


def compiling_for(
    platform: str, compute_capability: tuple[int, int] | None = None
) -> contextlib.AbstractContextManager[Device]:
    """Chooses every kernel for a device that need not be present, while it is entered.

    Tracing and lowering have to happen inside; then the program is the one that this
    device would be sent. It is for looking at or for compiling ahead of time:

    ```python
    with draftx.kernels.compiling_for("cuda", (9, 0)):
        traced = jax.jit(jax.grad(loss)).trace(*arguments)
        lowered = traced.lower(lowering_platforms=("cuda",))
    assert "__cudnn$fmhaSoftmaxBackward" in lowered.as_text()
    ```

    Arguments may be `jax.ShapeDtypeStruct`s. A function that has been traced before,
    inside or outside, is traced again where the device is another one. The context
    holds in the thread that entered it, and the innermost one counts.

    **Arguments:**

    - `platform`: `"cpu"`, `"cuda"`, `"rocm"` or `"tpu"`.
    - `compute_capability`: Of a CUDA device, such as an A100's `(8, 0)` or an H100's
        and H200's `(9, 0)`. `None` is `(8, 0)`, whose kernels later devices have too.

    **Returns:**

    A context manager that gives the `Device`.

    !!! info

        Before JAX calls cuDNN's attention, it asks the devices present for their
        compute capability and the library for its version. While a CUDA device is
        compiled for, this context answers instead, in its own thread.
    """
    if platform not in _PLATFORMS:
        raise ValueError(
            f"`platform` must be one of {list(_PLATFORMS)}; got {platform!r}."
        )
    if platform != "cuda" and compute_capability is not None:
        raise ValueError(
            "`compute_capability` is of CUDA devices; got "
            f"{compute_capability!r} for {platform!r}. Leave it out."
        )
    if platform == "cuda" and compute_capability is None:
        compute_capability = _AMPERE
    return _entered(Device(platform, compute_capability))


@contextlib.contextmanager
def _entered(device: Device) -> Iterator[Device]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_compiled_for(device))
        if device.platform == "cuda":
            stack.enter_context(answering(_target_capability))
        yield device


def _target_capability() -> tuple[int, int] | None:
    chosen: Device | None = _compiled_for.value
    return None if chosen is None else chosen.compute_capability
