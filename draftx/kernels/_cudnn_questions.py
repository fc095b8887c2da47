"""What JAX asks of the machine before it calls cuDNN's attention.

It asks while it traces, and asks the devices present: without other answers nothing
that calls cuDNN could be compiled on a machine without it.
"""

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias


# Of the CUDA device that this thread compiles for; `None` if it does for none.
_Capability: TypeAlias = Callable[[], tuple[int, int] | None]

_MODULE: Final = "jax._src.cudnn.fused_attention_stablehlo"
# Later than every version that JAX tells apart.
_CUDNN_VERSION: Final = 91200

# The questions are functions of a module, which all threads share: they are replaced
# while any thread needs that, and answer a thread that does not as JAX would.
_lock = threading.Lock()
_originals: dict[str, Callable[..., Any]] = {}
_num_entered = 0


@contextlib.contextmanager
def answering(capability: _Capability) -> Iterator[None]:
    """Answers JAX's questions by the device compiled for, while it is entered."""
    global _num_entered
    module: Any = importlib.import_module(_MODULE)
    with _lock:
        if _num_entered == 0:
            for name, answer in _answers(capability).items():
                _originals[name] = getattr(module, name)
                setattr(module, name, answer)
        _num_entered += 1
    try:
        yield
    finally:
        with _lock:
            _num_entered -= 1
            if _num_entered == 0:
                for name, original in _originals.items():
                    setattr(module, name, original)


def _answers(capability: _Capability) -> dict[str, Callable[..., Any]]:
    def answer(name, by_capability):
        def asked(*args):
            target = capability()
            return (
                _originals[name](*args)
                if target is None
                else by_capability(target, *args)
            )

        return asked

    answers: dict[str, Callable[..., Any]] = {
        "check_cudnn_version": lambda _: _CUDNN_VERSION,
        "check_compute_capability": lambda target, text: target >= _parsed(text),
        "is_cuda_compute_capability_equal": lambda target, text: (
            target == _parsed(text)
        ),
    }
    return {name: answer(name, by_target) for name, by_target in answers.items()}


def _parsed(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
