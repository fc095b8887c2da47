import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from .._custom_types import Images, Prompts


class AbstractReward(eqx.Module):
    """Scores images. Larger is better; every reward is differentiable in `images`."""

    def prepare(self, prompts: Prompts) -> Any:
        """What `__call__` is given of the prompts: arrays with one row for each.

        Called on the host, once for a set of prompts: words become numbers here, and
        what does not depend on the images is computed here. `None`, which is what this
        method gives unless a reward has its own, stands for a reward that looks at the
        images alone.
        """
        del prompts
        return None

    @abc.abstractmethod
    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        """**Arguments:**

        - `images`: Channels last, in $[0, 1]$.
        - `prompts`: The rows of `prepare` for these images, or `None`.

        **Returns:**

        One score per image, in float32, not averaged over the batch.
        """
