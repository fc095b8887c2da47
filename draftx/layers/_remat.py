import enum
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax

from ._pieces import GATHERED, gathered, has_pieces


_Call: TypeAlias = Callable[..., Any]


class Remat(enum.StrEnum):
    """Says what the backward pass computes again: a tier of rematerialisation.

    What is computed again need not be kept. From nothing to the most, `Remat("step")`
    and so on; all that a tier means is said here, and networks ask for their own part.
    `Remat("auto")` leaves the choice to whoever trains; without one it is `"step"`.
    """

    AUTO = "auto"
    NONE = "none"
    FF = "ff"
    BLOCK = "block"
    STEP = "step"
    NESTED = "nested"

    @classmethod
    def _missing_(cls, value: object) -> "Remat":
        names = ", ".join(repr(tier.value) for tier in cls)
        raise ValueError(f"`remat` must be one of {names}; got {value!r}.")

    @property
    def steps(self) -> bool:
        """Whole sampling steps: the chain keeps one latent a step."""
        return self in (Remat.AUTO, Remat.STEP, Remat.NESTED)

    @property
    def transformers(self) -> bool:
        """The UNet's transformers: little more than the feature maps is kept."""
        return self in (Remat.BLOCK, Remat.NESTED)

    @property
    def residual_blocks(self) -> bool:
        """The UNet's residual blocks, which otherwise keep the input of their norms."""
        return self is Remat.NESTED

    @property
    def feed_forwards(self) -> bool:
        """The feed-forward layers of the UNet's transformers, and nothing else."""
        return self is Remat.FF

    @property
    def scoring(self) -> bool:
        """What comes after the chain: blocks of the decoder, layers of a reward."""
        return self not in (Remat.NONE, Remat.FF)

    @property
    def where_largest(self) -> "Remat":
        """The tier where a UNet's feature maps are largest, in its first block.

        A step that is computed again keeps all of its inside for a moment: the first
        block is a tenth of the network's work, and a sixth of what is kept.
        """
        return Remat.NESTED if self in (Remat.AUTO, Remat.STEP) else self

    @property
    def within_step(self) -> "Remat":
        """The tier for a step whose gradient is taken at once: not computed twice."""
        return Remat.NONE if self in (Remat.AUTO, Remat.STEP) else self


def checkpoint_if(active: bool, call: _Call) -> _Call:
    """Wraps `call` so that its inside is forgotten and computed again, or does not.

    The barrier that keeps the compiler from joining the two computations also makes the
    second one wait for the gradient that needs it: blocks are recomputed one by one,
    not all at once.

    Weights that are divided over devices are gathered inside, and forgotten in either
    case: the backward pass gathers them again.

    **Arguments:**

    - `active`: Whether to.
    """

    def checkpointed(*args: Any) -> Any:
        if active:
            return eqx.filter_checkpoint(_call_whole)(call, *args)
        if has_pieces((call, args)):
            return eqx.filter_checkpoint(_call_whole, policy=_ALL_BUT_WEIGHTS)(
                call, *args
            )
        return call(*args)

    return checkpointed


_ALL_BUT_WEIGHTS = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)


def _call_whole(call: _Call, *args: Any) -> Any:
    call, args = gathered((call, args))
    return call(*args)
