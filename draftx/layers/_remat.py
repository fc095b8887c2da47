from collections.abc import Callable
from typing import Any, get_args, Literal, TypeAlias

import equinox as eqx


# What the backward pass computes again instead of keeping it, from nothing to most.
Remat: TypeAlias = Literal["none", "ff", "block", "step", "nested"]
_Call: TypeAlias = Callable[..., Any]


def check_remat(remat: str) -> None:
    """Raises unless `remat` names a tier."""
    if remat not in get_args(Remat):
        raise ValueError(
            f"`remat` must be one of {', '.join(map(repr, get_args(Remat)))}; got "
            f"{remat!r}."
        )


def checkpoint_if(active: bool, call: _Call) -> _Call:
    """`call`, its inside forgotten and computed again by the backward pass, or not.

    The barrier that keeps the compiler from joining the two computations also makes the
    second one wait for the gradient that needs it: blocks are recomputed one by one,
    not all at once.
    """
    return eqx.filter_checkpoint(call) if active else call
